# SPDX-License-Identifier: Apache-2.0
"""The structure of an engine: its kernels, what each was fused from, and the types it computes in.

There are two ways to it. Where there is a GPU, the engine inspector is asked. Where there is none,
the engine file itself is read: TensorRT for RTX holds its compiled graphs as text in it (blocks
`header`, `descriptors` and `main`, as found in 1.7). That form is not documented and may change;
what cannot be read is left out, and `Structure.kernels` is then empty.
"""

from __future__ import annotations

import json
import mmap
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from burnish.errors import InputError

MAGIC = b"vtrt"
"""What an engine of TensorRT for RTX begins with."""
MAGIC_TENSORRT = b"ftrt"
"""What an engine of `tensorrt` begins with."""


@dataclass(frozen=True)
class Kernel:
    """One step of an engine.

    Attributes:
        kind: What it does: ``convolution``, ``product``, ``attention``, ``fused`` (code generated
            for several operators), or as the engine has it.
        name: As the engine has it.
        nodes: The nodes of the model that it stands for, Q/DQ pairs among them.
        inputs: Element types of what it reads, weights among them.
        outputs: Element types of what it writes.
    """

    kind: str
    name: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def precision(self) -> str:
        """The narrowest type that it reads and multiplies: that of its products."""
        return min(self.inputs, key=lambda name: _WIDTHS.get(name, 99), default="?")


@dataclass(frozen=True)
class Structure:
    """What an engine is made of.

    Attributes:
        version: Of the TensorRT that built it, as far as the file tells.
        devices: What its kernels are compiled for, e.g. ``sm89``.
        kernels: In order of execution.
    """

    version: str
    devices: tuple[str, ...]
    kernels: tuple[Kernel, ...]

    def summary(self) -> dict[str, Any]:
        """Counts, for a manifest."""
        products = [k for k in self.kernels if k.kind in ("convolution", "product")]
        return {
            "kernels": len(self.kernels),
            "kinds": _counts(kernel.kind for kernel in self.kernels),
            "products": _counts(kernel.precision for kernel in products),
            "fused": sum(len(kernel.nodes) > 1 for kernel in self.kernels),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return {
            "version": self.version,
            "devices": list(self.devices),
            "summary": self.summary(),
            "kernels": [{**asdict(k), "precision": k.precision} for k in self.kernels],
        }


_KINDS = {
    "corrltn": "convolution",
    "deconvolution": "convolution",
    "fully_connected": "product",
    "gemm": "product",
    "bmm": "product",
    "function": "fused",
}
_WIDTHS = {
    **{"int4": 4, "fp4": 4, "int8": 8, "uint8": 8, "fp8": 8, "fp8e4m3": 8, "e4m3": 8},
    **{"half": 16, "bfloat16": 16, "bf16": 16, "float": 32, "tf32": 32},
}

_GRAPH = b"header {\n"
_TENSOR = re.compile(rb'(?:sub_)?tensor=\{[^\n]*? name="([^"\n]+)"[^\n]*? type=(\w+) \}')
_STEP = re.compile(rb'\n +([a-z_]+)=\{ name=(?:"([^"]*)"|(\S+))([^\n]*?) layers="([^"]*)"')
_READS = re.compile(rb' (?:input|input_args)=\{ ?((?:"[^"]*" ?)*)\}')
_WRITES = re.compile(rb' (?:output|output_args)=\{ ?((?:"[^"]*" ?)*)\}')
_DEVICES = re.compile(rb"accelerators=\{([^}\n]*)\}")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]$")
_ATTENTION = re.compile(r"_gemm_mha|fmha", re.IGNORECASE)


def read(path: Path) -> Structure:
    """Read the structure of an engine file; needs neither a GPU nor TensorRT.

    Raises:
        InputError: it is no engine.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(64)
        if head[:4] not in (MAGIC, MAGIC_TENSORRT):
            raise InputError(
                f"{path} is no TensorRT engine", hint="give one of an artefact's .engine files"
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            graphs = list(_texts(data))
    devices = (word for text in graphs for m in _DEVICES.finditer(text) for word in m[1].split())
    return Structure(
        _version(head),
        tuple(dict.fromkeys(word.decode() for word in devices if word != b"*")),
        tuple(kernel for text in graphs for kernel in _kernels(text)),
    )


def is_engine(path: Path) -> bool:
    """Whether a file begins as an engine does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) in (MAGIC, MAGIC_TENSORRT)


def _texts(data: mmap.mmap) -> Iterator[bytes]:
    """The compiled graphs: each is text from its header up to the next byte that is none."""
    start = data.find(_GRAPH)
    while start >= 0:
        end = data.find(b"\0", start)
        yield data[start : end if end >= 0 else len(data)]
        start = data.find(_GRAPH, max(end, start + 1))


def _kernels(text: bytes) -> Iterator[Kernel]:
    """The steps of a graph; those without a node of the model compute sizes or move bytes."""
    types = {match[1]: match[2].decode() for match in _TENSOR.finditer(text)}
    for match in _STEP.finditer(text):
        kind = match[1].decode()
        name = (match[2] or match[3]).decode(errors="replace")
        layers = match[5].decode(errors="replace").split("\x1f")
        nodes = tuple(found[1] for layer in layers if (found := _NODE.match(layer.strip())))
        if not nodes:
            continue
        yield Kernel(
            _kind(kind, name),
            name,
            tuple(dict.fromkeys(nodes)),
            _types(_READS.search(match[4]), types),
            _types(_WRITES.search(match[4]), types),
        )


def _kind(kind: str, name: str) -> str:
    if _ATTENTION.match(name):
        return "attention"
    if kind == "runtime_fusion":  # compiled on the machine it runs on
        return "product" if "Fc" in name else "convolution" if "Conv" in name else "fused"
    return _KINDS.get(kind, kind)


def _types(match: re.Match[bytes] | None, types: dict[bytes, str]) -> tuple[str, ...]:
    names = [] if match is None else re.findall(rb'"([^"]*)"', match[1])
    return tuple(types[name] for name in names if name in types)


def _version(head: bytes) -> str:
    """The version, as the header of an engine of RTX has it: four bytes from 24 on."""
    return ".".join(map(str, head[24:28])) if head[:4] == MAGIC else "?"


def inspected(engine: Any, trt: Any) -> Structure:
    """The structure of a loaded engine, by TensorRT's engine inspector; needs a GPU."""
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    kernels = []
    for layer in json.loads(text).get("Layers", ()):
        if isinstance(layer, str):  # an engine built without details
            kernels.append(Kernel("layer", layer, (layer,), (), ()))
            continue
        metadata = str(layer.get("Metadata", "")).split("\x1f")
        nodes = (found[1] for item in metadata if (found := _NODE.match(item.strip())))
        kernels.append(
            Kernel(
                str(layer.get("LayerType", "layer")),
                str(layer.get("Name", "")),
                tuple(dict.fromkeys(nodes)),
                tuple(str(item.get("Format/Datatype", "?")) for item in layer.get("Inputs", ())),
                tuple(str(item.get("Format/Datatype", "?")) for item in layer.get("Outputs", ())),
            )
        )
    return Structure(trt.__version__, (), tuple(kernels))


def _counts(names: Iterator[str] | Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
