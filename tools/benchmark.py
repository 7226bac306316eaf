# SPDX-License-Identifier: Apache-2.0
"""`make bench`: time and memory of whole processes, beside the peers, into docs/benchmarks.md.

Commands are run in turns (A B A B ...) after a warm-up; ratios are of medians, with a bootstrap
confidence interval over the rounds.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import shlex
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
from burnish.backends.feeds import random_array, random_feeds
from burnish.files import write_aside
from burnish.tools import decoder, zoo
from burnish.tools.present import show, size

_SCRIPTS = Path(sysconfig.get_path("scripts"))
_MODELS = ("ppocrv6-rec", "ppocrv6-det", "minilm-l6-dynamo", "minilm-l6-torchscript")
_CHAIN_NODES = (1_000, 10_000, 100_000)
_ROUNDS = 7
_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"

Command = Sequence[str | Path]


def time_commands(commands: Mapping[str, Command], rounds: int = _ROUNDS) -> measure.Comparison:
    """Time whole processes in turns; one run of each is not counted.

    Raises:
        subprocess.CalledProcessError: a command failed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    order = list(commands)
    # Installed packages come compiled; what runs from source must be able to keep what it compiles.
    compiling = {key: value for key, value in os.environ.items() if key != _NO_BYTECODE}
    for turn in range(rounds + 1):
        for name in order:
            started = time.perf_counter()
            subprocess.run(commands[name], check=True, capture_output=True, env=compiling)
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


# Sizes of the inputs for timing, by model: a line of text, a page, a sentence.
_SHAPES: dict[str, tuple[int, ...]] = {
    "ppocrv6-rec": (1, 3, 48, 320),
    "ppocrv6-det": (1, 3, 480, 480),
    "ppocrv4-rec": (1, 3, 48, 320),
    "ppocrv4-det": (1, 3, 480, 480),
    "ppocrv2-cls": (1, 3, 48, 192),
    "minilm-l6-dynamo": (1, 128),
    "minilm-l6-torchscript": (1, 128),
}
_PEERS = ("onnxslim", "onnxsim")


def fusion(folder: Path) -> list[list[str]]:
    """Nodes, seconds, and float32 speed against the raw model, of `fuse` and of the peers.

    The seconds are of whole processes, ours with its checks. The speed is on one thread with all
    of the runtime's own optimizations, every variant in turns, loaded anew six times. Models that
    are quantized already are not timed.
    """
    head = ["model", "nodes", "fuse", *_PEERS, "seconds: fuse", "first build", *_PEERS]
    head += ["speed: fuse", *_PEERS]
    rows, gains = [head], list[float]()
    for name in (entry.name for entry in zoo.entries() if entry.kind == "model"):
        source = zoo.fetch(name)
        paths = {tool: folder / f"{name}.{tool}.onnx" for tool in ("fuse", *_PEERS)}
        commands: dict[str, Command] = {
            "fuse": [_SCRIPTS / "optimize", source, "-o", paths["fuse"], "--passes", "fuse"]
        }
        commands["first build"] = _without_cache(commands["fuse"], folder)
        commands |= {peer: [_SCRIPTS / peer, source, paths[peer]] for peer in _PEERS}
        seconds = time_commands(commands, rounds=3)
        paths = {"raw": source} | paths
        row = [name, *(str(ir.load(path).graph.num_nodes()) for path in paths.values())]
        row += [f"{item.median:.2f}" for item in seconds.timings]
        if name.startswith("quantized"):
            rows.append([*row, "", "", ""])
            continue
        loads = {
            tool: functools.partial(onnxruntime.session, path, optimize="all")
            for tool, path in paths.items()
        }
        with loads["raw"]() as raw:
            feeds = timed_feeds(name, raw)
        found = measure.compare_loads(loads, feeds, loads=6, repeats=60, budget=60)
        gains.append(found["fuse"].speedup)
        row += [
            f"{item.speedup:.2f} ({item.low:.2f} to {item.high:.2f})" for item in found.timings[1:]
        ]
        rows.append(row)
        for path in folder.glob("*.onnx*"):  # some are large
            path.unlink()
    mean = f"{statistics.geometric_mean(gains):.2f}"
    rows.append(["geometric mean", *[""] * 8, mean, "", ""])
    return rows


def _without_cache(command: Command, folder: Path) -> Command:
    """Return a command as it runs where nothing was measured yet."""
    cache = shlex.quote(str(folder / "cache"))
    words = shlex.join(map(str, command))
    return ["bash", "-c", f"rm -rf {cache}; BURNISH_CACHE={cache} exec {words}"]


def timed_feeds(name: str, session: onnxruntime.Session) -> dict[str, Any]:
    """Return random inputs of a model of the zoo, of the sizes it is timed with."""
    shape = _SHAPES.get(name)
    if shape is None:
        return random_feeds(session, seed=0)
    rng = np.random.default_rng(0)
    return {spec.name: random_array(rng, spec.name, spec.dtype, shape) for spec in session.inputs}


def scaling(folder: Path) -> list[list[str]]:
    """Cost a node of `fuse`, from a small to a large graph."""
    rows = [["nodes", "seconds", "microseconds a node"]]
    for count in _CHAIN_NODES:
        source = folder / f"chain-{count}.onnx"
        ir.save(chain(count), source)
        output = folder / "out.onnx"
        words = (source, "-o", output, "--passes", "fuse", "--verify", "off")
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
    """Time and memory of `fuse` on a Llama-shaped decoder with 4 GB of external weights."""
    source, output = folder / "large.onnx", folder / "large.opt.onnx"
    weights = decoder.write(source)
    rows = [["command", "nodes", "written", "seconds", "memory", "with pages of mapped files"]]
    before = ir.load(source).graph.num_nodes()
    for options in ((), ("--verify", "off")):
        command = [_SCRIPTS / "optimize", source, "-o", output, "--passes", "fuse", *options]
        started = time.perf_counter()
        private, peak = _memory(command)
        seconds = time.perf_counter() - started
        nodes = ir.load(output).graph.num_nodes()
        written = sum(path.stat().st_size for path in folder.glob(f"{output.name}*"))
        name = " ".join(("optimize", *options))
        made = [f"{before} to {nodes}", size(written), f"{seconds:.1f}", size(private), size(peak)]
        rows.append([f"`{name}`", *made])
    show(f"weights: {size(weights)}")
    return rows


def _memory(command: Command) -> tuple[int, int]:
    """Run a command; return the most memory of its own it took, and with pages of mapped files.

    The system drops the latter when it needs the room.
    """
    private = peak = 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = {key: int(kb) << 10 for key, kb in re.findall(r"(Rss\w+):\s+(\d+) kB", status)}
            private = max(private, found.get("RssAnon", 0) + found.get("RssShmem", 0))
            peak = max(peak, sum(found.values()))
        time.sleep(0.01)
    if process.returncode:
        assert process.stderr is not None
        raise subprocess.CalledProcessError(
            process.returncode, command, None, process.stderr.read()
        )
    return private, peak


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
        "onnxsim do not. What is measured to decide on rewrites is kept: the first build of a "
        "model on a machine takes longer, by a second at most.",
        fusion,
    ),
    "scaling": ("Cost a node", scaling),
    "large": (
        "A Llama-shaped decoder of 32 layers with 4 GB of external weights through `fuse`",
        large_model,
    ),
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
