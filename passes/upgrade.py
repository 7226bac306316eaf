# SPDX-License-Identifier: Apache-2.0
"""`upgrade`: raise a model's opset, with the ONNX project's own version converter.

What the converter cannot do, or gets wrong beyond correction, refuses the upgrade: a model is
upgraded whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.conversion import OLDEST, SUCCESSORS, CannotUpgrade, convert
from burnish.passes.options import option
from burnish.passes.shapes import infer_shapes

if TYPE_CHECKING:
    from burnish.backends.target import Target

AUTO = 21
"""Opset wanted by default: the first with 4-bit integers and Q/DQ by blocks."""


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
            check_runs(model, current, wanted, ctx.target)
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


def check_runs(model: ir.Model, old: int, new: int, target: Target) -> None:
    """Refuse what the target runs at the old opset and would not run at the new one.

    ONNX Runtime expands an operator without a kernel by its function, which it takes only at opsets
    that changed none of the operators in it.

    Raises:
        CannotUpgrade: there is such an operator.
    """
    for node in model.graph.all_nodes():
        if node.domain != "" or node.op_type in SUCCESSORS:
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
        for replacement in convert(graph, imports.get("", opset), opset)
    ]

    def change() -> None:
        for replacement in replacements:
            replacement.apply()
        for _, imports in bodies:
            if "" in imports:
                imports[""] = max(opset, imports[""])
        model.ir_version = max(model.ir_version, _ir_version(opset))

    return change


def _ir_version(opset: int) -> int:
    import onnx

    imports = [onnx.helper.make_opsetid("", opset)]
    return int(onnx.helper.find_min_ir_version_for(imports))
