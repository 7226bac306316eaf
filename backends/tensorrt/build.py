# SPDX-License-Identifier: Apache-2.0
"""From a network to an engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.backends.tensorrt import profiles as shapes
from burnish.backends.tensorrt.module import errors, logger, messages
from burnish.backends.tensorrt.options import BuildOptions
from burnish.backends.tensorrt.progress import Progress, watched
from burnish.errors import BurnishError, InputError, UnavailableError
from burnish.files import write_aside

if TYPE_CHECKING:
    from burnish.backends.profiles import Profile

_NO_GPU = re.compile(r"cudaError|CUDA_ERROR|CUDA_SUCCESS|CUDA initialization|no CUDA-capable")

_USUAL = re.compile(r"Converting \w+ (activation|weight) scales to fp32")


def builder(trt: Any) -> Any:
    """Return a builder.

    Raises:
        UnavailableError: the module needs a GPU to build, and there is none.
    """
    with messages(trt) as lines:
        try:
            return trt.Builder(logger(trt))
        except (TypeError, RuntimeError) as error:  # the factory returned nothing
            why = "; ".join(errors(lines)) or str(error)
            raise UnavailableError(
                f"{trt.__name__} builds on a machine with the GPU alone: {why}",
                hint="build with --target tensorrt-rtx:sm89, which needs no GPU, or check the "
                "driver: nvidia-smi",
            ) from error


def configure(
    trt: Any,
    maker: Any,
    options: BuildOptions,
    profiles: Sequence[Profile],
    capability: str | None,
) -> tuple[Any, tuple[str, ...]]:
    """Return a builder's configuration, and one line for each option that has no effect in it.

    Raises:
        InputError: TensorRT refuses the shapes of a profile, or the module lacks an option.
    """
    config = maker.create_builder_config()
    ignored: list[str] = []
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.level is not None:
        config.builder_optimization_level = options.level
    wanted = {
        "VERSION_COMPATIBLE": options.version_compatible,
        # The lean runtime within an engine is a library for this system; ours loads its own.
        "EXCLUDE_LEAN_RUNTIME": options.version_compatible,
        "REFIT": options.refit,
        "STRIP_PLAN": options.strip,
        "SPARSE_WEIGHTS": options.sparse,
        "WEIGHT_STREAMING": options.streaming,
    }
    for name, want in wanted.items():
        if want:
            config.set_flag(_member(trt, "BuilderFlag", name))
    (config.set_flag if options.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    if options.hardware_compatible:
        if capability is not None or _is_rtx(trt):
            ignored.append("hardware_compatible has no effect: engines of RTX name their GPUs")
        else:
            level = _member(trt, "HardwareCompatibilityLevel", "AMPERE_PLUS")
            config.hardware_compatibility_level = level
    if options.timing_cache is not None and _is_rtx(trt):
        ignored.append("timing_cache has no effect: TensorRT for RTX times no kernels as it builds")
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.__members__[capability.upper()], 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    shapes.add(maker, config, profiles)
    return config, tuple(ignored)


def write(
    trt: Any,
    maker: Any,
    network: Any,
    config: Any,
    path: Path,
    *,
    options: BuildOptions,
    show: Progress | None = None,
) -> tuple[str, ...]:
    """Build an engine and write it to `path`; returns TensorRT's warnings.

    Raises:
        UnavailableError: it takes a GPU, and there is none.
        BurnishError: TensorRT fails; says what it says.
        KeyboardInterrupt: as the user asked; nothing is written.
    """
    cache = None
    if options.timing_cache is not None and not _is_rtx(trt):
        cache = Path(options.timing_cache)
        kept = config.create_timing_cache(cache.read_bytes() if cache.is_file() else b"")
        config.set_timing_cache(kept, False)

    def build() -> Any:
        return maker.build_serialized_network(network, config)

    with messages(trt) as lines:
        label = f"engine {path.stem}"
        plan = build() if show is None else watched(trt, config, build, show, label)
    if plan is None:
        raise _failure(trt, errors(lines), options)
    with write_aside(path) as aside, aside.open("wb") as file:
        file.write(memoryview(plan))
    if cache is not None:
        with write_aside(cache) as aside:
            aside.write_bytes(memoryview(config.get_timing_cache().serialize()))
    return tuple(dict.fromkeys(line for line in lines if not _USUAL.search(line)))


def _failure(trt: Any, found: list[str], options: BuildOptions) -> BurnishError:
    text = "; ".join(found) or "TensorRT gives no reason"
    if _NO_GPU.search(text):
        asked = [name for name in ("strip", "refit") if getattr(options, name)]
        if asked:
            return UnavailableError(
                f"{trt.__name__} {trt.__version__} needs a GPU to build with {' and '.join(asked)}",
                hint="build there, or without: weights are then part of the engine",
            )
        return UnavailableError(
            f"{trt.__name__} needs a GPU for this build: {_short(text)}",
            hint="check the driver with nvidia-smi",
        )
    if re.search(r"memory|MEM_ALLOC|bad_alloc", text, re.IGNORECASE):
        return BurnishError(
            f"TensorRT ran out of memory: {_short(text)}",
            hint="build for smaller shapes (--shapes) or limit workspace=MiB",
        )
    if re.search(r"2 ?GB|2147483647|2\^31", text):
        return InputError(
            f"TensorRT does not take a model of this size: {_short(text)}",
            hint="make it smaller (float16, quant), or cut it: burnish partition",
        )
    return InputError(f"TensorRT builds no engine: {_short(text)}", hint=_advice(text))


def _advice(text: str) -> str:
    if "profile" in text.lower() or "shape" in text.lower() or "dimension" in text.lower():
        return "the shapes asked for may be impossible in this model: choose others with --shapes"
    return "find the pass at fault: burnish bisect"


def _short(text: str) -> str:
    """TensorRT's words, up to where they are about its own sources."""
    text = re.sub(r" ?\(?In \w+ at /_src\S*\)?", "", text)
    return text if len(text) <= 400 else f"{text[:400]}..."


def _member(trt: Any, kind: str, name: str) -> Any:
    members = getattr(trt, kind).__members__
    if name not in members:
        raise InputError(f"{trt.__name__} {trt.__version__} has no {kind}.{name}")
    return members[name]


def _is_rtx(trt: Any) -> bool:
    return bool(trt.__name__ == "tensorrt_rtx")
