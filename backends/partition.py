# SPDX-License-Identifier: Apache-2.0
"""Cut a model into stages of a pipeline, check that they compute what it does, and write them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx_ir as ir

from burnish.backends.cuts import assign, crossing
from burnish.backends.flow import Flow, read_deep
from burnish.errors import InputError, VerificationError

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

Cost = Literal["flops", "time"]


@dataclass(frozen=True)
class Stage:
    """A part of a model, a model itself.

    Attributes:
        model: It; values keep their names, so stages are wired by name.
        nodes: Number of nodes.
        cost: Of its nodes, in the unit asked for: operations or seconds.
        bytes: Of the values that it hands on.
        weights: Bytes of its weights.
    """

    model: ir.Model
    nodes: int
    cost: float
    bytes: int
    weights: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what it takes: inputs of the whole model, and outputs of stages before."""
        return tuple(value.name or "" for value in self.model.graph.inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it gives."""
        return tuple(value.name or "" for value in self.model.graph.outputs)


@dataclass(frozen=True)
class Partition:
    """A model in stages.

    Attributes:
        stages: In order.
        shared: Name -> bytes of the weights that more than one stage holds.
        outputs: Names of the outputs of the whole model.
    """

    stages: tuple[Stage, ...]
    shared: Mapping[str, int]
    outputs: tuple[str, ...]

    @property
    def imbalance(self) -> float:
        """How much the worst stage costs above the mean: 0.1 is a tenth more."""
        costs = [stage.cost for stage in self.stages]
        return max(costs) * len(costs) / sum(costs) - 1 if sum(costs) else 0.0

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the stages one after the other, each loaded for as long as it runs; all by the CPU.

        Raises:
            InputError: the runtime refuses a stage, or a feed is wrong.
        """
        from burnish.backends.onnxruntime import session

        values = dict(feeds)
        for stage in self.stages:
            with session(stage.model) as loaded:
                values |= loaded.run({name: values[name] for name in stage.inputs})
        return {name: values[name] for name in self.outputs}


def partition(
    model: ir.Model,
    stages: int,
    *,
    balance: float = 0.1,
    cost: Cost = "flops",
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Partition:
    """Cut a model into stages, and check that they compute what it does.

    Args:
        model: The model; shapes are inferred, and it is not changed otherwise.
        stages: How many, at least 2.
        balance: How much more than the mean a stage may cost: 0.1 is a tenth more. Where no cut
            keeps to it, since single nodes cost too much, it is the nearest that was found.
        cost: What to balance: floating-point operations, the same on every machine; or the time
            of each node as measured here, one thread, unfused.
        dims: Sizes of symbolic dimensions by name.
        seed: Seed of the random inputs.

    Raises:
        InputError: there are too few nodes, or it does not run.
        VerificationError: the stages do not compute what the model does.
    """
    from burnish.backends.feeds import random_feeds
    from burnish.backends.onnxruntime import session
    from burnish.passes.shapes import infer_shapes

    if stages < 2:
        raise InputError(f"{stages} stages are no partition", hint="give 2 or more")
    if not balance >= 0:  # NaN, too
        raise InputError(f"a balance of {balance:g} is none", hint="give 0 or more")
    infer_shapes(model)
    graph = Flow.of(model, dims)
    if len(graph.nodes) < stages:
        raise InputError(
            f"{len(graph.nodes)} nodes that depend on inputs make no {stages} stages",
            hint="ask for fewer",
        )
    with session(model) as whole:
        feeds = random_feeds(whole, seed, dims)
        expected = whole.run(feeds)
    costs = graph.operations() if cost == "flops" else _times(model, graph.nodes, feeds)
    found = extract(model, graph, costs, assign(graph, costs, stages, balance), stages)
    check(found, feeds, expected)
    return found


def check(found: Partition, feeds: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    """Compare the stages, run one after the other, with outputs of the whole model.

    Raises:
        VerificationError: they do not compute what the model does.
    """
    from burnish.backends import numeric

    difference = numeric.compare_outputs(expected, found.run(feeds))
    if not difference.ok:
        raise VerificationError(
            f"the stages do not compute what the model does: {difference.worst}"
        )


def _times(model: ir.Model, nodes: Sequence[ir.Node], feeds: Mapping[str, Array]) -> list[float]:
    """Seconds of each node, unfused."""
    from burnish.backends.profile import profile
    from burnish.backends.settings import SessionSettings

    copy = model.clone()
    position = {node: number for number, node in enumerate(model.graph)}
    for number, node in enumerate(copy.graph):
        node.name = f"n{number}"
    found = profile(copy, feeds, settings=SessionSettings(optimize="off"))
    seconds = {entry.name: entry.seconds for entry in found}
    return [seconds.get(f"n{position[node]}", 0.0) for node in nodes]


# --- stages ------------------------------------------------------------------------------------


def extract(
    model: ir.Model, flow: Flow, costs: Sequence[float], chosen: Sequence[int], stages: int
) -> Partition:
    """Make a model of each stage.

    Args:
        model: What is cut; it is not changed.
        flow: Its flow.
        costs: Cost of each node of the flow.
        chosen: Stage of each; no node may come before one that it needs, and no stage be empty.
        stages: How many there are.

    Raises:
        InputError: the type of a value that a cut crosses is unknown.
    """
    crossed = set(crossing(flow, chosen))
    results = [value for value in model.graph.outputs if not value.is_graph_input()]
    made = []
    for number in range(stages):
        own = [node for node, stage in zip(flow.nodes, chosen, strict=True) if stage == number]
        inside = {value for node in own for value in node.outputs}
        entering = dict.fromkeys(
            value
            for node in own
            for value in read_deep(node, flow.index)
            if value not in inside
            and (value in crossed or (value.is_graph_input() and not value.is_initializer()))
        )
        leaving = [value for node in own for value in node.outputs if value in crossed]
        leaving += [
            value
            for value in results
            if value not in leaving
            # An output that depends on no input comes from the last stage.
            and (value in inside or (number == stages - 1 and value.producer() not in flow.index))
        ]
        part = _model(model, list(entering), leaving)
        held = [value.const_value for value in part.graph.initializers.values()]
        made.append(
            Stage(
                part,
                len(part.graph),
                sum(c for c, stage in zip(costs, chosen, strict=True) if stage == number),
                sum(flow.bytes(value) for value in leaving if value in crossed),
                sum(tensor.nbytes for tensor in held if tensor is not None),
            )
        )
    return Partition(
        tuple(made), _shared(made), tuple(value.name or "" for value in model.graph.outputs)
    )


def _model(model: ir.Model, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
    for value in (*inputs, *outputs):
        if value.type is None:
            raise InputError(
                f"the type of {value.name!r}, which a cut crosses, is unknown",
                hint="ask for another number of stages",
            )
    graph = ir.convenience.extract(model.graph, inputs, outputs)
    return ir.Model(
        graph,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        functions=tuple(model.functions.values()),
    )


def _shared(stages: Iterable[Stage]) -> dict[str, int]:
    count: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    for stage in stages:
        for name, value in stage.model.graph.initializers.items():
            count[name] += 1
            sizes[name] = 0 if value.const_value is None else value.const_value.nbytes
    return {name: sizes[name] for name, times in sorted(count.items()) if times > 1}


# --- files -------------------------------------------------------------------------------------

_INDEX = "partition.json"


def write(found: Partition, path: Path) -> None:
    """Write the stages, `stage-0.onnx` and so on, and how they are wired: `partition.json`.

    Raises:
        InputError: `path` cannot be written, or is a folder of something else.
    """
    from burnish.backends.onnxfile import save
    from burnish.files import folder_aside

    if path.exists() and not path.is_dir():
        raise InputError(f"output {path} is a file", hint="name a folder")
    if path.is_dir() and any(path.iterdir()) and not (path / _INDEX).is_file():
        raise InputError(
            f"folder {path} is not empty and holds no stages; it is not replaced",
            hint="name another folder",
        )
    with folder_aside(path) as folder:
        for number, stage in enumerate(found.stages):
            save(stage.model, folder / _file(number))
        text = json.dumps(as_dict(found), indent=2, sort_keys=True)
        (folder / _INDEX).write_text(f"{text}\n", encoding="utf-8")


def as_dict(found: Partition) -> dict[str, Any]:
    """Return how stages are wired and what they cost, ready for JSON."""
    stages = [
        {
            "file": _file(number),
            "inputs": list(stage.inputs),
            "outputs": list(stage.outputs),
            "nodes": stage.nodes,
            "cost": stage.cost,
            "bytes_handed_on": stage.bytes,
            "weight_bytes": stage.weights,
        }
        for number, stage in enumerate(found.stages)
    ]
    return {
        "stages": stages,
        "outputs": list(found.outputs),
        "imbalance": found.imbalance,
        "shared_weights": dict(found.shared),
    }


def _file(number: int) -> str:
    return f"stage-{number}.onnx"
