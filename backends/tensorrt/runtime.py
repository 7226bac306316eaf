# SPDX-License-Identifier: Apache-2.0
"""Run an engine on the GPU that is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from burnish.backends.profiles import Profile, choose
from burnish.backends.tensorrt import gpu, module, plan
from burnish.backends.tensorrt.gpu import Buffer
from burnish.errors import BurnishError, InputError, UnavailableError

if TYPE_CHECKING:
    from burnish.backends.artifact.manifest import Manifest

Array = np.ndarray[Any, np.dtype[Any]]

# TensorRT's name of an element type -> ONNX's, where they differ.
_DTYPES = {"HALF": "FLOAT16", "BF16": "BFLOAT16", "FP8": "FLOAT8E4M3FN"}

# TensorRT for RTX, told no compute capability: NVIDIA, "CPU-Only AOT and TensorRT-RTX Engines".
_PORTABLE = (80,)


def pick(manifest: Manifest, capability: str) -> str:
    """The file of the engine for a GPU.

    Raises:
        UnavailableError: there is none; says which there are.
    """
    engines = {
        str(name): about["compute_capability"]
        for name, about in manifest.details["engines"].items()
    }
    for name, built_for in engines.items():
        portable = built_for is None and _number(capability) >= _PORTABLE
        if built_for == capability or portable:
            return name
    there = ", ".join(built_for or "sm80 and later" for built_for in engines.values())
    base = manifest.target.partition(":")[0]
    again = f"{base}:{capability}" if base == "tensorrt-rtx" else base
    raise UnavailableError(
        f"the artefact has engines for {there}; this GPU is {capability}",
        hint=f"build it with --target {again}",
    )


def check_version(manifest: Manifest, installed: str) -> None:
    """Refuse an engine of another version of TensorRT.

    Raises:
        UnavailableError: the installed version does not load it.
    """
    name = manifest.target.partition(":")[0]
    built = str(manifest.requires[name])
    same = built == installed
    if manifest.requires.get("version_compatible"):
        same = built.split(".")[0] == installed.split(".")[0] and _number(built) <= _number(
            installed
        )
    if not same:
        raise UnavailableError(
            f"the engine was built by {name} {built}; {installed} is installed",
            hint="install that version, build the engine again, or build it with "
            "version_compatible=true",
        )


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.removeprefix("sm").split(".") if part.isdecimal())


class EngineSession:
    """A loaded engine: a `burnish.backends.base.Session`."""

    def __init__(
        self,
        trt: Any,
        cuda: Any,
        engine: Any,
        profiles: Sequence[Profile],
    ) -> None:
        self._trt, self._cuda, self._engine = trt, cuda, engine
        self._profiles = tuple(profiles)
        self._context = engine.create_execution_context()
        if self._context is None:
            raise BurnishError(
                "the GPU has no room for the engine", hint="build it for smaller shapes (--shapes)"
            )
        self._stream = int(gpu.check(cuda, cuda.cudaStreamCreate()))
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        self._inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        self._buffers = {name: Buffer(cuda) for name in self._inputs}
        self._allocators = {name: _allocator(trt, cuda) for name in self._outputs}
        for name, allocator in self._allocators.items():
            self._context.set_output_allocator(name, allocator)

    @classmethod
    def open(cls, folder: Path, manifest: Manifest) -> Self:
        """Load the engine of an artefact that fits the GPU.

        Raises:
            MissingExtraError: TensorRT is not installed.
            UnavailableError: another version of it is, or there is no GPU that it is for.
            BurnishError: the engine does not load, or does not fit in the GPU's memory.
        """
        name = manifest.target.partition(":")[0]
        trt = module.load(name)
        check_version(manifest, trt.__version__)
        cuda = gpu.runtime(name)
        path = folder / pick(manifest, gpu.capability(cuda))
        with module.messages(trt) as lines:
            loader = trt.Runtime(module.logger(trt))
            engine = loader.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise BurnishError(
                f"{path.name} does not load: {'; '.join(module.errors(lines))}",
                hint="build it again for this GPU and this version of TensorRT",
            )
        stripped = folder / "model.onnx"
        if manifest.details.get("options", {}).get("strip"):
            _refit(trt, engine, stripped)
        return cls(trt, cuda, engine, manifest.profiles)

    @property
    def structure(self) -> plan.Structure:
        """What the engine inspector says of it."""
        return plan.inspected(self._engine, self._trt)

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Compute outputs, all of them by default, from an array per input.

        Raises:
            InputError: an input is missing, or no profile covers the shapes.
            BurnishError: the GPU fails.
        """
        if self._context is None:
            raise BurnishError("the engine is closed")
        missing = [name for name in self._inputs if name not in feeds]
        if missing:
            raise InputError(f"input {missing[0]!r} is missing")
        if self._profiles:
            self._switch(choose(self._profiles, {n: np.shape(feeds[n]) for n in self._inputs}))
        held = [self._feed(name, np.asarray(feeds[name], order="C")) for name in self._inputs]
        with module.messages(self._trt) as lines:
            done = self._context.execute_async_v3(self._stream)
        if not done:
            raise BurnishError(f"the engine fails: {'; '.join(module.errors(lines))}")
        wanted = self._outputs if outputs is None else outputs
        found = {name: self._fetch(name) for name in wanted}
        gpu.check(self._cuda, self._cuda.cudaStreamSynchronize(self._stream))
        del held  # the copies that were read from until now
        return found

    def _switch(self, profile: Profile) -> None:
        index = self._profiles.index(profile)
        if self._context.active_optimization_profile != index:
            self._context.set_optimization_profile_async(index, self._stream)
            gpu.check(self._cuda, self._cuda.cudaStreamSynchronize(self._stream))

    def _feed(self, name: str, array: Array) -> Array:
        dtype = self._dtype(name)
        if array.dtype != dtype:
            raise InputError(f"input {name!r} is {array.dtype}; the engine takes {dtype}")
        if not self._context.set_input_shape(name, array.shape):
            raise InputError(f"the engine takes no shape {list(array.shape)} of input {name!r}")
        on_host = self._engine.get_tensor_location(name) == self._trt.TensorLocation.HOST
        put = self._buffers[name].put
        address = array.ctypes.data if on_host else put(array, self._stream)
        self._context.set_tensor_address(name, address)
        return array

    def _fetch(self, name: str) -> Array:
        allocator = self._allocators[name]
        array = np.empty(allocator.shape, self._dtype(name))
        allocator.buffer.get(array, self._stream)
        return array

    def _dtype(self, name: str) -> np.dtype[Any]:
        import onnx_ir as ir

        known = self._engine.get_tensor_dtype(name).name
        return ir.DataType[_DTYPES.get(known, known)].numpy()

    def close(self) -> None:
        """Free the engine and its memory."""
        if self._context is None:
            return
        self._context = self._engine = None
        for buffer in (*self._buffers.values(), *(a.buffer for a in self._allocators.values())):
            buffer.free()
        self._cuda.cudaStreamDestroy(self._stream)


def _refit(trt: Any, engine: Any, path: Path) -> None:
    """Put the weights into an engine that was built without them."""
    refitter = trt.Refitter(engine, module.logger(trt))
    parser = trt.OnnxParserRefitter(refitter, module.logger(trt))
    with module.messages(trt) as lines:
        done = parser.refit_from_file(str(path)) and refitter.refit_cuda_engine()
    if not done:
        raise BurnishError(
            f"the weights of {path.name} do not fit the engine: {'; '.join(module.errors(lines))}",
            hint="build the artefact again",
        )


def _allocator(trt: Any, cuda: Any) -> Any:
    class Allocator(trt.IOutputAllocator):
        """Memory of one output, whose size may be known only as it is computed."""

        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.buffer = Buffer(cuda)
            self.shape: tuple[int, ...] = ()

        def reallocate_output(self, _name: str, _memory: int, size: int, _alignment: int) -> int:
            return self.buffer.reserve(size)

        def reallocate_output_async(
            self, _name: str, _memory: int, size: int, _alignment: int, _stream: int
        ) -> int:
            return self.buffer.reserve(size)

        def notify_shape(self, _name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    return Allocator()
