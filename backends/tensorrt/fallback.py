# SPDX-License-Identifier: Apache-2.0
"""Cut a model into what TensorRT takes and what it refuses, which ONNX Runtime is left to run.

What the parser refuses becomes known only by asking it: it is asked about each part, and the model
is cut again without what it refused, until it takes every part that is to be an engine. Then the
whole model is run for the shapes of what enters each engine, and the parts are run, all by ONNX
Runtime, to see that they compute what it does.

Nodes that compute sizes from shapes go along with whoever needs the sizes: an engine cannot be
handed a size from outside, and the tensor that has the shape is one that it can.
"""

from __future__ import annotations

import re
import tempfile
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from burnish.backends import partition
from burnish.backends.flow import Flow, reads
from burnish.backends.groups import arrange
from burnish.backends.partition import Partition, Stage
from burnish.backends.profiles import Profile, Range
from burnish.backends.tensorrt import capability, parse
from burnish.backends.tensorrt.parse import UnsupportedError
from burnish.errors import InputError

if TYPE_CHECKING:
    from burnish.backends.onnxruntime import Session, TensorSpec

    Array = np.ndarray[Any, np.dtype[Any]]

WORTH = 5
"""Fewest nodes of an engine. Smaller groups cost more by what is copied than they can gain."""

_SMALL = f"it stands among fewer than {WORTH} nodes that TensorRT takes"
_TYPE = "TensorRT has no tensors of its types"
_OUTSIDE = "a size that it needs is computed outside of the engine"
_VALUES = "its sizes depend on values, and no profile bounds them"

# Sizes of what they give depend on the values of what they take.
_BY_VALUE = frozenset({"Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Unique"})


@dataclass(frozen=True)
class Left:
    """A node that ONNX Runtime runs.

    Attributes:
        node: Its name, or that of its first output.
        op_type: Its operator, with its domain unless the default.
        reason: Why.
    """

    node: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class Split:
    """A model in parts.

    Attributes:
        parts: In order; they compute what the model does.
        engines: Whether each is one that TensorRT takes.
        profiles: Of each, the shapes of what it takes where that varies.
        taken: Number of nodes in engines, without those that go along.
        left: Nodes that are in no engine, in order.
    """

    parts: Partition
    engines: tuple[bool, ...]
    profiles: tuple[tuple[Profile, ...], ...]
    taken: int
    left: tuple[Left, ...]

    def __str__(self) -> str:
        reasons: dict[str, dict[str, None]] = {}
        for item in self.left:
            reasons.setdefault(textwrap.shorten(item.reason, 100), {})[item.op_type] = None
        shown = [
            f"{_some(list(kinds))}: {reason}" for reason, kinds in list(reasons.items())[:_SHOWN]
        ]
        if len(reasons) > _SHOWN:
            shown.append(f"and more, for {len(reasons) - _SHOWN} other reasons")
        return (
            f"TensorRT takes {self.taken} of {self.taken + len(self.left)} nodes, in "
            f"{sum(self.engines)} of {len(self.engines)} parts; ONNX Runtime runs "
            f"{'; '.join(shown)}"
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


_SHOWN = 5


def split(trt: Any, builder: Any, model: ir.Model, profiles: Sequence[Profile]) -> Split:
    """Cut a model.

    Args:
        trt: The module.
        builder: Its builder.
        model: What to cut; missing types and shapes are filled in.
        profiles: Shapes of its inputs to build for; none if they are all fixed.

    Raises:
        InputError: no part is worth an engine, or the model does not run.
        VerificationError: the parts do not compute what the model does.
    """
    from burnish.passes.shapes import infer_shapes

    infer_shapes(model)
    requests = _requests(model, profiles)
    _fill_in(model, requests[0].feeds)
    known = _Sizes(model)
    refused = {node: _TYPE for node in model.graph if not _has_types(node)}
    accepted: set[tuple[frozenset[ir.Node], tuple[str, ...]]] = set()
    while True:
        cut = _cut(model, refused)
        free = [node for node in model.graph if node not in refused]
        found: dict[ir.Node, str] = {}
        for stage, engine, own in zip(cut.parts.stages, cut.engines, cut.own, strict=True):
            part = frozenset(own), stage.inputs
            if engine and part not in accepted:
                no = _ask(trt, builder, stage, own, free) | _unbounded(stage, own, known)
                found |= no
                accepted |= set() if no else {part}
        refused |= found
        if found:
            continue
        seen = _observe(model, cut.parts, cut.engines, requests)
        if not seen.varying:
            break
        # What no rule foresaw: for inputs of the same shapes, other shapes within.
        known.add(seen.varying)
        accepted.clear()
    partition.check(cut.parts, requests[0].feeds, seen.expected)
    pairs = list(zip(cut.parts.stages, cut.engines, strict=True))
    shapes = tuple(seen.profiles(stage) if engine else () for stage, engine in pairs)
    outside = {
        node for own, engine in zip(cut.own, cut.engines, strict=True) if not engine for node in own
    }
    left = tuple(_left(node, refused.get(node, _SMALL)) for node in model.graph if node in outside)
    taken = sum(map(len, cut.own)) - len(left)
    return Split(cut.parts, tuple(cut.engines), shapes, taken, left)


@dataclass(frozen=True)
class _Cut:
    parts: Partition
    engines: list[bool]
    own: list[list[ir.Node]]  # of each part, without those that go along


def _cut(model: ir.Model, refused: Mapping[ir.Node, str]) -> _Cut:
    flow = Flow.of(model, along=_computing_sizes(model.graph, refused))
    chosen, engines = arrange(flow.sources(), [n not in refused for n in flow.nodes], WORTH)
    if not any(engines):
        raise InputError(
            f"TensorRT takes no {WORTH} nodes of this model together: {_first(refused)}",
            hint="choose --kind onnx",
        )
    own: list[list[ir.Node]] = [[] for _ in engines]
    for node, part in zip(flow.nodes, chosen, strict=True):
        own[part].append(node)
    parts = partition.extract(model, flow, [1.0] * len(chosen), chosen, len(engines))
    return _Cut(parts, engines, own)


def _left(node: ir.Node, reason: str) -> Left:
    from burnish.passes.context import describe

    op_type = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    return Left(describe(node), op_type, reason)


def _first(refused: Mapping[ir.Node, str]) -> str:
    for node, reason in refused.items():
        item = _left(node, reason)
        return f"{item.op_type} {item.node!r}: {reason}"
    return "it is that small"


# --- which nodes -------------------------------------------------------------------------------


def _has_types(node: ir.Node) -> bool:
    """Whether all that a node touches are tensors of types that an engine may hold."""
    touched = (*reads(node), *(value for value in node.outputs if value.name))
    return all(
        value.type is None
        or (isinstance(value.type, ir.TensorType) and value.type.dtype.name in capability.TYPES)
        for value in touched
    )


def _computing_sizes(graph: ir.Graph, refused: Collection[ir.Node]) -> set[ir.Node]:
    """Nodes that compute from shapes and constants alone, and give no more than a list."""
    results = set(graph.outputs)
    constant: set[ir.Value] = set(graph.initializers.values()) - set(graph.inputs)
    sizes: set[ir.Value] = set()
    found = set()
    for node in graph:
        needed = set(reads(node))
        if node.op_type == "Constant" or (needed and needed <= constant):
            constant.update(node.outputs)
            continue
        from_shapes = node.op_type in ("Shape", "Size") or (
            bool(needed & sizes) and needed <= sizes | constant and node.op_type not in _RANDOM
        )
        small = all(value.shape is not None and len(value.shape) <= 1 for value in node.outputs)
        ours = node.domain == "" and node not in refused and not results & set(node.outputs)
        if from_shapes and small and ours:
            sizes.update(node.outputs)
            found.add(node)
    return found


_RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike"})


def _ask(
    trt: Any,
    builder: Any,
    stage: Stage,
    own: Sequence[ir.Node],
    candidates: Iterable[ir.Node],
) -> dict[ir.Node, str]:
    """Nodes of a part that the parser refuses, and why; of all of them, if it does not say which.

    Args:
        trt: The module.
        builder: Its builder.
        stage: The part.
        own: Its nodes in the whole model.
        candidates: Those of the whole model that may be named: it also holds some that go along.
    """
    from burnish.backends.onnxfile import save

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.onnx"
        save(stage.model, path)
        try:
            parsed = parse.read(trt, builder, path, stage.model)
        except UnsupportedError as error:
            return _named(error, candidates, own)
        except InputError as error:
            return _about(str(error), own)
        inputs = [parsed.network.get_input(index) for index in range(parsed.network.num_inputs)]
        sizes = {tensor.name for tensor in inputs if tensor.is_shape_tensor}
    users = [node for node in own if any(value.name in sizes for value in reads(node))]
    return dict.fromkeys(users or (own if sizes else ()), _OUTSIDE)


def _named(
    error: UnsupportedError, candidates: Iterable[ir.Node], own: Sequence[ir.Node]
) -> dict[ir.Node, str]:
    homes = {
        value.name: node
        for node in candidates
        for inner in _within(node)
        for value in inner.outputs
    }
    found = {homes[item.output]: item.reason for item in error.nodes if item.output in homes}
    if found:
        return found
    # Of a nameless node in a subgraph, the parser tells the operator alone.
    reasons = {item.op_type: item.reason for item in error.nodes}
    for node in own:
        for inner in _within(node):
            if inner.op_type in reasons:
                found[node] = reasons[inner.op_type]
    return found or _about(error.nodes[0].reason, own)


def _about(text: str, own: Sequence[ir.Node]) -> dict[ir.Node, str]:
    """The nodes that give a value which a message names, or all of them."""
    words = set(re.split(r"[\s,;:'\"()]+", text))
    makers = [n for n in own if words & {value.name for value in n.outputs}]
    return dict.fromkeys(makers or own, text)


def _within(node: ir.Node) -> Iterator[ir.Node]:
    """A node, and those of its subgraphs."""
    from burnish.passes.edit import subgraphs

    yield node
    for graph in subgraphs(node):
        yield from graph.all_nodes()


# --- which sizes -------------------------------------------------------------------------------


class _Sizes:
    """Which values have sizes that do not follow from those of the model's inputs."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._symbols = {
            name
            for value in model.graph.inputs
            for dim in (value.shape or ())
            if isinstance(dim, ir.SymbolicDim)
            for name in dim.free_symbols()
        }
        self._seen: set[str | None] = set()
        self._behind: set[str | None] = set()
        self.add(())

    def add(self, names: Iterable[str]) -> None:
        """Learn of values whose sizes were seen to depend on values."""
        self._seen.update(names)
        self._behind.update(self._seen)
        for node in self._graph:
            by_value = node.op_type in _BY_VALUE and node.domain == ""
            if by_value or any(value.name in self._behind for value in reads(node)):
                self._behind.update(value.name for value in node.outputs if value.name)

    def unbounded(self, value: ir.Value) -> bool:
        """Whether nothing bounds a size of a value."""
        if value.name in self._seen:
            return True
        return value.name in self._behind and (
            value.shape is None or any(map(self._is_open, value.shape))
        )

    def _is_open(self, dim: int | ir.SymbolicDim) -> bool:
        return isinstance(dim, ir.SymbolicDim) and (
            dim.value is None or not dim.free_symbols() <= self._symbols
        )


def _unbounded(stage: Stage, own: Sequence[ir.Node], sizes: _Sizes) -> dict[ir.Node, str]:
    """Nodes of a part to which a size leads that nothing bounds, from outside of the part."""
    reached = {value.name for value in stage.model.graph.inputs if sizes.unbounded(value)}
    found = {}
    for node in own if reached else ():
        if any(value.name in reached for value in reads(node)):
            found[node] = _VALUES
            reached.update(value.name for value in node.outputs if sizes.unbounded(value))
    return found or dict.fromkeys(own if reached else (), _VALUES)


# --- shapes and numbers ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Request:
    profile: str
    end: str  # of the range: min, opt or max
    feeds: dict[str, Array]


@dataclass(frozen=True)
class _Inputs:
    inputs: tuple[TensorSpec, ...]


def _requests(model: ir.Model, profiles: Sequence[Profile]) -> list[_Request]:
    """Random inputs at the ends of each profile, the most important first, which comes twice."""
    from burnish.backends.feeds import input_specs, random_feeds

    specs = input_specs(model)
    found = []
    for profile in profiles or (Profile("fixed", {}),):
        for seed, end in enumerate(("opt", "opt", "min", "max") if profiles else ("opt", "opt")):
            shaped = tuple(
                spec._replace(shape=getattr(profile.inputs[spec.name], end))
                if spec.name in profile.inputs
                else spec
                for spec in specs
            )
            found.append(_Request(profile.name, end, random_feeds(_Inputs(shaped), seed)))
    return found


def _fill_in(model: ir.Model, feeds: Mapping[str, Array]) -> None:
    """Give values whose type or rank is unknown those that they have in a run."""
    values = {
        value.name: value
        for node in model.graph
        for value in node.outputs
        if value.name and (value.type is None or (value.dtype is not None and value.shape is None))
    }
    if not values:
        return
    for name, array in _run(model, values, feeds).items():
        if name in values and isinstance(array, np.ndarray):
            value = values[name]
            value.type = value.type or ir.TensorType(ir.DataType.from_numpy(array.dtype))
            value.shape = value.shape or ir.Shape([None] * array.ndim)


def _run(model: ir.Model, names: Iterable[str], feeds: Mapping[str, Array]) -> dict[str, Array]:
    with _whole(model, names) as whole:
        return whole.run(feeds)


def _whole(model: ir.Model, names: Iterable[str]) -> Session:
    from burnish.backends.onnxruntime import session

    own = {value.name for value in model.graph.outputs}
    return session(model, extra_outputs=[name for name in names if name not in own])


@dataclass(frozen=True)
class _Seen:
    """What runs of the whole model showed.

    Attributes:
        shapes: By profile and end of its range: shape of each value that enters an engine.
        varying: Names of the values that had two shapes for inputs of the same.
        expected: Outputs of the first run.
    """

    shapes: Mapping[tuple[str, str], Mapping[str, tuple[int, ...]]]
    varying: frozenset[str]
    expected: Mapping[str, Array]

    def profiles(self, stage: Stage) -> tuple[Profile, ...]:
        """Profiles of a part; none if all its inputs are of fixed shape."""
        values = [value for value in stage.model.graph.inputs if not _is_fixed(value)]
        names = dict.fromkeys(profile for profile, _ in self.shapes) if values else ()
        return tuple(
            Profile(name, {value.name or "": self._range(name, value) for value in values})
            for name in names
        )

    def _range(self, profile: str, value: ir.Value) -> Range:
        ends = {
            end: run[value.name or ""] for (of, end), run in self.shapes.items() if of == profile
        }
        sizes = np.maximum(np.array(list(ends.values()), dtype=np.int64), 1)
        opt = np.maximum(ends["opt"], 1)
        return Range(*(tuple(map(int, end)) for end in (sizes.min(axis=0), opt, sizes.max(axis=0))))


def _observe(
    model: ir.Model, parts: Partition, engines: Sequence[bool], requests: Sequence[_Request]
) -> _Seen:
    entering = {
        name
        for stage, engine in zip(parts.stages, engines, strict=True)
        if engine
        for name in stage.inputs
    }
    given = {value.name for value in model.graph.inputs}
    shapes: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {}
    varying: set[str] = set()
    expected: dict[str, Array] = {}
    with _whole(model, sorted(entering - given)) as whole:
        for request in requests:
            found = whole.run(request.feeds)
            expected = expected or found
            here = {name: np.shape((request.feeds | found)[name]) for name in entering}
            before = shapes.setdefault((request.profile, request.end), here)
            varying |= {name for name in entering if before[name] != here[name]}
    return _Seen(shapes, frozenset(varying), {name: expected[name] for name in parts.outputs})


def _is_fixed(value: ir.Value) -> bool:
    return value.shape is not None and all(isinstance(dim, int) for dim in value.shape)
