# SPDX-License-Identifier: Apache-2.0
"""Which nodes of a region run in which form: a minimum cut.

Every node that moves takes one of two sides, and a tensor that is wanted on both costs a Transpose:
the bytes it moves, and the call. The cheapest choice of all is a minimum cut of the hypergraph in
which nodes are members and tensors are nets. Of choices that cost the same, the one is taken in
which more nodes run in the form of the convolutions around them, which then fuse with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from burnish.passes.layout.absorb import takes_any_order
from burnish.passes.layout.cut import Cut
from burnish.passes.layout.moves.permutation import moves_data
from burnish.passes.layout.regions import Region, Tensor
from burnish.passes.rule import Builder, NoMatch

CALL = 4096
"""What a Transpose costs beside what it moves, in bytes; one of axes of size 1 moves nothing."""

SIZES = (16, 1, 1024)
"""What stands for an unknown size. A choice has to pay whichever it is."""

_WINDOWED = frozenset(
    {"AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "GlobalAveragePool", "MaxPool"}
)


@dataclass(frozen=True)
class Cost:
    """What a choice costs.

    Attributes:
        bytes: Moved by Transposes, their calls counted as bytes too.
        transposes: Number of tensors that are needed in both forms, and of what takes a
            Transpose's place where sizes are computed.
        astray: Number of nodes that do not run in the form of the convolutions around them.
    """

    bytes: int
    transposes: int
    astray: int

    def improves(self, other: Cost) -> bool:
        """Whether it is nowhere worse, and better somewhere that counts."""
        if self.transposes > other.transposes or self.bytes > other.bytes:
            return False
        mine, theirs = (item.bytes + item.transposes for item in (self, other))
        return mine < theirs or (mine == theirs and self.astray < other.astray)


Sides = dict[ir.Node, int]


class Placement:
    """A region, ready to be weighed."""

    def __init__(self, region: Region, op: Builder) -> None:
        """Gather who wants each tensor in which form."""
        self.region = region
        self.op = op
        self.sides: Sides = {node: region.form_of(node) for node in region.moves}
        self.number = {node: index for index, node in enumerate(region.moves, 2)}
        self.tensors = region.tensors()
        self.wanting = [self._members(tensor) for tensor in self.tensors]
        self.preferred = self._preferred()

    def better(self) -> Sides | NoMatch:
        """Return a choice that is better than the present one, whatever unknown sizes are."""
        if self._meets_quantized_convolution():
            return NoMatch("the runtime runs quantized convolutions with channels last")
        for size in SIZES:
            sides = self._cheapest(size)
            costs = [(self.cost(sides, each), self.cost(self.sides, each)) for each in SIZES]
            if all(after.improves(before) for after, before in costs):
                return sides
        return NoMatch("no other place is cheaper")

    def cost(self, sides: Sides, size: int) -> Cost:
        """Weigh a choice, with `size` in place of unknown sizes."""
        moved = transposes = 0
        for tensor, members in zip(self.tensors, self.wanting, strict=True):
            if len({self._side(member, sides) for member in members}) > 1:
                moved += _weight(tensor, size)
                transposes += 1
        for node, move in self.region.moves.items():
            changes = sides[node] != self.sides[node]
            moved += move.copies[changes] * _bytes(node.inputs[0], size)
            if changes:
                moved += CALL * move.calls
                transposes += move.calls
        astray = sum(side != self.preferred for side in sides.values())
        return Cost(moved, transposes, astray if self.preferred is not None else 0)

    def _cheapest(self, size: int) -> Sides:
        scale = len(self.number) + 1  # so that all preferences together are worth less than a byte
        cut = Cut(len(self.number) + 2)
        for tensor, members in zip(self.tensors, self.wanting, strict=True):
            cut.net(_weight(tensor, size) * scale, map(self._member, members))
        for node, move in self.region.moves.items():
            stays = self.sides[node]
            preferred = stays if self.preferred is None else self.preferred
            cut.net(1, (preferred, self.number[node]))
            for side in (stays, 1 - stays):
                there = move.copies[side != stays] * _bytes(node.inputs[0], size)
                there += CALL * move.calls if side != stays else 0
                cut.net(there * scale, (1 - side, self.number[node]))
        sides = cut.sides()
        return {node: sides[number] for node, number in self.number.items()}

    def _members(self, tensor: Tensor) -> list[ir.Node | int]:
        """Return who makes or takes a tensor: a node that moves, or a form that is fixed."""
        region, root = self.region, tensor.values[0]
        maker = root.producer()
        members: list[ir.Node | int] = []
        if maker is not None and maker in region.moves:
            members.append(maker)
        else:
            members.append(region.values[root].form)
        for value in tensor.values:
            form = region.values[value].form
            if value.is_graph_output():
                members.append(form)
            for use in value.uses():
                if use.node in region.switches:
                    continue
                first_stays = region.values[value].perm[0] == 0
                if first_stays and takes_any_order(self.op, use.node):
                    continue
                move = region.moves.get(use.node)
                members.append(use.node if move and use.idx in move.inputs else form)
        return members

    def _preferred(self) -> int | None:
        """Return the form of the convolutions around the region, if there are some."""
        forms = {
            stored.form
            for value, stored in self.region.values.items()
            for node in (value.producer(), *value.consumers())
            if node is not None and node.op_type in _WINDOWED and node not in self.region.moves
        }
        return forms.pop() if len(forms) == 1 else None

    def _meets_quantized_convolution(self) -> bool:
        """Whether a Conv of dequantized numbers makes or takes a tensor of the region.

        The runtime then takes in the Transposes beside it.
        """
        around = {
            node
            for tensor in self.tensors
            for value in tensor.values
            for node in (value.producer(), *value.consumers())
            if node is not None and node.op_type == "Conv"
        }
        return any(
            data is not None
            and (maker := self._origin(data)) is not None
            and maker.op_type == "DequantizeLinear"
            for data in (node.inputs[0] for node in around)
        )

    @staticmethod
    def _origin(value: ir.Value) -> ir.Node | None:
        """Return what makes a value, or what a Transpose makes it of."""
        node = value.producer()
        if node is not None and node.op_type == "Transpose" and node.inputs[0] is not None:
            return node.inputs[0].producer()
        return node

    def _member(self, member: ir.Node | int) -> int:
        return member if isinstance(member, int) else self.number[member]

    @staticmethod
    def _side(member: ir.Node | int, sides: Sides) -> int:
        return member if isinstance(member, int) else sides[member]


def _weight(tensor: Tensor, size: int) -> int:
    root = tensor.values[0]
    if not moves_data(root, tensor.perm):
        return CALL
    return CALL + _bytes(root, size) * (_APART if _is_signed_pair(root) else 1)


def _is_signed_pair(value: ir.Value) -> bool:
    """Whether it is between Q and DQ, and signed.

    Where the machine has no kernels for signed activations, the runtime makes such pairs unsigned:
    only where nothing stands between the two, and the products around them stay float otherwise.
    """
    maker = value.producer()
    return (
        value.dtype in (ir.DataType.INT8, ir.DataType.INT16)
        and maker is not None
        and maker.op_type == "QuantizeLinear"
    )


_APART = 64  # times dearer than its bytes: more than any float tensor beside it


def _bytes(value: ir.Value | None, size: int) -> int:
    assert value is not None
    assert value.shape is not None
    count = 1
    for dim in value.shape:
        count *= dim if isinstance(dim, int) else size
    return count * (value.dtype.bitwidth if value.dtype else 32) // 8
