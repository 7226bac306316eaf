# SPDX-License-Identifier: Apache-2.0
"""Sessions of ONNX Runtime, over models in memory, in bytes or on disk."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from burnish.backends.base import Artifact, Capabilities, Closing
from burnish.backends.handover import hand_over
from burnish.errors import BurnishError, InputError, UnavailableError

if TYPE_CHECKING:
    import onnx_ir as ir
    import onnxruntime

    from burnish.backends.measure import Comparison, Runnable
    from burnish.backends.providers import Provider
    from burnish.backends.target import Target

    Array = np.ndarray[Any, np.dtype[Any]]

Optimize = Literal["off", "basic", "extended", "all"]

_LEVELS = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}

_CPU = "CPUExecutionProvider"


class TensorSpec(NamedTuple):
    """An input or output of a session.

    Attributes:
        name: Its name.
        dtype: Element type; ``UNDEFINED`` if it is a sequence, map or optional.
        shape: A size, a symbol or ``None`` (unknown) per axis.
    """

    name: str
    dtype: ir.DataType
    shape: tuple[int | str | None, ...]


class Session(Closing):
    """A model loaded into ONNX Runtime. Made by `session`; a context manager."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __init__(self, inner: Any, keep_alive: Sequence[object] = ()) -> None:
        self._inner = inner
        self._keep_alive = tuple(keep_alive)  # the runtime reads weights from these buffers
        self.inputs = tuple(map(_spec, inner.get_inputs()))
        self.outputs = tuple(map(_spec, inner.get_outputs()))
        self._output_names = [spec.name for spec in self.outputs]
        # NumPy has no type of its own for these; the quick way in and out of the runtime is shut.
        self._plain = all(
            spec.dtype.name not in _NO_NUMPY_TYPE for spec in (*self.inputs, *self.outputs)
        )

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Compute outputs.

        Args:
            feeds: An array per input name; types such as bfloat16 as `ml_dtypes` arrays.
            outputs: Names of the outputs wanted; all of them, in order, by default.

        Raises:
            InputError: a feed is missing, unknown, or of the wrong type or shape.
            BurnishError: the model fails on these values; names the node.
        """
        if self._inner is None:
            raise BurnishError("the session is closed")
        names = self._output_names if outputs is None else list(outputs)
        try:
            if self._plain:
                results = self._inner.run(names, feeds)
            else:
                values = {name: _to_ort(array) for name, array in feeds.items()}
                results = [_from_ort(v) for v in self._inner.run_with_ort_values(names, values)]
        except Exception as error:  # the runtime's exceptions share no base class
            raise run_error(error) from error
        return dict(zip(names, results, strict=True))

    @property
    def inner(self) -> Any:
        """The runtime's own session.

        Raises:
            BurnishError: the session is closed.
        """
        if self._inner is None:
            raise BurnishError("the session is closed")
        return self._inner

    def end_profiling(self) -> str:
        """Stop the profiler, if the session's options started it; returns the file it wrote."""
        return str(self.inner.end_profiling())

    def close(self) -> None:
        """Free the model. Further runs are errors."""
        self._inner = None
        self._keep_alive = ()


def session(
    model: ir.Model | Path | bytes,
    *,
    threads: int = 1,
    optimize: Optimize = "off",
    extra_outputs: Iterable[str] = (),
    prepack: bool = True,
    providers: Sequence[Provider] = (),
    disabled_optimizers: Sequence[str] = (),
    configure: Callable[[onnxruntime.SessionOptions], None] | None = None,
) -> Session:
    """Load a model into ONNX Runtime.

    Args:
        model: A model in memory, the path of an ONNX file, or an ONNX file's bytes. A model in
            memory must not be edited by another thread during the call, nor the files that its
            weights are mapped from be written to while the session is open.
        threads: Threads that share one operator's work; 0 lets the runtime choose.
        optimize: The runtime's own graph optimizations.
        extra_outputs: Names of values inside the main graph to give as outputs after the model's
            own.
        prepack: Whether the runtime may keep a rearranged copy of the weights, which makes it
            faster and takes as much memory again.
        providers: Execution providers, first choice first; the CPU alone by default.
        disabled_optimizers: Names of the runtime's graph optimizations to leave out.
        configure: Sets whatever else a caller wants of the session's options.

    Raises:
        InputError: the runtime does not accept the model; names the node where it says which. Or it
            lacks a provider.
    """
    options = _options(threads, optimize, prepack=prepack)
    if configure is not None:
        configure(options)
    extra = tuple(dict.fromkeys(extra_outputs))
    return _prepare(model, options, extra, providers, disabled_optimizers)()


def prepare(model: ir.Model | Path | bytes, *, prepack: bool = True) -> Callable[[], Session]:
    """Do what `session` does up to the point from where on the model may be edited again.

    What is returned loads it, from any thread; on one thread and without optimizations.

    Raises:
        InputError: the model cannot be written, or its weights cannot be read.
    """
    return _prepare(model, _options(1, "off", prepack=prepack))


def _options(threads: int, optimize: Optimize, *, prepack: bool) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, _LEVELS[optimize]
    )
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # whatever goes wrong is raised; nothing goes to stderr
    # Idle workers of one session must not spin on the cores of the next one being timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _prepare(
    model: ir.Model | Path | bytes,
    options: onnxruntime.SessionOptions,
    extra: Sequence[str] = (),
    providers: Sequence[Provider] = (),
    disabled_optimizers: Sequence[str] = (),
) -> Callable[[], Session]:
    import onnxruntime

    attached = [provider.attach(options) for provider in providers]
    # The CPU takes what the others leave. Those that are plug-ins are in the options already.
    named = None if None in attached else list(dict([*filter(None, attached), (_CPU, {})]).items())
    more = {"disabled_optimizers": list(disabled_optimizers)} if disabled_optimizers else {}

    where = str(model) if isinstance(model, Path) else "the model"
    source: str | bytes
    keep_alive: list[object] = []
    if isinstance(model, Path) and not model.is_file():
        raise InputError(f"{model}: no such file")
    if isinstance(model, Path) and not extra:
        source = str(model)
    elif isinstance(model, bytes) and not extra:
        source = model
    else:
        ir_model = _read(model, where) if isinstance(model, (Path, bytes)) else model
        source, keep_alive = hand_over(ir_model, extra, options)

    def load() -> Session:
        try:
            inner = onnxruntime.InferenceSession(source, options, providers=named, **more)
        except Exception as error:  # the runtime's exceptions share no base class
            raise InputError(f"{where}: ONNX Runtime refuses it: {explain(error)}") from error
        for provider in providers:
            # Where its libraries do not load, the runtime only warns, and goes on without it.
            if provider.name not in inner.get_providers():
                raise UnavailableError(
                    f"{provider.name} is installed but does not start here", hint=provider.remedy
                )
        return Session(inner, keep_alive)

    return load


def _read(source: Path | bytes, where: str) -> ir.Model:
    import onnx
    import onnx_ir as ir

    try:
        if isinstance(source, Path):
            return ir.load(source)
        return ir.from_proto(onnx.load_model_from_string(source))
    except Exception as error:  # protobuf's decoding error differs between its implementations
        raise InputError(f"{where}: not an ONNX model: {error}") from error


# --- arrays in and out -------------------------------------------------------------------------

_NO_NUMPY_TYPE = frozenset(
    (
        "BFLOAT16",
        *("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"),
        *("FLOAT4E2M1", "INT4", "UINT4", "INT2", "UINT2"),
    )
)


def _to_ort(array: Array) -> Any:
    import onnx_ir as ir
    import onnxruntime

    array = np.asarray(array)
    dtype = ir.DataType.from_numpy(array.dtype)
    if dtype.name in _NO_NUMPY_TYPE:
        return _packed_value(ir.tensor(array, dtype=dtype))
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _packed_value(tensor: ir.TensorProtocol) -> Any:
    """A copy of `tensor` in the runtime's own memory, bits as ONNX packs them."""
    import onnxruntime

    value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
        tensor.shape.numpy(), int(tensor.dtype)
    )
    data = tensor.tobytes()
    ctypes.memmove(value.data_ptr(), data, len(data))
    return value


def _from_ort(value: Any) -> Any:
    import onnx
    import onnx_ir as ir

    if not value.is_tensor():
        return value
    name = value.data_type().removeprefix("tensor(").removesuffix(")").upper()
    if name not in _NO_NUMPY_TYPE:
        return value.numpy()
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    proto = onnx.TensorProto(data_type=ir.DataType[name], dims=value.shape(), raw_data=data)
    return ir.serde.deserialize_tensor(proto).numpy()


def _spec(argument: Any) -> TensorSpec:
    import onnx_ir as ir

    match = re.fullmatch(r"tensor\((\w+)\)", argument.type)
    dtype = ir.DataType[match.group(1).upper()] if match else ir.DataType.UNDEFINED
    return TensorSpec(argument.name, dtype, tuple(argument.shape or ()))


# --- errors ------------------------------------------------------------------------------------

# What ONNX Runtime puts before the message proper: its status code, its source file and function.
_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE = re.compile(r"/onnxruntime_src/\S+:\d+ .*?\) (?=[A-Z\w'-])")
_NODE = (
    re.compile(r"running (?P<op>\w+) node\. Name:'(?P<name>[^']*)' (?:Status Message: )?"),
    re.compile(r"Node \((?P<name>[^)]*)\) Op \((?P<op>\w+)\) "),
    re.compile(r'In Node, \("(?P<name>[^"]*)", (?P<op>\w+), '),
    re.compile(r"of operator \((?P<op>\w+)\) in node \((?P<name>[^)]*)\)"),
    re.compile(r"for (?P<op>\w+)\(\d+\) node with name '(?P<name>[^']*)'"),
)


def explain(error: Exception) -> str:
    """One line out of an ONNX Runtime exception, led by the node when the message names it."""
    text = _STATUS.sub("", " ".join(str(error).split()))
    text = _SOURCE.sub("", text).removeprefix("This is an invalid model. ").rstrip(". ")
    for pattern in _NODE:
        if match := pattern.search(text):
            return f"node {match['name']!r} ({match['op']}): {text}"
    return text or type(error).__name__


def run_error(error: Exception) -> BurnishError:
    """What to raise for an exception of the runtime during a run."""
    wrong_feed = type(error).__name__ == "InvalidArgument" or isinstance(
        error, (ValueError, TypeError)
    )
    return (InputError if wrong_feed else BurnishError)(f"ONNX Runtime: {explain(error)}")


# --- the backend -------------------------------------------------------------------------------


class OnnxRuntime:
    """ONNX Runtime as a `burnish.backends.base.Backend`."""

    def capabilities(self, target: Target) -> Capabilities:
        """What the installed runtime has kernels for, on the target's provider."""
        from burnish.backends.kernels import kernel_names, max_ir_version
        from burnish.backends.target import MICROSOFT

        operators = kernel_names(target.provider)
        return Capabilities(
            operators=operators,
            fused=frozenset(name for domain, name in operators if domain == MICROSOFT),
            max_opset=target.max_opset,
            max_ir_version=max_ir_version(),
            int8_accumulator_bits=target.int8_accumulator_bits,
        )

    def lower(self, model: ir.Model, target: Target, path: Path) -> Artifact:
        """Save the model, stamped with a format version that the runtime reads.

        Raises:
            InputError: the model imports a newer opset than the target runs, or the folder cannot
                be written.
        """
        from burnish.backends.kernels import max_ir_version
        from burnish.backends.onnxfile import save

        opset = model.opset_imports.get("", 0)
        if opset > target.max_opset:
            raise InputError(
                f"the model imports opset {opset}; {target.name} runs opsets up to "
                f"{target.max_opset}",
                hint="export it at a lower opset",
            )
        stamped = model.ir_version
        model.ir_version = min(stamped, max_ir_version())
        try:
            files = save(model, path)
        finally:
            model.ir_version = stamped
        return Artifact(path, files, target)

    def session(self, artifact: Artifact) -> Session:
        """Load an artifact on one thread with all of the runtime's own optimizations."""
        return session(artifact.path, optimize="all")

    def measure(
        self, variants: Mapping[str, Runnable], feeds: Mapping[str, Any], *, repeats: int = 30
    ) -> Comparison:
        """`burnish.backends.measure.compare`."""
        from burnish.backends.measure import compare

        return compare(variants, feeds, repeats=repeats)
