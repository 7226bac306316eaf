# SPDX-License-Identifier: Apache-2.0
"""Kind `tensorrt-engine`: an engine for each compute capability, or one for the GPU that is here.

An engine is bound to the version of TensorRT that built it (`version_compatible` loosens that) and
to the compute capabilities it was compiled for. TensorRT for RTX, told none, compiles one engine
that runs on all GPUs from Ampere on.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

from burnish.backends.artifact.kinds import Built, Request
from burnish.backends.artifact.manifest import Manifest
from burnish.backends.base import Session
from burnish.backends.settings import SessionSettings
from burnish.backends.tensorrt import build as building
from burnish.backends.tensorrt import gpu, module, parse, plan, profiles, surgery
from burnish.backends.tensorrt.options import BuildOptions
from burnish.errors import InputError

MODEL = "model.onnx"
"""The weights of an engine without them."""


def build(request: Request) -> Built:
    """Write `NAME.engine` for each compute capability, or `any.engine`, or `here.engine`.

    Where nodes are refused that are to be left to ONNX Runtime, it is kind `staged` that is built.

    Raises:
        UnsupportedError: the parser refuses nodes, or inputs or outputs are float64, and they are
            not left to ONNX Runtime; they are named before anything is built.
        InputError: options or profiles are wrong, or a GPU is needed and missing.
        BurnishError: TensorRT fails.
    """
    options = BuildOptions.of(request.options)
    try:
        return _engines(request, options)
    except parse.UnsupportedError:
        if options.fallback is None:
            raise
    return _staged(request, options)


def _engines(request: Request, options: BuildOptions) -> Built:
    from burnish.backends.onnxfile import save

    name, _, devices = request.target.name.partition(":")
    if name not in module.MODULES:
        raise InputError(
            f"engines are not built for target {request.target.name}",
            hint="choose --target tensorrt-rtx:sm89,sm120 or tensorrt",
        )
    trt = module.load(name)
    shapes, derived = profiles.resolve(request.model, request.profiles)
    maker = building.builder(trt)
    _load_plugins(trt, options)
    warnings = [] if derived is None else [derived]
    portable = "any" if name == "tensorrt-rtx" else "here"
    engines: dict[str, dict[str, Any]] = {}
    model = surgery.prepare(request.model)
    warnings += parse.check_float64(model, strict=options.fallback is not None)
    with tempfile.TemporaryDirectory(dir=request.folder) as aside:
        path = Path(aside) / MODEL
        save(model, path)
        parsed = parse.read(trt, maker, path, model)
        for device in devices.split(",") if devices else (None,):
            config, ignored = building.configure(trt, maker, options, shapes, device)
            warnings += ignored
            file = request.folder / f"{device or portable}.engine"
            warnings += building.write(
                trt, maker, parsed.network, config, file, options=options, show=request.progress
            )
            engines[file.name] = {
                "compute_capability": device or _built_for(name),
                "structure": plan.read(file).summary(),
            }
        if options.strip:
            save(model, request.folder / MODEL)
    entry = next(iter(engines))
    return Built(
        entry,
        requires={
            name: trt.__version__,
            "compute_capability": sorted(
                e["compute_capability"] or portable for e in engines.values()
            ),
            "version_compatible": options.version_compatible,
        },
        details={
            "engines": engines,
            "options": options.as_dict(),
            "network": network(parsed.network),
        },
        versions={name: trt.__version__},
        profiles=shapes,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _staged(request: Request, options: BuildOptions) -> Built:
    """Engines of what TensorRT takes, models for ONNX Runtime of what it refuses."""
    from burnish.backends.artifact import staged
    from burnish.backends.tensorrt import fallback

    trt = module.load(request.target.name.partition(":")[0])
    shapes, derived = profiles.resolve(request.model, request.profiles)
    model = surgery.prepare(request.model).clone()
    found = fallback.split(trt, building.builder(trt), model, shapes)
    own = {key: value for key, value in options.as_dict().items() if key != "fallback"}
    parts = [
        staged.Part("tensorrt-engine", stage, spans, own) if engine else staged.Part("onnx", stage)
        for stage, engine, spans in zip(
            found.parts.stages, found.engines, found.profiles, strict=True
        )
    ]
    details = {
        "options": options.as_dict(),
        "left": [dataclasses.asdict(item) for item in found.left],
    }
    built = staged.write(request, parts, details)
    lines = (
        (str(found), *built.warnings) if derived is None else (derived, str(found), *built.warnings)
    )
    return dataclasses.replace(built, profiles=shapes, warnings=lines)


def load(folder: Path, manifest: Manifest, settings: SessionSettings) -> Session:  # noqa: ARG001
    """Load the engine for the GPU that is here; settings of ONNX Runtime mean nothing to it.

    Raises:
        UnavailableError: there is no GPU, its driver is too old, or none of the engines is for it
            or for this version of TensorRT.
    """
    from burnish.backends.tensorrt.runtime import EngineSession

    return EngineSession.open(folder, manifest)


def network(definition: Any) -> dict[str, Any]:
    """Layers of a network by kind, and by the type they give, before they are fused."""
    kinds: dict[str, int] = {}
    types: dict[str, int] = {}
    for index in range(definition.num_layers):
        layer = definition.get_layer(index)
        kinds[layer.type.name.lower()] = kinds.get(layer.type.name.lower(), 0) + 1
        if layer.num_outputs and layer.get_output(0) is not None:
            dtype = layer.get_output(0).dtype.name.lower()
            types[dtype] = types.get(dtype, 0) + 1
    return {
        "layers": definition.num_layers,
        "kinds": dict(sorted(kinds.items())),
        "types": dict(sorted(types.items())),
    }


def _built_for(target: str) -> str | None:
    """What an engine for no named compute capability runs on; None is every one from sm80 on."""
    return None if target == "tensorrt-rtx" else gpu.capability(gpu.runtime(target))


def _load_plugins(trt: Any, options: BuildOptions) -> None:
    for path in options.plugins:
        if not Path(path).is_file():
            raise InputError(f"there is no library of plugins at {path}", hint="check plugins=")
        _load_library(trt, path)


@functools.cache
def _load_library(trt: Any, path: str) -> Any:
    """Load a library once: it stays loaded as long as the process lives."""
    with module.messages(trt):  # which say nothing of why
        library = trt.get_plugin_registry().load_library(path)
    if library is None:
        raise InputError(
            f"{path} holds no plugins that TensorRT can load: {_no_library(path)}",
            hint="check plugins=",
        )
    return library


def _no_library(path: str) -> str:
    import ctypes

    try:
        ctypes.CDLL(path)
    except OSError as error:  # such as a library that it needs in turn
        return " ".join(str(error).split())
    return "it is a library without any"
