# SPDX-License-Identifier: Apache-2.0
"""`upgrade`: raise a model's opset, with the ONNX project's own version converter.

The converter works on whole models, copies every weight, and drops metadata, doc strings and
functions. So it is never shown the model: each node whose operator changed between the two opsets
goes alone into a skeleton without weights, one converter call adapts them all, and what comes out
different is put in the node's place. Everything else is not touched, subgraphs and functions
included. Where the converter is known to be wrong its result is corrected, or the upgrade refused:
a model is upgraded whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.base import Pass
from burnish.passes.constant import as_array
from burnish.passes.context import PassContext
from burnish.passes.edit import names_of
from burnish.passes.options import option
from burnish.passes.shapes import infer_node, infer_shapes

if TYPE_CHECKING:
    import onnx

    from burnish.backends.target import Target

AUTO = 21
"""Opset wanted by default: the first with 4-bit integers and Q/DQ by blocks."""

OLDEST = 7
"""Oldest opset upgraded: ONNX Runtime runs none before it, so nothing could be verified."""

# Redefined with almost every opset, but only to take more types.
_UNCHANGED = frozenset({"Constant", "If", "Loop"})

# Nodes to a call of the converter, which takes 5 ms to start and time quadratic in the nodes.
_BATCH = 256

_SUCCESSORS = {"Upsample": "Resize", "Scatter": "ScatterElements"}


class CannotUpgrade(Exception):
    """A model cannot be upgraded; the message says why, and names the node."""


@dataclass(frozen=True)
class Upgrade(Pass):
    """Raise the opset of the standard operators; never lowers it."""

    name: ClassVar[str] = "upgrade"
    rule_names: ClassVar[tuple[str, ...]] = ("upgrade-opset",)
    opset: int | None = option(
        None,
        help=f"opset wanted; none means {AUTO}, or the newest the target runs if that is less",
        min=OLDEST,
    )

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Upgrade the model in one rewrite, or say why not.

        Raises:
            InputError: the target does not run the opset wanted.
        """
        wanted = _auto(model, ctx.target) if self.opset is None else self.opset
        if wanted > ctx.target.max_opset:
            raise InputError(
                f"upgrade: opset {wanted} is newer than {ctx.target.max_opset}, the newest that "
                f"target {ctx.target.name!r} runs",
                hint="choose a lower one",
            )
        current = model.opset_imports.get("")
        if current is None or current >= wanted:
            return
        where = f"opset {current} -> {wanted}"
        try:
            change = plan(model, wanted)
            _check_runs(model, current, wanted, ctx.target)
        except CannotUpgrade as error:
            ctx.refuse("upgrade-opset", where, str(error))
            ctx.warn(f"the model stays at opset {current}: {error}")
            return
        with ctx.rewrite("upgrade-opset", where) as go:
            if go:
                change()


def _auto(model: ir.Model, target: Target) -> int:
    """Return `AUTO`, or the newest opset below it without a kernel known to be slower."""
    wanted = min(AUTO, target.max_opset)
    if wanted >= 19 and target.objection_to("AveragePool-19") is not None:
        pools = (node.op_type == "AveragePool" for node in model.graph.all_nodes())
        return 18 if any(pools) else wanted
    return wanted


def _check_runs(model: ir.Model, old: int, new: int, target: Target) -> None:
    """Refuse what the target runs at the old opset and would not run at the new one.

    ONNX Runtime expands an operator without a kernel by its function, which it takes only at opsets
    that changed none of the operators in it.

    Raises:
        CannotUpgrade: there is such an operator.
    """
    for node in model.graph.all_nodes():
        if node.domain != "" or node.op_type in _SUCCESSORS:
            continue
        dtype = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
        before, after = (target.runs(node.op_type, opset=at, dtype=dtype) for at in (old, new))
        if before and not after:
            kind = "" if dtype is None else f" of {dtype.name.lower()}"
            raise CannotUpgrade(f"target {target.name} does not run {node.op_type}{kind} at {new}")


def upgrade(model: ir.Model, opset: int) -> None:
    """Raise the opset of the standard operators of `model` to `opset`, in place.

    Types and shapes are inferred first where they are missing. A model already there stays as it
    is.

    Raises:
        CannotUpgrade: and the model is unchanged.
    """
    plan(model, opset)()


def plan(model: ir.Model, opset: int) -> Callable[[], None]:
    """Work out an upgrade; calling the result carries it out.

    Raises:
        CannotUpgrade: there is no equivalent of some node at `opset`.
    """
    if model.opset_imports.get("", opset) >= opset:
        return lambda: None
    infer_shapes(model)
    bodies = [(model.graph, model.graph.opset_imports)]
    bodies += [(function.graph, function.opset_imports) for function in model.functions.values()]
    replacements = [
        replacement
        for graph, imports in bodies
        for replacement in _convert(graph, imports.get("", opset), opset)
    ]

    def change() -> None:
        for replacement in replacements:
            replacement.apply()
        for _, imports in bodies:
            if "" in imports:
                imports[""] = max(opset, imports[""])
        model.ir_version = max(model.ir_version, _ir_version(opset))

    return change


# --- conversion --------------------------------------------------------------------------------


def _convert(graph: ir.Graph, old: int, new: int) -> list[_Replacement | _Axis]:
    """Convert the nodes of a graph and its subgraphs that differ between two opsets."""
    nodes = [node for node in graph.all_nodes() if _differs(node, old, new)]
    if not nodes:
        return []
    if old < OLDEST:
        raise CannotUpgrade(f"opset {old} is older than {OLDEST}, the oldest ONNX Runtime runs")
    for node in nodes:
        reason = _obstacle(node, old, new)
        if reason is not None:
            raise CannotUpgrade(f"{node.op_type} node {node.name!r}: {reason}")
    changes: list[_Replacement | _Axis] = []
    others: list[ir.Node] = []
    for node in nodes:
        axis = _only_axis(node) if _meant_a_matrix(node, old, new) else None
        if axis is None:
            others.append(node)
        else:
            changes.append(_Axis(node, axis))
    for i in range(0, len(others), _BATCH):
        changes += _convert_batch(others[i : i + _BATCH], old, new)
    return changes


def _convert_batch(nodes: list[ir.Node], old: int, new: int) -> Iterator[_Replacement]:
    from onnx import version_converter

    skeleton, outputs = _skeleton(nodes, old)
    try:
        converted = version_converter.convert_version(skeleton, new)
    except Exception as error:  # the converter's errors share no base class
        reason = " ".join(str(error).split())
        raise CannotUpgrade(f"the version converter fails: {reason[:300]}") from error
    fragments = _fragments(converted.graph, outputs, len(nodes))
    for i, node in enumerate(nodes):
        if not _is(fragments[i], skeleton.graph.node[i]):
            yield _Replacement(node, fragments[i], i, old, new)


def _differs(node: ir.Node, old: int, new: int) -> bool:
    """Whether the operator was redefined between the opsets in a way a node may feel."""
    import onnx

    if old >= new or node.domain != "" or node.op_type in _UNCHANGED:
        return False
    if node.op_type == "Scan" and old >= 9:
        return False
    try:
        before = onnx.defs.get_schema(node.op_type, old, "")
    except onnx.defs.SchemaError as error:
        raise CannotUpgrade(
            f"{node.op_type} node {node.name!r}: opset {old} has no such operator"
        ) from error
    try:
        after = onnx.defs.get_schema(node.op_type, new, "")
    except onnx.defs.SchemaError:
        return True  # deprecated, as Upsample is: the converter knows a successor
    return after.deprecated or after.since_version != before.since_version


def _skeleton(nodes: list[ir.Node], opset: int) -> tuple[onnx.ModelProto, list[tuple[int, int]]]:
    """Put nodes side by side into a model, unconnected.

    Returns the model, and of each of its outputs the indices of the node and of its output.
    """
    import onnx

    graph = onnx.GraphProto(name="skeleton")
    outputs = []
    for i, node in enumerate(nodes):
        proto = graph.node.add()
        ir.serde.serialize_node_into(proto, node)
        proto.ClearField("doc_string")
        del proto.metadata_props[:]
        for k, value in enumerate(node.inputs):
            if value is not None:
                proto.input[k] = f"{i}.in.{k}"
                _declare(graph.input.add(), proto.input[k], value)
        while proto.input and not proto.input[-1]:  # which the converter would count
            del proto.input[-1]
        for k, value in enumerate(node.outputs):
            if value.name:
                proto.output[k] = f"{i}.out.{k}"
                _declare(graph.output.add(), proto.output[k], value)
                outputs.append((i, k))
    imports = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10), outputs


def _declare(info: onnx.ValueInfoProto, name: str, value: ir.Value) -> None:
    ir.serde.serialize_value_into(info, ir.Value(name=name, type=value.type, shape=value.shape))


@dataclass(frozen=True)
class _Fragment:
    """What one node became: nodes in order of execution, and the name of each of its outputs."""

    nodes: tuple[onnx.NodeProto, ...]
    outputs: dict[int, str]


def _fragments(
    graph: onnx.GraphProto, outputs: list[tuple[int, int]], count: int
) -> list[_Fragment]:
    """Take a converted skeleton apart again, by what leads to which output."""
    import onnx

    made: list[list[onnx.NodeProto]] = [[] for _ in range(count)]
    names: list[dict[int, str]] = [{} for _ in range(count)]
    owner: dict[str, int] = {}
    # The converter renames some outputs, but keeps their order.
    for value, (i, k) in zip(graph.output, outputs, strict=True):
        owner[value.name] = i
        names[i][k] = value.name
    for node in reversed(graph.node):
        for name in node.output:
            if name in owner:
                i = owner[name]
                made[i].append(node)
                owner.update(dict.fromkeys(node.input, i))
                break
    for tensor in graph.initializer:
        constant = onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        made[owner[tensor.name]].append(constant)
    return [_Fragment(tuple(reversed(m)), n) for m, n in zip(made, names, strict=True)]


def _is(fragment: _Fragment, node: onnx.NodeProto) -> bool:
    """Whether a fragment is just the node it came from."""
    if len(fragment.nodes) != 1 or fragment.nodes[0].op_type != node.op_type:
        return False
    same_inputs = fragment.nodes[0].input == node.input
    return same_inputs and _attributes(fragment.nodes[0]) == _attributes(node)


def _attributes(node: onnx.NodeProto) -> dict[str, bytes]:
    return {a.name: a.SerializeToString(deterministic=True) for a in node.attribute}


@dataclass(frozen=True)
class _Replacement:
    """A node, and the fragment that takes its place."""

    node: ir.Node
    fragment: _Fragment
    index: int
    old: int
    new: int

    def apply(self) -> None:
        node, graph = self.node, self.node.graph
        assert graph is not None
        values: dict[str, ir.Value | None] = {"": None}
        values |= {f"{self.index}.in.{k}": value for k, value in enumerate(node.inputs)}
        made = []
        for proto in self.fragment.nodes:
            inputs = [values[name] for name in proto.input]
            attributes = [ir.serde.deserialize_attribute(a) for a in proto.attribute]
            outputs = len(proto.output)
            made.append(ir.Node("", proto.op_type, inputs, attributes, num_outputs=outputs))
            values |= dict(zip(proto.output, made[-1].outputs, strict=True))
        _correct(node, made, self.old)
        self._name(made)
        for k, name in self.fragment.outputs.items():
            value = values[name]
            assert value is not None
            _take_over(node.outputs[k], value)
        graph.insert_before(node, made)
        graph.remove(node, safe=True)
        for each in made:
            infer_node(each, {"": self.new})

    def _name(self, made: list[ir.Node]) -> None:
        """Name the nodes after the one they replace; the one of its kind keeps its name."""
        node = self.node
        assert node.graph is not None
        names = names_of(node.graph)
        kind = _SUCCESSORS.get(node.op_type, node.op_type)
        heir = next((each for each in made if each.op_type == kind), made[-1])
        heir.doc_string = node.doc_string
        for each in made:
            each.metadata_props.update(node.metadata_props)
            base = f"{node.name}/{each.op_type}"
            each.name = node.name if each is heir else names.fresh(base)
            for value in each.outputs:
                value.name = names.fresh(f"{base}_out")


@dataclass(frozen=True)
class _Axis:
    """A node that stays, with another `axis`."""

    node: ir.Node
    axis: int

    def apply(self) -> None:
        self.node.attributes.add(ir.AttrInt64("axis", self.axis))


def _meant_a_matrix(node: ir.Node, old: int, new: int) -> bool:
    """Whether an operator took its input for a matrix, and takes one axis alone from 13 on."""
    return node.op_type in ("Hardmax", "LogSoftmax", "Softmax") and old < 13 <= new


def _only_axis(node: ir.Node) -> int | None:
    """The axis that makes the rows of the matrix, split at `axis`, if it is just one.

    The converter flattens the input, though where all other sizes are 1 nothing need change: a
    network that ends in [N, 1000, 1, 1] would run three nodes for one.
    """
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    first = node.attributes.get_int("axis", 1)
    if shape is None or not -len(shape) <= first < len(shape):
        return None
    rows = range(first % len(shape), len(shape))
    long = [axis for axis in rows if shape[axis] != 1]
    if len(long) > 1:
        return None
    only = long[0] if long else len(shape) - 1
    return -1 if only == len(shape) - 1 else only


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Let a value stand wherever another did, under its name."""
    new.type, new.shape, new.doc_string = old.type, old.shape, old.doc_string
    new.metadata_props.update(old.metadata_props)
    new.meta.update(old.meta)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name, old.name = old.name, None


# --- what the converter gets wrong -------------------------------------------------------------


def _obstacle(node: ir.Node, old: int, new: int) -> str | None:
    """Why a node cannot be upgraded although the converter would do it, or None."""
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return "it takes attributes of the function it is in"
    check = _OBSTACLES.get(node.op_type)
    return None if check is None else check(node, old, new)


def _scan(node: ir.Node, old: int, new: int) -> str | None:
    return "its inputs are batched before opset 9"


def _hardmax(node: ir.Node, old: int, new: int) -> str | None:
    # The converter leaves the node as it is, though it means something else.
    if not _meant_a_matrix(node, old, new) or _only_axis(node) is not None:
        return None
    return "it is over several axes at once, and over one from opset 13"


def _group_normalization(node: ir.Node, old: int, new: int) -> str | None:
    # Until 20 scale and bias are per group, from 21 on per channel; the converter ignores it.
    if old >= 21 or new < 21:
        return None
    return "its scale and bias are per group, and per channel from opset 21"


def _resize(node: ir.Node, old: int, new: int) -> str | None:
    if old >= 11 or new < 11 or _mode(node) != "nearest" or _rounding(node) is not None:
        return None
    return "its scales are not known, or partly below and partly above 1"


def _batch_normalization(node: ir.Node, old: int, new: int) -> str | None:
    if old >= 14 or new < 14 or len(node.outputs) == 1:
        return None
    return "its training form has other outputs from opset 14"


def _dropout(node: ir.Node, old: int, new: int) -> str | None:
    mask = node.outputs[1] if len(node.outputs) > 1 else None
    if old >= 10 or new < 10 or mask is None or not (mask.uses() or mask.is_graph_output()):
        return None
    return "its mask is boolean from opset 10"


def _correct(node: ir.Node, made: list[ir.Node], old: int) -> None:
    """Put right what the converter gets wrong in place of a node of opset `old`."""
    if node.op_type == "Dropout" and len(node.outputs) > 1:
        node.outputs[1].type = ir.TensorType(ir.DataType.BOOL)  # see _dropout
    if node.op_type in ("Upsample", "Resize") and old < 11:
        # Before 11 a pixel's coordinate was that of its corner; the converter lets the default
        # of opset 11 take over, which is that of its centre.
        for resize in made:
            if resize.op_type == "Resize":
                resize.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
                if _mode(node) == "nearest":
                    resize.attributes.add(ir.AttrString("nearest_mode", _rounding(node) or ""))


def _mode(node: ir.Node) -> str:
    return node.attributes.get_string("mode", "nearest")


def _rounding(node: ir.Node) -> str | None:
    """How `nearest` rounded before opset 11, when ONNX had no attribute for it.

    The runtime rounds down when it enlarges and up when it shrinks; the operator tests of opset 10
    agree. None if the scales are not known or go both ways.
    """
    if "scales" in node.attributes:
        scales = list(node.attributes["scales"].as_floats())
    else:
        array = as_array(node.inputs[1])
        scales = [] if array is None else array.tolist()
    if not scales:
        return None
    if min(scales) >= 1:
        return "floor"
    return "ceil" if max(scales) <= 1 else None


_OBSTACLES: dict[str, Callable[[ir.Node, int, int], str | None]] = {
    "BatchNormalization": _batch_normalization,
    "Dropout": _dropout,
    "GroupNormalization": _group_normalization,
    "Hardmax": _hardmax,
    "Resize": _resize,
    "Scan": _scan,
    "Upsample": _resize,
}


def _ir_version(opset: int) -> int:
    import onnx

    imports = [onnx.helper.make_opsetid("", opset)]
    return int(onnx.helper.find_min_ir_version_for(imports))
