# SPDX-License-Identifier: Apache-2.0
"""Products and lookups with weights in blocks, as ONNX Runtime's MatMulNBits and its relatives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from burnish.backends.target import MICROSOFT, Target
from burnish.passes.quant.weights.block_forms import LEAST_BLOCK, Form, Options, Stored
from burnish.passes.quant.weights.blocks import Array, BlockScheme, pack

# What `compute` is called in MatMulNBits' accuracy_level.
_ACCURACY = {"float32": 1, "int8": 4}


class NBits(Form):
    """`com.microsoft` operators: MatMulNBits and GatherBlockQuantized."""

    OPSET = 7

    @staticmethod
    def takes(block: int) -> bool:
        """Whether there are kernels for blocks of a size."""
        return block >= LEAST_BLOCK and block.bit_count() == 1

    @staticmethod
    def runs(node: ir.Node, target: Target) -> bool:
        """Whether a target has a kernel for what a node would become."""
        if node.op_type == "Gather":
            return target.fuses("GatherBlockQuantized", ir.DataType.UINT8)
        return target.fuses("MatMulNBits", ir.DataType.FLOAT)

    @classmethod
    def obstacle(cls, node: ir.Node, rows: Array, options: Options) -> str | None:
        """Rows of a packed table must be whole bytes, and inputs of products matrices."""
        x = node.inputs[0]
        if node.op_type != "Gather":
            vector = x is not None and x.shape is not None and len(x.shape) < 2
            return "its input is a vector" if vector else None
        odd = rows.shape[1] * (options.table_bits or options.bits) % 8
        return "the rows of its table are no whole bytes" if odd else None

    def product(self, node: ir.Node, stored: Stored, name: str) -> ir.Value:
        """Write MatMulNBits(x, integers, scales, zero points)."""
        scheme = stored.scheme
        rows, blocks = scheme.scale.shape
        share = scheme.block * scheme.bits // 8
        if "flat" in stored.values and scheme.columns % scheme.block == 0:
            held = self._reshaped(node, stored, (rows, blocks, share))
        else:
            held = self.integers(
                stored,
                "blocks",
                name,
                ir.DataType.UINT8,
                (rows, blocks, share),
                lambda integers: _in_blocks(integers, scheme),
            )
        attributes = {
            "K": scheme.columns,
            "N": rows,
            "bits": scheme.bits,
            "block_size": scheme.block,
            "accuracy_level": _ACCURACY[self.options.compute],
        }
        inputs = [node.inputs[0], held, *self._scales(stored, name)]
        self.model.opset_imports.setdefault(MICROSOFT, 1)
        shape = node.outputs[0].shape
        return self.emit(node, "MatMulNBits", inputs, attributes, domain=MICROSOFT, shape=shape)

    def lookup(self, node: ir.Node, stored: Stored, name: str) -> ir.Value:
        """Write GatherBlockQuantized(integers, indices, scales, zero points)."""
        scheme = stored.scheme
        shape = (len(scheme.scale), scheme.columns * scheme.bits // 8)
        if "blocks" in stored.values and scheme.columns % scheme.block == 0:
            held = self._reshaped(node, stored, shape)
        else:
            held = self.integers(
                stored, "flat", name, ir.DataType.UINT8, shape, lambda q: pack(q, scheme.bits)
            )
        attributes = {
            "bits": scheme.bits,
            "block_size": scheme.block,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        inputs = [held, node.inputs[1], *self._scales(stored, name)]
        self.model.opset_imports.setdefault(MICROSOFT, 1)
        return self.emit(
            node,
            "GatherBlockQuantized",
            inputs,
            attributes,
            domain=MICROSOFT,
            shape=node.outputs[0].shape,
        )

    def _reshaped(self, node: ir.Node, stored: Stored, shape: Sequence[int]) -> ir.Value:
        """Return the integers of a table for a product, or the other way round."""
        held = stored.values["flat" if len(shape) == 3 else "blocks"]
        target = self.hold(f"{held.name}_shape", ir.tensor(np.array(shape, np.int64)))
        return self.emit(
            node, "Reshape", [held, target], dtype=ir.DataType.UINT8, shape=ir.Shape(shape)
        )

    def _scales(self, stored: Stored, name: str) -> list[ir.Value]:
        """Return scales [rows, blocks], and packed zero points unless symmetric."""
        scheme, values = stored.scheme, stored.values
        if "scale" not in values:
            values["scale"] = self.hold(f"{name}_scale", ir.tensor(scheme.scale))
        if scheme.zero_point is None:
            return [values["scale"]]
        if "zero" not in values:
            zero = pack(scheme.zero_point, scheme.bits)
            values["zero"] = self.hold(f"{name}_zero_point", ir.tensor(zero))
        return [values["scale"], values["zero"]]


def _in_blocks(integers: Array, scheme: BlockScheme) -> Array:
    """Pack `[rows, columns]` as MatMulNBits takes them: `[rows, blocks, bytes of a block]`."""
    rows, blocks = scheme.scale.shape
    missing = blocks * scheme.block - scheme.columns
    padded = np.pad(integers, ((0, 0), (0, missing)))
    return pack(padded.reshape(rows, blocks, scheme.block), scheme.bits)
