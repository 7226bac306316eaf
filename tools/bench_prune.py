# SPDX-License-Identifier: Apache-2.0
"""`make bench-prune`: what pruning costs and gives, into docs/benchmarks.md."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.api import optimize
from burnish.tools import zoo
from burnish.tools.bench_quant import judged, timed
from burnish.tools.benchmark import hardware, put_section
from burnish.tools.present import show

_FUSED = "fuse"

STRUCTURED: dict[str, tuple[int, tuple[str, ...]]] = {
    "fashion-resnet": (
        512,
        (
            "fuse,quant",
            "fuse,prune-channels{flops=0.5}",
            "fuse,prune-channels{flops=0.5},quant",
            "fuse,prune-channels{latency=0.6}",
            "fuse,prune-blocks{count=1}",
            "fuse,prune-blocks{count=1},quant",
        ),
    ),
    "minilm-l6-dynamo": (
        256,
        (
            "cleanup,prune-heads{ratio=0.25},prune-neurons{ratio=0.25},fuse",
            "cleanup,prune-heads{ratio=0.25},prune-neurons{ratio=0.25},fuse,quant",
        ),
    ),
}
"""Model -> calibration samples, none of them labelled, and pipelines."""

UNSTRUCTURED: dict[str, tuple[int, tuple[str, ...]]] = {
    "minilm-l6-dynamo": (
        64,
        tuple(
            f"fuse,prune{{{criterion}{goal}}}"
            for goal in ("sparsity=0.5", "pattern=2:4")
            for criterion in ("recover=false ", "criterion=wanda ", "criterion=sparsegpt ")
        ),
    )
}

NODES = 10_000


@dataclass(frozen=True)
class Variant:
    """A pruned model.

    Attributes:
        path: Its file.
        left: Shares of operations and parameters that are left, in words.
        zeros: Share of zeros in the weights that may be pruned, in words.
    """

    path: Path
    left: str
    zeros: str


def made(name: str, samples: int, pipelines: Sequence[str], folder: Path) -> dict[str, Variant]:
    """Prune a model of the zoo in each way; the first variant is the fused model."""
    source = zoo.fetch(name)
    feeds = list(zoo.feeds(name, samples))
    found: dict[str, Variant] = {}
    for index, text in enumerate((_FUSED, *pipelines)):
        path = folder / f"{name}.{index}.onnx"
        before, _, last = text.rpartition(",")
        if before in found:  # goes on from there
            begun, rest = found[before].path, last
        else:
            begun, rest = source, text
        _, report = optimize(
            begun, rest, output=path, calibration=lambda: feeds, verify="off", measure=True
        )
        details = [item.details for item in report.passes]
        left = [f"{_left(details, what):.2f}" for what in ("flops_left", "params_left")]
        zeros = [f"{each['sparsity']:.2f}" for each in details if "sparsity" in each]
        made_so_far = found[before].left if before in found and rest == "quant" else ""
        found[text] = Variant(path, made_so_far or " / ".join(left), "".join(zeros))
    return found


def _left(details: Iterable[Mapping[str, Any]], what: str) -> float:
    return float(np.prod([each[what] for each in details if what in each]))


def rows(name: str, variants: Mapping[str, Variant], timing: bool = True) -> list[list[str]]:
    """Return a row for each variant but the fused one: what is left, speed, metric."""
    files: dict[str, Path | str] = {"float32": variants[_FUSED].path}
    files |= {text: each.path for text, each in variants.items() if text != _FUSED}
    speeds = timed(name, files) if timing else None
    scores = judged(name, files)
    before = scores["float32"]
    found = []
    for text, each in variants.items():
        if text == _FUSED:
            continue
        row = [name, f"`{text}`", each.left if timing else each.zeros]
        if speeds is not None:
            at = speeds[text]
            row.append(f"{at.speedup:.2f} ({at.low:.2f} to {at.high:.2f})")
        after = scores[text]
        row += [zoo.metric(name).name, f"{before:.4f}", f"{after:.4f}"]
        found.append([*row, f"{100 * (after - before):+.2f}"])
    return found


def structured(folder: Path) -> list[list[str]]:
    """Channels, heads, neurons and blocks cut out: speed against the fused model, in turns."""
    head = ["model", "pipeline", "operations / parameters left", "speed"]
    table = [[*head, "metric", "float32", "pruned", "points"]]
    for name, (samples, pipelines) in STRUCTURED.items():
        table += rows(name, made(name, samples, pipelines, folder))
    return table


def unstructured(folder: Path) -> list[list[str]]:
    """Weights zeroed: shapes stay, and so does the speed of a dense runtime."""
    table = [["model", "pipeline", "zeros", "metric", "float32", "pruned", "points"]]
    for name, (samples, pipelines) in UNSTRUCTURED.items():
        table += rows(name, made(name, samples, pipelines, folder), timing=False)
    return table


def analysis(folder: Path) -> list[list[str]]:  # noqa: ARG001 - a section's
    """Seconds to find what is coupled, and to cut it, in a model of many nodes."""
    from burnish.passes.prune.coupling import couplings_of
    from burnish.passes.prune.cut import Cut
    from burnish.passes.prune.units import Units
    from burnish.passes.shapes import infer_shapes

    model = residual_chain(NODES)
    steps: list[tuple[str, Callable[[Any], Any]]] = [
        ("shapes", lambda _: infer_shapes(model)),
        ("couplings and units", lambda _: Units(couplings_of(model))),
        ("cut half of every group", lambda units: _halve(Cut, units, model)),
    ]
    table = [["step", f"seconds, {len(model.graph):,} nodes"]]
    found: Any = None
    for label, step in steps:
        started = time.perf_counter()
        found = step(found)
        table.append([label, f"{time.perf_counter() - started:.2f}"])
    return table


def _halve(cut: Any, units: Any, model: ir.Model) -> None:
    removed = [group.units[: len(group.units) // 2] for group in units.groups]
    cut(units, np.concatenate(removed)).apply(model)


def residual_chain(nodes: int, width: int = 16, length: int = 10) -> ir.Model:
    """Make residual blocks (Conv, Relu, Conv, Add), `length` a stage, of about so many nodes."""
    x = ir.Value(
        name="x", shape=ir.Shape(["N", width, 8, 8]), type=ir.TensorType(ir.DataType.FLOAT)
    )
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21}, name="chain")
    rng = np.random.default_rng(0)

    def add(op_type: str, inputs: Sequence[ir.Value], **attributes: Sequence[int]) -> ir.Value:
        node = ir.node(op_type, inputs, attributes, name=f"node{len(graph)}")
        node.outputs[0].name = f"value{len(graph)}"
        graph.append(node)
        return node.outputs[0]

    def conv(value: ir.Value) -> ir.Value:
        array = rng.standard_normal((width, width, 3, 3)).astype(np.float32) / 12
        name = f"weight{len(graph)}"
        weight = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        weight.shape, weight.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.FLOAT)
        graph.register_initializer(weight)
        return add("Conv", [value, weight], pads=[1, 1, 1, 1])

    value = x
    while len(graph) < nodes:
        value = conv(value)
        for _ in range(length):
            value = add("Add", [value, conv(add("Relu", [conv(value)]))])
    graph.outputs.append(value)
    value.type = x.type
    return ir.Model(graph, ir_version=10)


_SECTIONS: dict[str, tuple[str, Callable[[Path], list[list[str]]]]] = {
    "pruning": ("Pruning: channels, heads, neurons and blocks cut out", structured),
    "sparsity": ("Pruning: weights zeroed", unstructured),
    "coupling": ("Pruning: analysis of what is coupled", analysis),
}


def main(wanted: Iterable[str], destination: Path) -> None:
    """Run the sections asked for (all if none) and put them into the document."""
    for name in list(wanted) or list(_SECTIONS):
        title, run = _SECTIONS[name]
        show(f"{title} ...")
        with tempfile.TemporaryDirectory(prefix="burnish-bench-") as folder:
            write(destination, name, run(Path(folder)))


def write(destination: Path, name: str, table: Sequence[Sequence[str]]) -> None:
    """Put a section into the document."""
    title, _ = _SECTIONS[name]
    head, *body = table
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    text = f"## {title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)
    text += f"\n\n{hardware()}\n"
    show(text)
    put_section(destination, name, text)


if __name__ == "__main__":
    main(sys.argv[1:], Path(__file__).parents[1] / "docs" / "benchmarks.md")
