# SPDX-License-Identifier: Apache-2.0
"""Execution providers of ONNX Runtime, with their options typed.

Options that are None are not set: the runtime's default holds. Names are the runtime's own, but
for the prefix that all options of a provider share.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_type_hints

from burnish.backends.profiles import Profile, Range
from burnish.errors import InputError, UnavailableError

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    Attributes:
        kind: Its name here and in manifests.
        name: Its name in the runtime.
        prefix: What the runtime's names of its options begin with.
        remedy: What to do where it is missing.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    prefix: ClassVar[str] = ""
    remedy: ClassVar[str] = ""

    def options(self) -> dict[str, str]:
        """Return the options that are set, as the runtime takes them."""
        found = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is not None and item.name != "profiles":
                name = item.metadata.get("name", f"{self.prefix}{item.name}")
                found[name] = str(int(value)) if isinstance(value, bool) else str(value)
        return found | _profile_options(self.prefix, getattr(self, "profiles", ()))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON: the kind, and the options that are set."""
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        chosen = {name: value for name, value in fields.items() if value not in (None, ())}
        if "profiles" in chosen:
            chosen["profiles"] = [profile.as_dict() for profile in chosen["profiles"]]
        return {"kind": self.kind, **chosen}

    def attach(self, options: onnxruntime.SessionOptions) -> tuple[str, dict[str, str]] | None:
        """Name and options of the provider; or None, once it is in the session's options itself.

        Raises:
            UnavailableError: the installed runtime lacks it; says what to do.
        """
        import onnxruntime

        if self.name not in onnxruntime.get_available_providers():
            raise UnavailableError(
                f"the installed onnxruntime {onnxruntime.__version__} has no {self.name}",
                hint=self.remedy,
            )
        return self.name, self.options()


@dataclass(frozen=True)
class Cpu(Provider):
    """The CPU; its settings are the session's own."""

    kind: ClassVar[str] = "cpu"
    name: ClassVar[str] = "CPUExecutionProvider"
    remedy: ClassVar[str] = "install onnxruntime again"


def _unprefixed(name: str) -> Any:
    """An option that the runtime calls `name`, without the prefix of its fellows."""
    return dataclasses.field(default=None, metadata={"name": name})


@dataclass(frozen=True)
class Cuda(Provider):
    """NVIDIA GPUs by CUDA's and cuDNN's kernels.

    Attributes:
        device_id: Number of the GPU.
        gpu_mem_limit: Bytes that its arena may grow to.
        arena_extend_strategy: How the arena grows.
        cudnn_conv_algo_search: How the algorithm of a convolution is found.
        cudnn_conv_use_max_workspace: Whether that search may take all the memory it asks for.
        do_copy_in_default_stream: Whether copies share the stream of the kernels.
        enable_cuda_graph: Whether runs are recorded and replayed; shapes must not change.
        prefer_nhwc: Whether convolutions run channels-last.
        use_tf32: Whether float32 products are rounded to 10 bits of mantissa.
        use_ep_level_unified_stream: Whether all sessions share one stream.
        fuse_conv_bias: Whether the bias is added within the convolution.
        enable_skip_layer_norm_strict_mode: Whether SkipLayerNormalization sums in float32.
    """

    kind: ClassVar[str] = "cuda"
    name: ClassVar[str] = "CUDAExecutionProvider"
    remedy: ClassVar[str] = (
        "on a machine with an NVIDIA GPU: pip uninstall onnxruntime && pip install onnxruntime-gpu"
    )

    device_id: int | None = None
    gpu_mem_limit: int | None = None
    arena_extend_strategy: Literal["kNextPowerOfTwo", "kSameAsRequested"] | None = None
    cudnn_conv_algo_search: Literal["EXHAUSTIVE", "HEURISTIC", "DEFAULT"] | None = None
    cudnn_conv_use_max_workspace: bool | None = None
    do_copy_in_default_stream: bool | None = None
    enable_cuda_graph: bool | None = None
    prefer_nhwc: bool | None = None
    use_tf32: bool | None = None
    use_ep_level_unified_stream: bool | None = None
    fuse_conv_bias: bool | None = None
    enable_skip_layer_norm_strict_mode: bool | None = None


@dataclass(frozen=True)
class TensorRt(Provider):
    """NVIDIA GPUs by TensorRT, which builds engines from parts of the graph at first use.

    Attributes:
        device_id: Number of the GPU.
        max_workspace_size: Bytes of scratch memory a layer may take.
        max_partition_iterations: Rounds of cutting the graph into what TensorRT takes.
        min_subgraph_size: Fewest nodes worth an engine.
        fp16_enable: Whether kernels may compute in float16.
        bf16_enable: Whether kernels may compute in bfloat16.
        int8_enable: Whether kernels may compute in int8.
        engine_cache_enable: Whether engines are kept.
        engine_cache_path: Where.
        engine_hw_compatible: Whether engines run on later GPUs too.
        weight_stripped_engine_enable: Whether engines are kept without their weights.
        timing_cache_enable: Whether timings of kernels are kept.
        timing_cache_path: Where.
        builder_optimization_level: 0 (quick to build) to 5 (quick to run).
        auxiliary_streams: Further streams; -1 lets TensorRT choose.
        layer_norm_fp32_fallback: Whether float16 layer norms compute in float32.
        context_memory_sharing_enable: Whether engines share their scratch memory.
        sparsity_enable: Whether 2:4 sparse weights are made use of.
        cuda_graph_enable: Whether runs are recorded and replayed.
        op_types_to_exclude: Operators left to other providers, separated by commas.
        profiles: Shapes to build for.
    """

    kind: ClassVar[str] = "tensorrt"
    name: ClassVar[str] = "TensorrtExecutionProvider"
    prefix: ClassVar[str] = "trt_"
    remedy: ClassVar[str] = (
        "on a machine with an NVIDIA GPU: pip uninstall onnxruntime && "
        "pip install onnxruntime-gpu tensorrt"
    )

    device_id: int | None = _unprefixed("device_id")
    max_workspace_size: int | None = None
    max_partition_iterations: int | None = None
    min_subgraph_size: int | None = None
    fp16_enable: bool | None = None
    bf16_enable: bool | None = None
    int8_enable: bool | None = None
    engine_cache_enable: bool | None = None
    engine_cache_path: str | None = None
    engine_hw_compatible: bool | None = None
    weight_stripped_engine_enable: bool | None = None
    timing_cache_enable: bool | None = None
    timing_cache_path: str | None = None
    builder_optimization_level: int | None = None
    auxiliary_streams: int | None = None
    layer_norm_fp32_fallback: bool | None = None
    context_memory_sharing_enable: bool | None = None
    sparsity_enable: bool | None = None
    cuda_graph_enable: bool | None = None
    op_types_to_exclude: str | None = None
    profiles: tuple[Profile, ...] = ()


@dataclass(frozen=True)
class NvTensorRtRtx(Provider):
    """NVIDIA's RTX GPUs by TensorRT for RTX, which finishes kernels on the machine they run on.

    The provider is a library of its own (a plug-in of the runtime), registered at first use.

    Attributes:
        device_id: Number of the GPU.
        max_workspace_size: Bytes of scratch memory a layer may take.
        max_shared_mem_size: Bytes of shared memory a kernel may take.
        detailed_build_log: Whether building is logged in detail.
        enable_cuda_graph: Whether runs are recorded and replayed.
        runtime_cache_path: Folder in which finished kernels are kept.
        use_external_data_initializer: Whether weights are handed over rather than copied.
        multi_profile_enable: Whether there are several profiles.
        op_types_to_exclude: Operators left to other providers, separated by commas.
        profiles: Shapes to build for.
    """

    kind: ClassVar[str] = "nv-tensorrt-rtx"
    name: ClassVar[str] = "NvTensorRTRTXExecutionProvider"
    prefix: ClassVar[str] = "nv_"
    remedy: ClassVar[str] = (
        "on a machine with an NVIDIA RTX GPU: pip install onnxruntime-ep-nv-tensorrt-rtx"
    )

    device_id: int | None = _unprefixed("device_id")
    max_workspace_size: int | None = None
    max_shared_mem_size: int | None = None
    detailed_build_log: bool | None = None
    enable_cuda_graph: bool | None = _unprefixed("enable_cuda_graph")
    runtime_cache_path: str | None = None
    use_external_data_initializer: bool | None = None
    multi_profile_enable: bool | None = None
    op_types_to_exclude: str | None = None
    profiles: tuple[Profile, ...] = ()

    def attach(self, options: onnxruntime.SessionOptions) -> tuple[str, dict[str, str]] | None:
        """As `Provider.attach`; registers the plug-in, if that is what is installed."""
        import onnxruntime

        built_in = self.name in onnxruntime.get_available_providers()
        if built_in or importlib.util.find_spec(_RTX_PLUGIN) is None:
            return super().attach(options)
        plugin = importlib.import_module(_RTX_PLUGIN)
        if not _devices(self.name):
            onnxruntime.register_execution_provider_library(
                plugin.get_ep_name(), plugin.get_library_path()
            )
        devices = _devices(self.name)
        if not devices:
            raise UnavailableError(
                f"{self.name} finds no GPU that it can use", hint="check the driver: nvidia-smi"
            )
        options.add_provider_for_devices(devices[self.device_id or 0 :][:1], self.options())
        return None


_RTX_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


def _devices(name: str) -> list[Any]:
    import onnxruntime

    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]


_KINDS: dict[str, type[Provider]] = {
    provider.kind: provider for provider in (Cpu, Cuda, TensorRt, NvTensorRtRtx)
}


def kinds() -> tuple[str, ...]:
    """Names of the providers there are options for."""
    return tuple(_KINDS)


def of(data: Mapping[str, Any] | str) -> Provider:
    """Read what `Provider.as_dict` returns, or the name of a provider.

    Raises:
        InputError: the provider or an option of it is unknown.
    """
    chosen: dict[str, Any] = {"kind": data} if isinstance(data, str) else dict(data)
    kind = chosen.pop("kind", None)
    if kind not in _KINDS:
        raise InputError(f"unknown execution provider {kind!r}", hint=f"known: {', '.join(_KINDS)}")
    known = [item.name for item in dataclasses.fields(_KINDS[kind])]
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise InputError(f"provider {kind} has no option {name!r}", hint=hint)
    if chosen.get("profiles"):
        chosen["profiles"] = tuple(map(Profile.of, chosen["profiles"]))
    return _KINDS[kind](**chosen)


def parse(text: str) -> Provider:
    """Read ``cuda`` or ``cuda:prefer_nhwc=1,device_id=0``.

    Raises:
        InputError: the provider or an option of it is unknown, or a value is none of its type.
    """
    kind, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        name, _, value = part.partition("=")
        options[name] = value
    types = get_type_hints(type(of({"kind": kind, **dict.fromkeys(options)})))
    typed = {name: _value(f"{kind}: {name}", types[name], value) for name, value in options.items()}
    return of({"kind": kind, **typed})


def _value(where: str, annotation: Any, text: str) -> Any:
    (kind, *others) = (item for item in get_args(annotation) if item is not NoneType)
    if others:
        raise InputError(f"provider {where} cannot be given as text", hint="use --shapes")
    choices = get_args(kind) or {bool: ("0", "1")}.get(kind, ())
    if choices and text not in choices:
        raise InputError(f"provider {where}={text!r}", hint=f"choose of {', '.join(choices)}")
    if kind is bool:
        return text == "1"
    try:
        return int(text) if kind is int else text
    except ValueError as error:
        raise InputError(f"provider {where}={text!r} is no whole number") from error


def _profile_options(prefix: str, profiles: Sequence[Profile]) -> dict[str, str]:
    """The shapes of profiles as ``input:1x3,other:1,input:8x3,other:8``: all inputs, in turn."""
    if not profiles:
        return {}
    return {
        f"{prefix}profile_{end}_shapes": ",".join(
            f"{name}:{'x'.join(map(str, getattr(span, end)))}"
            for profile in profiles
            for name, span in profile.inputs.items()
        )
        for end in Range._fields
    }
