# SPDX-License-Identifier: Apache-2.0
"""`make bench`: time and memory of whole processes, beside the peers, into docs/benchmarks.md.

Commands are run in turns (A B A B ...) after a warm-up; ratios are of medians, with a bootstrap
confidence interval over the rounds.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from burnish.api import versions
from burnish.backends import measure, onnxruntime
from burnish.files import write_aside
from burnish.tools import zoo
from burnish.tools.present import show, size

_SCRIPTS = Path(sysconfig.get_path("scripts"))
_MODELS = ("ppocrv6-rec", "ppocrv6-det", "minilm-l6-dynamo", "minilm-l6-torchscript")
_CHAIN_NODES = (1_000, 10_000, 100_000)
_ROUNDS = 7

Command = Sequence[str | Path]


def time_commands(commands: Mapping[str, Command], rounds: int = _ROUNDS) -> measure.Comparison:
    """Time whole processes in turns; one run of each is not counted.

    Raises:
        subprocess.CalledProcessError: a command failed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    order = list(commands)
    for turn in range(rounds + 1):
        for name in order:
            started = time.perf_counter()
            subprocess.run(commands[name], check=True, capture_output=True)
            if turn:
                seconds[name].append(time.perf_counter() - started)
        order.reverse()
    return measure.summarize({name: np.array(values) for name, values in seconds.items()})


def startup() -> list[list[str]]:
    """`optimize --help` beside importing click, its only import."""
    found = time_commands(
        {
            "python -c 'import click'": [sys.executable, "-c", "import click"],
            "optimize --help": [_SCRIPTS / "optimize", "--help"],
            "burnish --help": [_SCRIPTS / "burnish", "--help"],
        },
        rounds=15,
    )
    rows = [["command", "seconds", "times the first"]]
    first = found.timings[0]
    for item in found.timings:
        rows.append([f"`{item.name}`", f"{item.median:.3f}", f"{item.median / first.median:.2f}"])
    return rows


def simplifiers(folder: Path) -> list[list[str]]:
    """`optimize --passes cleanup,fuse` beside onnxslim and onnxsim, as whole processes."""
    rows = [["model", "command", "seconds", "`--verify off` is faster by", "nodes"]]
    for name in _MODELS:
        source = zoo.fetch(name)
        outputs = {tool: folder / f"{name}.{tool}.onnx" for tool in ("ours", "slim", "sim")}
        ours: list[str | Path] = [
            _SCRIPTS / "optimize",
            source,
            "-o",
            outputs["ours"],
            "--passes",
            "cleanup,fuse",
        ]
        commands: dict[str, Command] = {
            "optimize --verify off": [*ours, "--verify", "off"],
            "optimize": ours,
            "onnxslim": [_SCRIPTS / "onnxslim", source, outputs["slim"]],
            "onnxsim": [_SCRIPTS / "onnxsim", source, outputs["sim"]],
        }
        found = time_commands(commands)
        nodes = {tool: str(ir.load(path).graph.num_nodes()) for tool, path in outputs.items()}
        for item, tool in zip(found.timings, ("ours", "ours", "slim", "sim"), strict=True):
            # A speedup below 1 says how much slower than the first, which is ours.
            ratio = "" if tool == "ours" else f"{1 / item.speedup:.2f} ({_inverse(item)})"
            rows.append([name, f"`{item.name}`", f"{item.median:.2f}", ratio, nodes[tool]])
    return rows


def _inverse(item: measure.Timing) -> str:
    return f"{1 / item.high:.2f} to {1 / item.low:.2f}"


# Sizes of dynamic axes for timing, by model: a line of text, a page, a sentence.
_DIMS: dict[str, tuple[int, ...]] = {
    "ppocrv6-rec": (1, 3, 48, 320),
    "ppocrv6-det": (1, 3, 480, 480),
    "ppocrv4-rec": (1, 3, 48, 320),
    "ppocrv4-det": (1, 3, 480, 480),
    "ppocrv2-cls": (1, 3, 48, 192),
    "minilm-l6-dynamo": (1, 128),
    "minilm-l6-torchscript": (1, 128),
}
_FUSION_MODELS = (
    *("ppocrv6-rec", "ppocrv6-det", "ppocrv4-rec", "ppocrv4-det", "ppocrv2-cls"),
    *("minilm-l6-dynamo", "minilm-l6-torchscript", "efficientnet-lite0", "mnist-cnn"),
    *("light-resnet50", "light-densenet121", "light-inception-v1", "light-inception-v2"),
    *("light-shufflenet", "light-squeezenet", "light-alexnet", "light-zfnet512", "light-vgg19"),
    *("fashion-resnet", "quantized-distilbert", "quantized-t5-encoder", "quantized-t5-decoder"),
)
_FUSION_ROUNDS = 2


def fusion(folder: Path) -> list[list[str]]:
    """Nodes, seconds of the whole process, and float32 speed against the raw model.

    Processes in turns, with the check of numbers that `optimize` makes by default. Speed on one
    thread, with all of the runtime's own optimizations, every variant in turns.
    """
    tools = ("fuse", "onnxslim", "onnxsim")
    rows = [["model", "nodes", *tools, *(f"seconds: {tool}" for tool in tools)]]
    rows[0] += [f"speed: {tool}" for tool in tools]
    gains: list[float] = []
    for name in _FUSION_MODELS:
        raw = zoo.fetch(name)
        paths = {"raw": raw, **{tool: folder / f"{name}.{tool}.onnx" for tool in tools}}
        ours: Command = [_SCRIPTS / "optimize", raw, "-o", paths["fuse"], "--passes", "fuse"]
        peers = {tool: [_SCRIPTS / tool, raw, paths[tool]] for tool in tools[1:]}
        processes = time_commands({"fuse": ours, **peers}, rounds=_FUSION_ROUNDS)
        seconds = [f"{item.median:.2f}" for item in processes.timings]
        nodes = [str(ir.load(path).graph.num_nodes()) for path in paths.values()]
        with contextlib.ExitStack() as stack:
            sessions = {
                tool: stack.enter_context(onnxruntime.session(path, optimize="all"))
                for tool, path in paths.items()
            }
            feeds = _timed_feeds(sessions["raw"], _DIMS.get(name))
            found = measure.compare(sessions, feeds, repeats=60, budget=15)
        if not name.startswith("quantized-"):
            gains.append(found["fuse"].speedup)
        speeds = [
            f"{item.speedup:.2f} ({item.low:.2f} to {item.high:.2f})" for item in found.timings[1:]
        ]
        rows.append([name, *nodes, *seconds, *speeds])
        show("  ".join(rows[-1]))
        for tool in tools:
            paths[tool].unlink()
    mean = f"{statistics.geometric_mean(gains):.2f}"
    rows.append(["geometric mean of float32", *[""] * 7, mean, "", ""])
    return rows


def _timed_feeds(session: onnxruntime.Session, shape: tuple[int, ...] | None) -> dict[str, Any]:
    if shape is None:
        return measure.random_feeds(session, seed=0)
    dims = {
        name: size
        for spec in session.inputs
        for name, size in zip(spec.shape, shape, strict=True)
        if isinstance(name, str)
    }
    return measure.random_feeds(session, seed=0, dims=dims)


def scaling(folder: Path) -> list[list[str]]:
    """Cost a node of `cleanup,fuse`, from a small to a large graph."""
    rows = [["nodes", "seconds", "microseconds a node"]]
    for count in _CHAIN_NODES:
        source = folder / f"chain-{count}.onnx"
        ir.save(chain(count), source)
        output = folder / "out.onnx"
        words = (source, "-o", output, "--passes", "cleanup,fuse", "--verify", "off")
        found = time_commands({"": [_SCRIPTS / "optimize", *words]}, rounds=3)
        seconds = found.timings[0].median
        rows.append([f"{count:,}", f"{seconds:.2f}", f"{1e6 * seconds / count:.0f}"])
    return rows


def chain(count: int) -> ir.Model:
    """A model of `count` nodes with plenty to rewrite: blocks of ten, five of them superfluous."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", 8]))
    weight = ir.Value(name="w", const_value=ir.tensor(np.eye(8, dtype=np.float32), name="w"))
    bias = ir.Value(name="b", const_value=ir.tensor(np.ones(8, np.float32), name="b"))
    for value in (weight, bias):
        assert value.const_value is not None
        value.type = ir.TensorType(value.const_value.dtype)
        value.shape = ir.Shape(value.const_value.shape.numpy())
    nodes: list[ir.Node] = []

    def add(op_type: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        kept = [ir.convenience.convert_attribute(k, v) for k, v in attributes.items()]  # type: ignore[arg-type]
        node = ir.Node("", op_type, inputs, kept, name=f"n{len(nodes)}")
        node.outputs[0].name = f"v{len(nodes)}"
        nodes.append(node)
        return node.outputs[0]

    value = x
    while len(nodes) < count:
        value = add("Add", add("MatMul", add("Identity", value), weight), bias)
        value = add("Transpose", add("Transpose", value, perm=[1, 0]), perm=[1, 0])
        value = add("Relu", add("Identity", value))
        value = add("Mul", value, add("Sigmoid", value))
    value.name, value.type, value.shape = "y", x.type, x.shape
    graph = ir.Graph(
        [x], [value], nodes=nodes, initializers=[weight, bias], opset_imports={"": 21}, name="g"
    )
    return ir.Model(graph, ir_version=10)


def large_model(folder: Path) -> list[list[str]]:
    """Peak memory of `cleanup` on a model with 3 GB of external weights."""
    source = write_large_model(folder / "large.onnx", 3 * 10**9)
    output = folder / "large.opt.onnx"
    command = [_SCRIPTS / "optimize", source, "-o", output]
    words = [str(word) for word in (*command, "--passes", "cleanup", "--verify", "off")]
    started = time.perf_counter()
    peak = measure.peak_memory(words)
    seconds = time.perf_counter() - started
    written = sum(path.stat().st_size for path in folder.glob("large.opt.onnx*"))
    return [
        ["weights", "written", "seconds", "peak memory"],
        [size(3e9), size(written), f"{seconds:.1f}", size(peak)],
    ]


def write_large_model(path: Path, total: int) -> Path:
    """Write a chain of MatMuls whose distinct weights lie in one external file of `total` bytes."""
    side = 5_000
    count = total // (side * side * 4)
    rng = np.random.default_rng(0)
    data = path.with_name(path.name + ".data")
    with data.open("wb") as out:
        for _ in range(count):
            out.write(rng.standard_normal((side, side), dtype=np.float32).tobytes())
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", side]))
    value, nodes, weights = x, [], []
    for index in range(count):
        tensor = ir.ExternalTensor(
            data.name,
            index * side * side * 4,
            side * side * 4,
            ir.DataType.FLOAT,
            shape=ir.Shape([side, side]),
            name=f"w{index}",
            base_dir=path.parent,
        )
        weight = ir.Value(
            name=f"w{index}", type=x.type, shape=ir.Shape([side, side]), const_value=tensor
        )
        weights.append(weight)
        for op_type, inputs in (("Identity", [value]), ("MatMul", [None, weight])):
            inputs = [value if item is None else item for item in inputs]
            node = ir.Node("", op_type, inputs, name=f"{op_type}{index}")
            nodes.append(node)
            value = node.outputs[0]
            value.name = f"{op_type}{index}_out"
    value.name, value.type, value.shape = "y", x.type, x.shape
    graph = ir.Graph(
        [x], [value], nodes=nodes, initializers=weights, opset_imports={"": 21}, name="g"
    )
    ir.save(ir.Model(graph, ir_version=10), path)
    return path


_SECTIONS: dict[str, tuple[str, Callable[[Path], list[list[str]]]]] = {
    "startup": ("Start-up", lambda _: startup()),
    "simplifiers": (
        "Simplifying, as a whole process, beside the peers\n\n"
        "`optimize` compares the numbers of both models by default; onnxslim and onnxsim do not, "
        "so `--verify off` is what compares with them.",
        simplifiers,
    ),
    "fusion": (
        "Nodes, seconds of the whole process, and float32 speed against the raw model\n\n"
        "`optimize` compares the numbers of both models by default, and does so here; onnxslim and "
        "onnxsim do not.",
        fusion,
    ),
    "scaling": ("Cost a node", scaling),
    "large": ("A model with 3 GB of external weights through `cleanup`", large_model),
}


def main(wanted: Iterable[str], destination: Path) -> None:
    """Run the sections asked for (all if none) and put them into the document."""
    for name in list(wanted) or list(_SECTIONS):
        title, run = _SECTIONS[name]
        show(f"{title} ...")
        with tempfile.TemporaryDirectory(prefix="burnish-bench-") as folder:
            rows = run(Path(folder))
        text = f"## {title}\n\n{_markdown(rows)}\n\n{hardware()}\n"
        show(text)
        put_section(destination, name, text)


def _markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def hardware() -> str:
    """One line: processor, cores, date and versions."""
    match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    name = match.group(1) if match else platform.processor()
    packages = {name: version for name, version in versions().items() if name != "burnish"}
    found = ", ".join(f"{package} {version}" for package, version in packages.items())
    return f"{name}, {os.cpu_count()} cores, {date.today()}; {found}."


def put_section(path: Path, name: str, text: str) -> None:
    """Replace one marked section of a Markdown file, or append it."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    old = path.read_text(encoding="utf-8") if path.exists() else "# Benchmarks\n"
    section = f"{begin}\n{text}{end}"
    if begin in old:
        head, _, rest = old.partition(begin)
        new = head + section + rest.partition(end)[2]
    else:
        new = f"{old.rstrip()}\n\n{section}\n"
    with write_aside(path) as aside:
        aside.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:], Path(__file__).parents[1] / "docs" / "benchmarks.md")
