# SPDX-License-Identifier: Apache-2.0
"""Random graphs drawn from rules' own patterns, and near misses of them, for tests.

    model = sample(rules, seed=7)
    run_pass("fuse", after := model.clone())
    assert_same_sample(drawn, after)

A pattern is walked from its leaves; what it leaves open (sizes, constants, attributes, the next
input) is drawn. Each node is run as it is drawn, so every size is known and a graph that the
runtime would refuse never grows. One pattern's output is the next one's input.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from burnish.errors import BurnishError
from burnish.passes.pattern import Either, Literal, NodePattern, Output, ValuePattern, Variable
from burnish.passes.rule import Rule

_SHAPES = ((2, 3, 4), (2, 4), (1, 4, 6, 6), (2, 4, 5, 5), (2, 2, 3, 4), (1, 4, 1, 1))
_LARGEST = 1e4  # beyond it sums cancel, and equal models differ by rounding
_SMALLEST = 1e-2  # of what is largest: what cancels to less is rounding that these would enlarge
_SHARES = {"perm": 0.8}  # of the nodes that carry an optional attribute, where it is not less
# Steep near zero, and near the halves and whole numbers: there, rounding becomes a difference.
_STEEP = ("Reciprocal", "Sqrt", "Log", "Div", "Pow")
_STEPS = ("Floor", "Ceil", "Round")

# What stands in for an operator in a near miss: the same arity, another function.
_NEIGHBOURS = (
    ("Add", "Sub", "Mul", "Div", "Max", "Min"),
    ("Relu", "Tanh", "Sigmoid", "Erf", "Abs", "Neg", "Sqrt", "Exp", "Ceil", "Floor", "Softplus"),
    ("ReduceMean", "ReduceSum", "ReduceMax"),
    ("AveragePool", "MaxPool"),
)


# Inputs that want indices or truth values; what only moves elements wants what its reader wants.
_KINDS = {("Gather", 1): "index", ("Where", 0): "truth", ("Not", 0): "truth"} | {
    (op_type, index): "truth" for op_type in ("And", "Or", "Xor") for index in (0, 1)
}
_MOVES = ("Reshape", "Transpose", "Expand", "Squeeze", "Unsqueeze", "Slice", "Concat")


class _Dead(Exception):
    """This draw leads to no valid graph."""


@dataclass
class _Sketch:
    """A graph as it grows; every value with the array it has for the inputs drawn."""

    rng: random.Random
    opset: int
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    current: str = ""

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def add(self, kind: list[str], array: np.ndarray) -> str:
        name = f"{'x' if kind is self.inputs else 'c'}{len(kind)}"
        kind.append(name)
        self.arrays[name] = array
        return name

    def data(self, shape: Sequence[int]) -> np.ndarray:
        """Return numbers from 0.5 to 1.5, away from where functions bend and sums cancel."""
        numbers = [self.rng.uniform(0.5, 1.5) for _ in range(int(np.prod(shape)))]
        return np.array(numbers, np.float32).reshape(tuple(shape))

    def fork(self) -> _Sketch:
        kept = {name: copy(value) for name, value in vars(self).items() if name != "rng"}
        return _Sketch(rng=self.rng, **kept)

    def emit(
        self, op_type: str, domain: str, inputs: Sequence[str], count: int, **given: Any
    ) -> Any:
        """Append a node and run it."""
        names = [f"t{len(self.nodes)}_{index}" for index in range(count)]
        node = onnx.helper.make_node(op_type, inputs, names, domain=domain, **given)
        if self.enlarges(op_type, inputs):
            raise _Dead
        results = _run(node, {name: self.arrays[name] for name in inputs if name}, self.opset)
        for name, array in zip(names, results, strict=True):
            large = array.dtype.kind == "f" and not np.all(np.abs(array) < _LARGEST)
            if large and op_type != "Pad":
                raise _Dead
            self.arrays[name] = array
        self.nodes.append(node)
        return names

    def enlarges(self, op_type: str, inputs: Sequence[str]) -> bool:
        """Whether an operator makes much of what may be rounding in a computed value."""
        place = 1 if op_type == "Div" else 0
        given = inputs[place] if place < len(inputs) else ""
        array = self.arrays.get(given)
        drawn = given in self.inputs or given in self.constants
        if array is None or array.dtype.kind != "f" or drawn:
            return False
        if op_type in _STEPS:
            away = np.abs(array * 2 - np.rint(array * 2))
            return bool(away.any() and away.min() < _SMALLEST)
        if op_type == "Pow" and np.all(self.arrays[inputs[1]] >= 1):
            return False
        rest = [array for array in self.arrays.values() if array.dtype.kind == "f"]
        largest = max(np.abs(a).max(initial=1, where=np.isfinite(a)) for a in rest)
        small = np.abs(array).min(initial=largest) < _SMALLEST * largest
        return op_type in _STEEP and bool(small)

    def model(self) -> ir.Model:
        """Return the graph so far; values nothing uses are its outputs."""
        used = {name for node in self.nodes for name in node.input}
        made = [name for node in self.nodes for name in node.output]
        ends = [name for name in made if name not in used or name in self.outputs]

        def info(name: str) -> onnx.ValueInfoProto:
            array = self.arrays[name]
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            return onnx.helper.make_tensor_value_info(name, kind, array.shape)

        used_inputs = [name for name in self.inputs if name in used]
        graph = onnx.helper.make_graph(
            self.nodes,
            "sample",
            list(map(info, used_inputs)),
            list(map(info, ends)),
            [
                onnx.numpy_helper.from_array(self.arrays[name], name)
                for name in self.constants
                if name in used
            ],
        )
        return ir.from_proto(_model(graph, self.opset))

    def feeds(self) -> dict[str, np.ndarray]:
        """Return the inputs that were drawn."""
        used = {name for node in self.nodes for name in node.input}
        return {name: self.arrays[name] for name in self.inputs if name in used}


def _model(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    imports = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)


def _run(node: onnx.NodeProto, feeds: dict[str, np.ndarray], opset: int) -> list[np.ndarray]:
    from burnish.backends import onnxruntime

    def info(name: str) -> onnx.ValueInfoProto:
        kind = onnx.helper.np_dtype_to_tensor_dtype(feeds[name].dtype)
        return onnx.helper.make_tensor_value_info(name, kind, feeds[name].shape)

    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = onnx.helper.make_graph([node], "one", list(map(info, feeds)), outputs)
    try:
        inferred = onnx.shape_inference.infer_shapes(_model(graph, opset), strict_mode=True)
        with onnxruntime.session(inferred.SerializeToString()) as session:
            return list(session.run(feeds).values())
    except (BurnishError, onnx.shape_inference.InferenceError) as error:
        raise _Dead from error


def _runs(sketch: _Sketch) -> bool:
    """Whether the runtime takes the whole: it knows more of a node's input than of a lone one."""
    from burnish.backends import onnxruntime

    try:
        with onnxruntime.session(sketch.model()) as session:
            session.run(sketch.feeds())
    except BurnishError:
        return False
    return True


# --- one pattern ---------------------------------------------------------------------------------


class _Walk:
    """Draws one instance of a pattern into a sketch."""

    def __init__(self, sketch: _Sketch, miss: int | None) -> None:
        self.sketch = sketch
        self.bound: dict[ValuePattern, str] = {}
        self.made: dict[NodePattern, list[str]] = {}
        self.miss = miss  # which draw is to go astray; counts down
        self.kind = ""  # what is wanted here: an "index", "truth", or numbers

    def astray(self) -> bool:
        """Whether this is the place of the near miss."""
        if self.miss is None:
            return False
        self.miss -= 1
        return self.miss == -1

    def value(self, pattern: ValuePattern, user: NodePattern, index: int, beside: list[str]) -> str:
        sketch = self.sketch
        if isinstance(pattern, Output):
            return self.node(pattern.node)[pattern.index]
        if pattern in self.bound and not self.astray():
            return self.bound[pattern]
        if isinstance(pattern, Either):
            name = self.value(sketch.rng.choice(pattern.options), user, index, beside)
            self.bound[pattern] = name
            return name
        if isinstance(pattern, Literal):
            kinds = [sketch.arrays[name].dtype for name in beside]
            kind = next((item for item in kinds if item.kind != "b"), np.dtype(np.float32))
            number = pattern.value * (1.25 if self.astray() else 1)
            name = sketch.add(sketch.constants, np.asarray(number, kind))
        else:
            name = self.leaf(pattern, sorted(user.op_types)[0], index, beside)
        self.bound[pattern] = name
        return name

    def leaf(self, variable: Variable, op_type: str, index: int, beside: list[str]) -> str:
        sketch = self.sketch
        if variable.optional and sketch.chance(0.5):
            return ""
        known = sketch.arrays[beside[0]] if beside else None
        constant = _argument(op_type, index, sketch, known)
        plain = not variable.constant and (beside or self.kind) and sketch.chance(0.3)
        if variable.constant or constant is not None or plain:
            candidates = [constant] if constant is not None else list(_beside(sketch, known))
            if constant is None and self.kind:
                candidates = [_special(self.kind, sketch, known) for _ in range(8)]
            if variable.predicate is not None:
                candidates = [array for array in candidates if variable.predicate(array)]
            if not candidates:
                raise _Dead
            return sketch.add(sketch.constants, sketch.rng.choice(candidates))
        if self.kind:
            return sketch.add(sketch.inputs, _special(self.kind, sketch, known))
        if sketch.current and sketch.chance(0.8):
            return sketch.current
        shape = sketch.rng.choice(_SHAPES) if known is None else known.shape
        return sketch.add(sketch.inputs, sketch.data(shape))

    def node(self, pattern: NodePattern) -> list[str]:
        if pattern in self.made:
            return self.made[pattern]
        sketch = self.sketch
        op_type = sketch.rng.choice(sorted(pattern.op_types))
        inputs = [""] * len(pattern.inputs)
        beside: list[str] = []
        # Computed ones first: what stands beside them is drawn to suit their shape.
        order = sorted(range(len(inputs)), key=lambda i: isinstance(pattern.inputs[i], _LEAF))
        wanted = self.kind if op_type in _MOVES else ""
        for index in order:
            self.kind = _KINDS.get((op_type, index), "" if index else wanted)
            inputs[index] = self.value(pattern.inputs[index], pattern, index, beside)
            beside += [inputs[index]] if inputs[index] else []
        if pattern.inputs and getattr(pattern.inputs[-1], "variadic", False) and sketch.chance(0.5):
            inputs.append(inputs[-1])
        if self.astray():
            op_type = _neighbour(op_type, sketch.rng)
        data = sketch.arrays[beside[0]] if beside else np.zeros(())
        schema = _schema(op_type, pattern.domain, sketch.opset)
        while pattern.more and len(inputs) < max(2, schema.min_input + sketch.chance(0.7)):
            more = _argument(op_type, len(inputs), sketch, data)
            if more is None:
                break
            inputs.append(sketch.add(sketch.constants, more))
        attributes = self.attributes(pattern, schema, data)
        made: list[str] = sketch.emit(
            op_type, pattern.domain, inputs, pattern.outputs, **attributes
        )
        if self.astray():
            sketch.outputs.append(made[0])
        self.made[pattern] = made
        return made

    def attributes(
        self, pattern: NodePattern, schema: onnx.defs.OpSchema, data: np.ndarray
    ) -> dict[str, Any]:
        sketch, found = self.sketch, dict[str, Any]()
        for name, declared in schema.attributes.items():
            wanted = pattern.attributes.get(name)
            count = len(pattern.inputs)
            choices = list(_attribute(schema.name, name, sketch, data, count))
            if wanted is not None and not callable(wanted) and not self.astray():
                found[name] = wanted
            elif callable(wanted):
                fitting = [choice for choice in choices if wanted(choice)]
                if not fitting:
                    raise _Dead
                found[name] = sketch.rng.choice(fitting)
            elif choices and (declared.required or sketch.chance(_SHARES.get(name, 0.4))):
                found[name] = sketch.rng.choice(choices)
        return found


_LEAF = (Variable, Literal)


def _schema(op_type: str, domain: str, opset: int) -> onnx.defs.OpSchema:
    try:
        return onnx.defs.get_schema(op_type, 1 if domain else opset, domain)
    except onnx.defs.SchemaError as error:
        raise _Dead from error


def _neighbour(op_type: str, rng: random.Random) -> str:
    for family in _NEIGHBOURS:
        if op_type in family:
            return rng.choice([name for name in family if name != op_type])
    raise _Dead


def _beside(sketch: _Sketch, known: np.ndarray | None) -> Iterator[np.ndarray]:
    """Yield constants that may stand in arithmetic with a value."""
    shape = known.shape if known is not None else (4,)
    wanted = {(), (1,), shape[-1:], shape, (1,) * len(shape)}
    if len(shape) > 2:
        wanted |= {(shape[1], *(1,) * (len(shape) - 2)), (1, shape[1], *(1,) * (len(shape) - 2))}
    for item in sorted(wanted):
        yield sketch.data(item)
        yield np.zeros(item, np.float32)
        yield -np.zeros(item, np.float32)
        yield np.ones(item, np.float32)


def _special(kind: str, sketch: _Sketch, known: np.ndarray | None) -> np.ndarray:
    """Return indices into any axis of two or more, or truth values beside a known value."""
    if kind == "index":
        shape = sketch.rng.choice(((), (1,), (3,), (2, 2)))
        picks = (sketch.data(shape) > 1) * sketch.rng.choice((1, -1))
        return np.asarray(picks, np.int64)
    beside = sketch.arrays.get(sketch.current) if known is None else known
    shape = () if sketch.chance(0.3) else (2, 3) if beside is None else beside.shape
    return np.asarray(sketch.data(shape) > 1)


def _argument(
    op_type: str, index: int, sketch: _Sketch, known: np.ndarray | None
) -> np.ndarray | None:
    """Return a constant where an operator wants one there: weights, sizes, axes; else None."""
    if known is None:
        return None
    try:
        return _of_shape(op_type, index, sketch, known.shape)
    except IndexError as error:
        raise _Dead from error


def _of_shape(op_type: str, index: int, sketch: _Sketch, dims: Sequence[int]) -> np.ndarray | None:
    choice = sketch.rng.choice
    match op_type, index:
        case "Conv" | "ConvTranspose", 1 if 0 in dims:
            raise _Dead  # the runtime aborts
        case "Conv", 1:
            return sketch.data((4, choice((dims[1], 1)), *(3,) * (len(dims) - 2))) / 9
        case "Conv", 2:
            return sketch.data((4,))
        case "ConvTranspose", 1:
            return sketch.data((dims[1], 3, *(2,) * (len(dims) - 2)))
        case "MatMul" | "Gemm", 1:
            return sketch.data((dims[-1], 5))
        case "Gemm", 2:
            return sketch.data((5,))
        case "BatchNormalization", 1 | 2 | 3 | 4:
            return sketch.data((dims[1],))
        case "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization", 1 | 2:
            return sketch.data((dims[-1],))
        case "PRelu", 1 if not dims:
            raise _Dead  # the runtime alone takes slopes of more axes than the data
        case "Pad", 1:
            edge = [choice((0, 0, 1, 2)) for _ in range(2 * (len(dims) - 2))]
            return _ints(0, 0, *edge[::2], 0, 0, *edge[1::2])
        case "Pad", 2:
            return np.array(choice((0.0, 0.0, -np.inf)), np.float32)
        case "Reshape", 1:
            size = math.prod(dims)
            if sketch.chance(0.3):  # as an earlier one was
                return _ints(*choice([a.shape for a in sketch.arrays.values() if a.size == size]))
            apart = [(-1, 2, *dims[1:]), (dims[0], -1, 2, *dims[2:]), (*dims[:-1], 2, -1)]
            flat = [(dims[0], -1), (-1,), (-1, *dims[2:]), dims[::-1]]
            return _ints(*choice([(*dims,), (*dims[:-1], -1), *apart, *flat]))
        case "Squeeze", 1:
            return _ints(tuple(dims).index(1) if 1 in dims else 0)
        case "Unsqueeze", 1:
            return _ints(choice((0, 1, -1, len(dims))))
        case "Slice", 1:
            return _ints(choice((0, 0, 1, -2)))
        case "Slice", 2:
            return _ints(choice((2**63 - 1, 3, -1)))
        case "Slice", 3:
            return _ints(choice((-1, 0, 1)))
        case "Split", 1:
            return _ints(dims[0])
        case "Expand", 1:
            return _ints(*choice([(*dims,), (2, *dims), [3 if dim == 1 else dim for dim in dims]]))
        case "ReduceMean" | "ReduceSum" | "ReduceMax", 1:
            return _ints(*choice([(-1,), (len(dims) - 1,), (len(dims) - 2, len(dims) - 1), (1,)]))
    return None


def _ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def _attribute(
    op_type: str, name: str, sketch: _Sketch, data: np.ndarray, count: int
) -> Iterator[int | float | str | list[int]]:
    """Yield values an attribute of an operator with so many inputs may have."""
    rank = data.ndim
    if name == "perm" and rank:
        for _ in range(4):
            yield sketch.rng.sample(range(rank), rank)
        yield list(range(rank))
        yield [*range(rank - 2), rank - 1, rank - 2]
        yield [0, 2, 1, *range(3, rank)][:rank]
    elif name == "axis":
        yield from (-1, 0, 1)
    elif name == "keepdims":
        yield 1
    elif name == "group" and rank > 1:
        yield from (1, data.shape[1])
    elif name == "kernel_shape" and op_type.endswith("Pool") and rank > 2:
        yield [2] * (rank - 2)
    elif name == "pads" and op_type != "Pad" and rank > 2:
        yield [sketch.rng.choice((0, 1)) for _ in range(2 * (rank - 2))]
    elif name == "to":
        yield from (1, 6, 7, 10, 11)
    elif name == "equation":
        for _ in range(8):
            yield _equation(sketch.rng, rank, count)
    elif name in ("transB", "count_include_pad", "ceil_mode"):
        yield from (0, 1)


def _equation(rng: random.Random, rank: int, count: int) -> str:
    """Return an equation of Einsum with tensors of one shape, each axis alike or kept apart."""
    letters = [chr(ord("a") + axis) for axis in range(rank)]
    terms = [letters, *([rng.choice((c, c.upper())) for c in letters] for _ in range(count - 1))]
    times = Counter(c for term in terms for c in term)
    # One that a single tensor has is seldom summed.
    result = [c for c, n in times.items() if rng.random() < (0.5 if n > 1 else 0.95)]
    rng.shuffle(result)
    return ",".join(map("".join, terms)) + "->" + "".join(result)


# --- whole graphs --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A drawn graph.

    Attributes:
        model: The graph.
        feeds: Its inputs as drawn.
        rules: Names of the rules whose patterns it is made of.
        magnitude: The largest finite number on the way: what rounding is relative to.
    """

    model: ir.Model
    feeds: dict[str, np.ndarray]
    rules: tuple[str, ...]
    magnitude: float


def sample(
    rules: Sequence[Rule], seed: int, *, opset: int = 21, length: int = 1, near_miss: bool = False
) -> Sample | None:
    """Draw a graph of up to `length` patterns, one behind another.

    Args:
        rules: Rules to draw from, `length` times.
        seed: The same seed gives the same graph.
        opset: Version of the default operator set.
        length: Patterns to try; those that fit nowhere are left out.
        near_miss: Let one thing in each pattern be otherwise: an operator, a number, an attribute,
            an input, or an inner value that is an output too.

    Returns:
        The sample, or None if not one pattern fitted.
    """
    rng = random.Random(seed)
    sketch = _Sketch(rng, opset)
    taken: list[str] = []
    for _ in range(length):
        chosen = rng.choice(rules)
        if not chosen.applies_to(opset):
            continue
        grown = sketch.fork()
        walk = _Walk(grown, rng.randrange(12) if near_miss else None)
        try:
            roots = [walk.node(root.node)[root.index] for root in rng.choice(chosen.patterns).roots]
        except _Dead:
            continue
        if not _runs(grown):
            continue
        grown.current = roots[0] if grown.arrays[roots[0]].dtype == np.float32 else ""
        sketch = grown
        taken.append(chosen.name)
    if not taken:
        return None
    largest = max(np.abs(a[np.isfinite(a)]).max(initial=1) for a in sketch.arrays.values())
    return Sample(sketch.model(), sketch.feeds(), tuple(taken), float(largest))
