# SPDX-License-Identifier: Apache-2.0
"""The region a rewrite replaces, before and after, as two small models that can be timed.

Before is what would become dead; after is what the rewrite has built. Both get the same margin of
operators that only move data, because a rewrite may make those around it superfluous. Inputs are
the values that enter, with the shapes they have on one sample; weights become random ones.

Left out of both, and run only once for its results, is what costs nothing where it counts: small
computations of sizes, and what the replacement makes of values that other places treat in the same
way (of a mask, or a table of angles), since common subexpressions are merged later.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from burnish.passes.inputs import Sample
from burnish.passes.part import (
    MAX_NODES,
    CannotMeasure,
    Part,
    check_types,
    constant_of,
    model_of,
)

Pairs = Sequence[tuple[ir.Value, ir.Value]]

# They move data or only view it.
_MOVES = frozenset({"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_MAX_BYTES = 128 << 20
"""Of all that enters."""
_MAX_INNER = 512 << 20
"""Of one value that is computed inside."""
_KEY_ELEMENTS = 64
"""Integers of constants up to this size tell questions apart: they are axes and sizes."""


@dataclass(frozen=True)
class Region:
    """A region before and after a rewrite; see `find`. Of use until the rewrite is done.

    Attributes:
        key: Digest of operators, attributes, shapes and types, but of no names and no weights.
        removed: Operators that the rewrite removes.
        inputs: Values that enter, in canonical order.
        sample: What it is measured for.
        opset_imports: Version of each domain.
    """

    key: str
    removed: tuple[str, ...]
    inputs: tuple[ir.Value, ...]
    sample: Sample
    opset_imports: Mapping[str, int]
    _before: Part
    _after: Part
    _prelude: Part

    @property
    def shapes(self) -> list[str]:
        """Sizes of the values that enter, but for those that are computed once: `1x32x384`."""
        kept = [value for value in self.inputs if value not in self._prelude.exits]
        return ["x".join(map(str, self.sample.shape(value))) or "scalar" for value in kept]

    def models(self) -> tuple[ir.Model, ir.Model]:
        """Return the two models; their inputs bear the same names."""
        names = self._names()
        before, after = (
            model_of(part, names, self.opset_imports) for part in (self._before, self._after)
        )
        return before, after

    def feeds(self) -> dict[str, np.ndarray]:
        """Return inputs by name: random, but those that are computed once are computed."""
        given = set(self._prelude.exits)
        entering = dict.fromkeys((*self._before.inputs, *self._after.inputs, *self._prelude.inputs))
        names, rng = self._names(), np.random.default_rng(0)
        feeds = {
            names[value]: self.sample.array(value, rng) for value in entering if value not in given
        }
        if given:
            from burnish.backends.onnxruntime import session

            with session(model_of(self._prelude, names, self.opset_imports)) as run:
                feeds |= run.run({spec.name: feeds[spec.name] for spec in run.inputs})
        return feeds

    def _names(self) -> dict[ir.Value, str]:
        entering = (*self.inputs, *self._prelude.inputs, *self._prelude.exits)
        return {value: f"x{index}" for index, value in enumerate(dict.fromkeys(entering))}


def find(
    pairs: Pairs,
    made: Sequence[ir.Node],
    sample: Sample,
    opset_imports: Mapping[str, int],
) -> Region:
    """Find what a rewrite that is not yet spliced in would replace, and by what.

    Args:
        pairs: Old and new value for each output.
        made: New nodes, not in the graph yet.
        sample: What it shall be measured for.
        opset_imports: Version of each domain.

    Raises:
        CannotMeasure: it cannot be run on its own.
    """
    new = dict(pairs)
    removed = _removed(new)
    if not removed:
        raise CannotMeasure("nothing is removed")
    inside = dict.fromkeys((*removed, *made))
    shared, constant = _computed_once(removed, made)
    if any(value.producer() in shared for pair in pairs for value in pair):
        shared.clear()
    margin = _margin(new, removed, inside)
    exits = tuple(_exits((*removed, *margin), {*inside, *margin}, new))
    if not exits:
        raise CannotMeasure("nothing uses it")
    before = Part({*removed, *margin} - shared, {}, exits)
    after = Part({*made, *margin} - shared, new, exits)
    for part in (before, after):
        part.trace()
    inputs = tuple(dict.fromkeys((*before.inputs, *after.inputs)))
    prelude = _prelude(inputs, shared, constant)
    check_types(dict.fromkeys((*inputs, *prelude.inputs)))
    _check_size(sample, before, after, prelude)
    opsets = {**{node.domain: 1 for node in made}, **opset_imports}
    key = _key(sample, opsets, inputs, prelude.exits, before, after)
    names = tuple(node.op_type for node in before.nodes if node not in margin)
    return Region(key, names, inputs, sample, opsets, before, after, prelude)


# --- what belongs to it --------------------------------------------------------------------------


def _removed(new: Mapping[ir.Value, ir.Value]) -> dict[ir.Node, None]:
    """Return the nodes that nothing needs any more once the old values are replaced."""
    found: dict[ir.Node, None] = {}
    pending = [old.producer() for old in new]
    while pending:
        node = pending.pop()
        if node is None or node in found or node.op_type == "Constant":
            continue
        if all(value in new or _used_only_by(value, found) for value in node.outputs):
            found[node] = None
            pending += [value.producer() for value in node.inputs if value is not None]
        if len(found) > MAX_NODES:
            raise CannotMeasure("the region is too large")
    return found


def _used_only_by(value: ir.Value, nodes: Collection[ir.Node]) -> bool:
    # Not `uses()`, which copies: a value may have thousands of users.
    return not value.is_graph_output() and all(use.node in nodes for use in value._uses)


def _computed_once(
    removed: Collection[ir.Node], made: Collection[ir.Node]
) -> tuple[set[ir.Node], set[ir.Node]]:
    """Return the nodes that other places have too, and share; and those of constants alone.

    The former depend on sizes alone, or on values that other places treat in the same way.
    """
    once: set[ir.Node] = set()
    constant: set[ir.Node] = set()
    inside = {*removed, *made}
    for node in _sorted(inside):
        given = [v for v in node.inputs if v is not None and constant_of(v) is None]
        varying = [value for value in given if value.producer() not in constant]
        if not varying:
            constant.add(node)
        elif any(_is_own_weight(value, inside) for value in node.inputs):
            continue  # no other place computes the same
        elif node.op_type in ("Shape", "Size") or all(
            value.producer() in once
            or (value.producer() not in inside and _is_shared(value, removed, made))
            for value in varying
        ):
            once.add(node)
    return once, constant


def _sorted(nodes: Collection[ir.Node]) -> list[ir.Node]:
    """Return nodes each behind those it takes values of."""
    placed: dict[ir.Node, None] = {}
    pending = [(node, False) for node in nodes]
    while pending:
        node, ready = pending.pop()
        if ready:
            placed[node] = None
        elif node not in placed:
            pending.append((node, True))
            above = (value.producer() for value in node.inputs if value is not None)
            pending += [(maker, False) for maker in above if maker is not None and maker in nodes]
    return list(placed)


def _is_own_weight(value: ir.Value | None, inside: Collection[ir.Node]) -> bool:
    """Whether a value is a constant of some size that no other place uses."""
    tensor = None if value is None else constant_of(value)
    if value is None or tensor is None or tensor.size <= _KEY_ELEMENTS:
        return False
    return _used_only_by(value, inside)


def _is_shared(value: ir.Value, removed: Collection[ir.Node], made: Collection[ir.Node]) -> bool:
    """Whether a value has, elsewhere too, the users it has on one side of the rewrite.

    They are alike if they take as many inputs, and the value in the same place: it may be one of
    the maps that several Concats join, each with others.
    """
    old: set[tuple[str, int, int]] = set()
    new: set[tuple[str, int, int]] = set()
    others: set[tuple[str, int, int]] = set()
    for use in value._uses:
        kinds = old if use.node in removed else new if use.node in made else others
        kinds.add((use.node.op_type, len(use.node.inputs), use.idx))
    return any(kinds and kinds <= others for kinds in (old, new))


def _margin(
    new: Mapping[ir.Value, ir.Value], removed: Collection[ir.Node], core: Collection[ir.Node]
) -> dict[ir.Node, None]:
    """Return the nodes around a region that only move data, and only its data; in order."""
    inside = set(core)
    margin: dict[ir.Node, None] = {}
    pending = [value for node in core for value in node.inputs]
    while pending and len(margin) < MAX_NODES:
        value = pending.pop()
        node = None if value is None else value.producer()
        if node is None or node in inside or not _moves(node, removed):
            continue
        if _used_only_by(node.outputs[0], inside):
            margin[node] = None
            inside.add(node)
            pending += node.inputs
    below = list(new)
    while below and len(margin) < MAX_NODES:
        value = below.pop()
        users = value.consumers() if len(value._uses) == 1 else ()
        if value.is_graph_output() or not users:
            continue
        (user,) = users
        if user not in inside and _moves(user, removed) and user.inputs[0] is value:
            margin[user] = None
            inside.add(user)
            below.append(user.outputs[0])
    return margin


def _moves(node: ir.Node, removed: Collection[ir.Node]) -> bool:
    graph = next(iter(removed)).graph
    return node.op_type in _MOVES and node.domain == "" and node.graph is graph


def _exits(
    members: Collection[ir.Node], inside: Collection[ir.Node], new: Mapping[ir.Value, ir.Value]
) -> Iterator[ir.Value]:
    """Yield the values that leave a region, in an order that does not depend on the graph's."""
    found = [
        value
        for node in members
        for value in node.outputs
        if value.is_graph_output() or any(use.node not in inside for use in value._uses)
    ]
    order = {value: index for index, value in enumerate(new)}
    below = {value: _origin(value, order) for value in found}
    yield from sorted(found, key=lambda value: below[value])


def _origin(value: ir.Value, order: Mapping[ir.Value, int]) -> int:
    """Return which of the old values a value of the margin below is a view of."""
    seen: ir.Value | None = value
    while seen is not None and seen not in order:
        node = seen.producer()
        seen = None if node is None or not node.inputs else node.inputs[0]
    return len(order) if seen is None else order[seen]


def _prelude(
    inputs: Sequence[ir.Value], shared: Collection[ir.Node], constant: Collection[ir.Node]
) -> Part:
    """Return what computes, once, the inputs that are sizes or that other places share."""
    wanted = [value for value in inputs if value.producer() in shared or _is_size(value)]
    members: set[ir.Node] = set()
    pending = list(wanted)
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None or node in members:
            continue
        if not (node in shared or node in constant or _is_size(value)):
            continue
        members.add(node)
        if len(members) > MAX_NODES:
            raise CannotMeasure("sizes are computed by too many operators")
        pending += [item for item in node.inputs if item is not None]
    part = Part(members, {}, tuple(value for value in wanted if value.producer() in members))
    part.trace()
    return part


def _is_size(value: ir.Value) -> bool:
    """Whether a value is a number or a list of numbers that stands for sizes or axes."""
    integer = value.dtype is not None and value.dtype.is_integer()
    return integer and value.shape is not None and len(value.shape) <= 1


def _check_size(sample: Sample, before: Part, after: Part, prelude: Part) -> None:
    parts, size = (before, after, prelude), 0
    for value in dict.fromkeys(value for part in parts for value in part.inputs):
        if value not in prelude.exits:
            if 0 in sample.shape(value):
                raise CannotMeasure("there is nothing in it on these inputs")
            size += _bytes(sample, value)
    size += sum(tensor.nbytes for part in parts for tensor in part.constants.values())
    inner = (value for part in parts for node in part.nodes for value in node.outputs)
    known = (_bytes(sample, value) for value in inner if sample.knows(value))
    if size > _MAX_BYTES or max(known, default=0) > _MAX_INNER:
        raise CannotMeasure("the region is too large")


def _bytes(sample: Sample, value: ir.Value) -> int:
    bits = 8 if value.dtype is None else max(value.dtype.bitwidth, 8)
    return math.prod(sample.shape(value)) * bits // 8


# --- what tells it apart -------------------------------------------------------------------------


def _key(
    sample: Sample,
    opset_imports: Mapping[str, int],
    inputs: Sequence[ir.Value],
    computed: Collection[ir.Value],
    before: Part,
    after: Part,
) -> str:
    """Digest two sides; equal for the same layer of a model again."""
    symbols: dict[str, int] = {}

    def shape(value: ir.Value) -> list[int | str]:
        dims = () if value.shape is None else value.shape.dims
        # By the order in which they occur: layers name what they infer by themselves.
        return [
            dim if isinstance(dim, int) else f"s{symbols.setdefault(str(dim), len(symbols))}"
            for dim in dims
        ]

    def size(value: ir.Value) -> tuple[int, ...] | None:
        try:
            return sample.shape(value)
        except CannotMeasure:
            if value not in computed:
                raise
            return None

    text = [repr([(str(v.dtype), shape(v), size(v)) for v in inputs])]
    for part in (before, after):
        number = {value: f"x{index}" for index, value in enumerate(inputs)}
        for value, tensor in part.constants.items():
            number[value] = f"w{len(number)}"
            text.append(repr((str(tensor.dtype), tensor.shape.numpy(), _numbers(tensor))))
        for node in part.nodes:
            number |= {value: f"v{len(number) + i}" for i, value in enumerate(node.outputs)}
        for node in part.nodes:
            given = [v if v is None else number[part.seen(v)] for v in node.inputs]
            attributes = sorted((a.name, _attribute(a)) for a in node.attributes.values())
            made = [number[value] for value in node.outputs]
            version = opset_imports.get(node.domain, 1)
            text.append(repr((node.domain, node.op_type, version, given, attributes, made)))
        text.append(repr([number[part.seen(value)] for value in part.exits]))
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:32]


def _numbers(tensor: ir.TensorProtocol) -> str:
    if not tensor.dtype.is_integer() or tensor.size > _KEY_ELEMENTS:
        return ""
    return str(tensor.numpy().tolist())


def _attribute(attribute: ir.Attr) -> str:
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return repr((str(tensor.dtype), tensor.shape.numpy(), _numbers(tensor)))
    return str(attribute.value)
