# SPDX-License-Identifier: Apache-2.0
"""Products and lookups with weights in blocks, as standard operators behind DequantizeLinear."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.quant.weights.block_forms import Form, Options, Stored, integer_type
from burnish.passes.quant.weights.blocks import Array, BlockScheme


class Dequantize(Form):
    """Standard operators: DequantizeLinear by blocks, unsigned with zero points, or symmetric."""

    OPSET = 21
    IR_VERSION = 10  # the first with 4-bit integers

    @classmethod
    def obstacle(cls, node: ir.Node, rows: Array, options: Options) -> str | None:
        """Two 4-bit numbers of a table share a byte."""
        if node.op_type != "Gather" or (options.table_bits or options.bits) == 8:
            return None
        return "the rows of its table are no whole bytes" if rows.shape[1] % 2 else None

    def product(self, node: ir.Node, stored: Stored, name: str) -> ir.Value:
        """Write MatMul(x, DequantizeLinear(integers, scales, zero points)), or Gemm."""
        scheme = stored.scheme
        channels, columns = len(scheme.scale), scheme.columns
        transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
        layout = "rows" if transposed else "columns"
        held = self.integers(
            stored,
            layout,
            name,
            integer_type(scheme.bits, signed=scheme.zero_point is None),
            (channels, columns) if transposed else (columns, channels),
            lambda q: _typed(q if transposed else q.T, scheme),
        )
        inputs = [held, *self._scales(stored, layout, name)]
        if self.options.block:  # blocks run along the summed axis
            attributes = {"axis": int(transposed), "block_size": scheme.block}
        else:
            attributes = {"axis": int(not transposed)}
        self.model.ir_version = max(self.model.ir_version, self.IR_VERSION)
        real = self.emit(node, "DequantizeLinear", inputs, attributes, shape=held.shape)
        x, shape = node.inputs[0], node.outputs[0].shape
        return self.emit(
            node, node.op_type, [x, real], {"transB": 1} if transposed else None, shape=shape
        )

    def lookup(self, node: ir.Node, stored: Stored, name: str) -> ir.Value:
        """Write DequantizeLinear(Gather(integers), Gather(scales), Gather(zero points))."""
        scheme, y = stored.scheme, node.outputs[0]
        rows, columns = len(scheme.scale), scheme.columns
        dtype = integer_type(8, signed=scheme.zero_point is None)
        if scheme.bits == 8:
            held = self.integers(
                stored, "rows", name, dtype, (rows, columns), lambda q: _typed(q, scheme)
            )
            integers = self._gathered(node, held)
        else:
            held = self.integers(
                stored, "halves", name, ir.DataType.UINT8, (rows, columns // 2), _in_halves
            )
            integers = self._unpacked(node, self._gathered(node, held), scheme)
        tables = self._scales(stored, "table", name)
        inputs = [integers, *(self._gathered(node, table) for table in tables)]
        attributes = {"axis": -1, "block_size": scheme.block}
        return self.emit(node, "DequantizeLinear", inputs, attributes, shape=y.shape)

    def _gathered(self, node: ir.Node, table: ir.Value) -> ir.Value:
        """Look the rows of another table up by the indices of a Gather."""
        y = node.outputs[0]
        assert table.shape is not None
        assert table.dtype is not None
        shape = None if y.shape is None else ir.Shape([*y.shape[:-1], table.shape[-1]])
        return self.emit(node, "Gather", [table, node.inputs[1]], dtype=table.dtype, shape=shape)

    def _unpacked(self, node: ir.Node, packed: ir.Value, scheme: BlockScheme) -> ir.Value:
        """Return the low halves of bytes, then the high ones, along the last axis."""
        y, dtype = node.outputs[0], ir.DataType.UINT8
        fifteen, four = self._number(15, dtype), self._number(4, dtype)
        low = self.emit(node, "BitwiseAnd", [packed, fifteen], dtype=dtype, shape=packed.shape)
        high = self.emit(
            node,
            "BitShift",
            [packed, four],
            {"direction": "RIGHT"},
            dtype=dtype,
            shape=packed.shape,
        )
        both = self.emit(node, "Concat", [low, high], {"axis": -1}, dtype=dtype, shape=y.shape)
        if scheme.zero_point is not None:
            return both
        dtype = ir.DataType.INT8
        middle = self._number(2 ** (scheme.bits - 1), dtype)
        signed = self.emit(node, "Cast", [both], {"to": int(dtype)}, dtype=dtype, shape=y.shape)
        return self.emit(node, "Sub", [signed, middle], dtype=dtype, shape=y.shape)

    def _number(self, number: int, dtype: ir.DataType) -> ir.Value:
        """Return a constant, made on first use."""
        if (number, dtype) not in self._numbers:
            tensor = ir.tensor(np.array(number, dtype.numpy()))
            self._numbers[number, dtype] = self.hold(f"{dtype.name.lower()}_{number}", tensor)
        return self._numbers[number, dtype]

    def _scales(self, stored: Stored, layout: str, name: str) -> list[ir.Value]:
        """Return scales, and zero points unless symmetric, laid out as the integers are."""
        scheme, values = stored.scheme, stored.values

        def held(kind: str, array: Array, dtype: ir.DataType) -> ir.Value:
            if f"{kind} {layout}" not in values:
                if layout != "table" and self.options.block == 0:
                    array = array.reshape(-1)
                elif layout == "columns":
                    array = array.T
                array = np.ascontiguousarray(array).astype(dtype.numpy())
                tensor = ir.tensor(array, dtype=dtype)
                values[f"{kind} {layout}"] = self.hold(f"{name}_{kind}", tensor)
            return values[f"{kind} {layout}"]

        scale = held("scale", scheme.scale, ir.DataType.FLOAT)
        if scheme.zero_point is None:
            return [scale]
        bits = 8 if layout == "table" else scheme.bits
        return [scale, held("zero_point", scheme.zero_point, integer_type(bits, signed=False))]


def _typed(integers: Array, scheme: BlockScheme) -> Array:
    """Return integers in the type DequantizeLinear takes; around zero if symmetric."""
    symmetric = scheme.zero_point is None
    dtype = integer_type(scheme.bits, signed=symmetric).numpy()
    if symmetric:
        integers = integers.astype(np.int16) - 2 ** (scheme.bits - 1)
    return np.ascontiguousarray(integers).astype(dtype)


def _in_halves(integers: Array) -> Array:
    """Pack two columns a byte: the first half of a row in the low bits, the second in the high."""
    half = integers.shape[1] // 2
    return np.asarray(integers[:, :half] | integers[:, half:] << np.uint8(4))
