# SPDX-License-Identifier: Apache-2.0
"""Weight-only int4 and int8 by blocks: smaller files, no data needed, activations stay float.

With calibration data, `method="gptq"` rounds the weights of products so that the errors of what
they compute, not those of the weights, are least: `burnish.passes.reconstruct.gptq`.

Products with constant weights and lookups in constant tables are stored as small integers with a
scale (and zero point) for each block; `burnish.passes.quant.weights.blocks` has the arithmetic.
They are written in one of two forms:

    nbits        com.microsoft's MatMulNBits and GatherBlockQuantized, kernels of ONNX Runtime
    dequantize   standard DequantizeLinear by blocks (opset 21): before MatMul or Gemm, and behind
                 Gather, so that only the rows looked up are turned back into float

Weights are worked on one at a time. Of large ones the scales alone are held, and the integers are
computed again when they are written: memory does not grow with the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from burnish.backends.target import Target
from burnish.errors import InputError
from burnish.passes.base import Pass
from burnish.passes.constant import as_array
from burnish.passes.context import PassContext
from burnish.passes.options import option
from burnish.passes.quant.ready import mark_quantized, passed_through, raise_opset
from burnish.passes.quant.weighted import excluded, in_functions, rule_of, weights_of
from burnish.passes.quant.weights.block_forms import LEAST_BLOCK, Fitted, Form
from burnish.passes.quant.weights.blocks import SEARCHES, Array, fit_blocks
from burnish.passes.quant.weights.dequantized import Dequantize
from burnish.passes.quant.weights.nbits import NBits
from burnish.passes.reconstruct.compensate import DAMPING
from burnish.passes.reconstruct.gptq import gptq
from burnish.passes.reconstruct.judge import WORSE, Account, Verdict
from burnish.passes.reconstruct.layer import layers_of
from burnish.passes.reconstruct.observe import observe
from burnish.passes.report import ModelStats
from burnish.passes.shapes import infer_shapes

OPS = ("MatMul", "Gemm", "Gather")
"""Operators whose weights are stored as integers."""

# Smaller weights are left alone: nothing is gained.
_SMALL = 1 << 12
# Operators that only pass weights on.
_VIEWS = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"})

_Chosen = dict[ir.Node, type[Form]]
_Refuse = Callable[[str, ir.Node, str], None]


@dataclass(frozen=True)
class QuantWeights(Pass):
    """Weight-only int4 or int8 by blocks: a sixth or a third of the size, without any data.

    method=gptq needs calibration data, and lets the weights of a row make up for one another's
    errors. A layer whose output error it does not lower on samples held out is rounded plainly. The
    report's details have the errors of outputs before and after.


    form=auto writes MatMulNBits and GatherBlockQuantized where the target has kernels for them,
    and standard DequantizeLinear otherwise. compute=int8 lets MatMulNBits round its inputs to int8
    by blocks as they come, for an error far below that of the weights. The report's details have
    the relative RMS error of each weight.
    """

    name: ClassVar[str] = "quant-weights"
    rule_names: ClassVar[tuple[str, ...]] = (
        *(f"quant-{op.lower()}" for op in OPS),
        "gptq",
    )
    lossless: ClassVar[bool] = False

    bits: int = option(4, help="width of the weights of products: 4 or 8", min=4, max=8)
    table_bits: int | None = option(
        None, help="width of embedding tables: 4 or 8; none for that of products", min=4, max=8
    )
    block: int = option(
        32, help="weights along the summed axis that share a scale; 0 for the whole axis", min=0
    )
    symmetric: bool = option(False, help="no zero points: a little smaller, less accurate")
    search: str = option(
        "mse", help="scales from the range of a block, or of least squared error", choices=SEARCHES
    )
    method: str = option("rtn", help="round to the nearest, or by GPTQ", choices=("rtn", "gptq"))
    act_order: bool = option(False, help="largest inputs first (method=gptq)")
    damping: float = option(DAMPING, help="of GPTQ, by the mean of the diagonal", min=0, max=1)
    form: str = option("auto", help="operators to write", choices=("auto", "nbits", "dequantize"))
    compute: str = option(
        "int8", help="how MatMulNBits multiplies (form=nbits)", choices=("int8", "float32")
    )
    ops: tuple[str, ...] = option(OPS, help="operators to quantize", choices=OPS)
    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes that stay float")

    def __post_init__(self) -> None:
        """Validate the options.

        Raises:
            InputError: an option is out of range, or the form does not go with the block.
        """
        super().__post_init__()
        for name, bits in (("bits", self.bits), ("table-bits", self.table_bits)):
            if bits not in (4, 8, None):
                raise InputError(f"option {name!r}: {bits} is neither 4 nor 8")
        if self.form == "nbits" and not NBits.takes(self.block):
            raise InputError(
                f"option 'block': form=nbits takes powers of two from {LEAST_BLOCK}, "
                f"not {self.block}",
                hint="choose another, or form=dequantize",
            )

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Replace operator by operator, in subgraphs too."""
        if passed_through(model, ctx):
            return
        infer_shapes(model)
        before = ModelStats.of(model).bytes
        chosen = self._choose(model, ctx.target, ctx.refuse)
        opset = max((form.OPSET for form in chosen.values()), default=0)
        if model.opset_imports.get("", 0) < opset:
            if not raise_opset(model, opset, ctx):
                return
            # The upgrade may have replaced nodes.
            chosen = self._choose(model, ctx.target, lambda *_: None)
        writers: dict[type[Form], Form] = {kind: kind(model, self) for kind in (NBits, Dequantize)}
        done = set()
        for node, fitted in self._gptq(model, chosen, ctx):
            self._replace(model, node, writers[chosen[node]], ctx, fitted)
            done.add(node)
        rest = [node for node in chosen if node not in done]
        for node in ctx.progress(rest, len(rest), "quantize weights"):
            self._replace(model, node, writers[chosen[node]], ctx)
        self._report(writers[NBits], writers[Dequantize], before, model, ctx)

    def _replace(
        self,
        model: ir.Model,
        node: ir.Node,
        writer: Form,
        ctx: PassContext,
        fitted: Fitted | None = None,
    ) -> None:
        with ctx.rewrite(rule_of(node), node) as go:
            if go:
                rows = rows_of(node)
                assert rows is not None
                assert not isinstance(rows, str)
                writer.replace(node, rows, fitted)
                mark_quantized(model)

    def _gptq(
        self, model: ir.Model, chosen: _Chosen, ctx: PassContext
    ) -> Iterator[tuple[ir.Node, Fitted]]:
        """Yield the products that GPTQ rounds better, with their integers, layer by layer.

        Raises:
            InputError: there is no calibration data, or it does not fit the model.
        """
        if self.method != "gptq":
            return
        if ctx.calibration is None:
            raise InputError(
                "quant-weights{method=gptq} needs calibration data",
                hint="give sample inputs with --calib, or leave method=gptq out",
            )
        account = Account()
        layers = [
            layer
            for layer in layers_of(model, ops=("MatMul", "Gemm"))
            if all(node in chosen for node in layer.nodes)
        ]
        seen = observe(model.clone(), layers, ctx.calibration, progress=ctx.progress)
        for layer, evidence in ctx.progress(seen, len(layers), "gptq"):
            rows = layer.rows[0]
            plain = fit_blocks(
                rows, self.bits, self.block, symmetric=self.symmetric, search=self.search
            )
            fitted = gptq(
                rows,
                evidence.fit.second[0],
                self.bits,
                self.block,
                symmetric=self.symmetric,
                search=self.search,
                act_order=self.act_order,
                damping=self.damping,
            )
            before = plain.dequantize(plain.quantize(rows)) - rows
            after = fitted[0].dequantize(fitted[1]) - rows
            energy = evidence.held.energy
            verdict = Verdict(energy(before[None]), energy(after[None]), energy(rows[None]))
            if account.add(layer.name, verdict):
                for node in layer.nodes:
                    yield node, fitted
            else:
                ctx.refuse("gptq", layer.node, WORSE)
        ctx.details["gptq"] = account.summary()

    def _choose(self, model: ir.Model, target: Target, refuse: _Refuse) -> _Chosen:
        """Return what to quantize, and in which form."""
        chosen: _Chosen = {}
        for graph in model.graphs():
            for node in graph:
                if node.op_type not in self.ops or node.domain != "":
                    continue
                rows = rows_of(node)
                if rows is None or (not isinstance(rows, str) and rows.size < _SMALL):
                    continue
                kind = self._form(node, target)
                reason = rows if isinstance(rows, str) else kind.obstacle(node, rows, self)
                if excluded(node, self.exclude):
                    reason = "excluded by name"
                if reason is None:
                    chosen[node] = kind
                else:
                    refuse(rule_of(node), node, reason)
        for node in in_functions(model, self.ops):
            refuse(rule_of(node), node, "inside a function of the model")
        for node in [node for node in chosen if _stays(node, chosen)]:
            refuse(rule_of(node), node, "its weights are used by other operators too")
            del chosen[node]
        return chosen

    def _form(self, node: ir.Node, target: Target) -> type[Form]:
        if self.form != "auto":
            return NBits if self.form == "nbits" else Dequantize
        return NBits if NBits.takes(self.block) and NBits.runs(node, target) else Dequantize

    def _report(
        self, nbits: Form, dequantize: Form, before: int, model: ir.Model, ctx: PassContext
    ) -> None:
        if not nbits.errors and not dequantize.errors:
            return
        after = ModelStats.of(model).bytes
        ctx.details["bytes"] = {"before": before, "after": after, "ratio": after / before}
        ctx.details["weight errors"] = {**nbits.errors, **dequantize.errors}
        wide = self.bits == 8 and self.compute == "int8" and nbits.errors
        if wide and ctx.target.int8_accumulator_bits < 32:
            ctx.warn(
                "8-bit MatMulNBits was checked on machines with VNNI only: on this one its sums "
                "may saturate; compute=float32 is safe"
            )


def rows_of(node: ir.Node) -> Array | str | None:
    """Return constant weights as rows, the reason to leave them, or None for no news.

    Rows are `[output channels, summed axis]` of MatMul and Gemm, `[rows, width]` of a Gather's
    table: the axis along which blocks run is the last.
    """
    if node.op_type != "Gather":
        weights = weights_of(node)
        if weights is None or isinstance(weights, str):
            return weights
        return weights.array if weights.axis == 0 else weights.array.T
    table = as_array(node.inputs[0])
    if table is None or table.dtype.kind != "f" or table.size < _SMALL:
        return None
    if table.dtype.name != "float32":
        return f"its table is {table.dtype.name}, not float32"
    if node.attributes.get_int("axis", 0) not in (0, -table.ndim):
        return "it gathers along another axis than the first"
    if table.ndim != 2:
        return f"its table has rank {table.ndim}, not 2"
    return table


def _stays(node: ir.Node, chosen: _Chosen) -> bool:
    """Whether the float weights of a node would have to stay, for others that use them."""
    return any(user not in chosen for user in _users(node))


def _users(node: ir.Node) -> Iterator[ir.Node]:
    """Yield all operators that use the weights of a node, seen through views."""
    root = node.inputs[0 if node.op_type == "Gather" else 1]
    assert root is not None
    while (producer := root.producer()) is not None and producer.op_type in _VIEWS:
        assert producer.inputs[0] is not None
        root = producer.inputs[0]
    pending = [root]
    while pending:
        value = pending.pop()
        for user, index in value.uses():
            if user.op_type in _VIEWS and index == 0:
                pending += user.outputs
            else:
                yield user
