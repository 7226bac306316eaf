# SPDX-License-Identifier: Apache-2.0
"""How products and lookups with weights in blocks are written: two sets of operators.

A tensor of weights that several operators use is stored once. With `NBits` that holds for an
embedding table that is also, transposed, the weights of a product; in the standard form only from
8 bits up, since no standard Gather takes 4-bit integers.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.backends.target import MICROSOFT, Target
from burnish.passes.edit import names_of, remove_unused, replace_value
from burnish.passes.fuse.rescale import LAZY_BYTES
from burnish.passes.quant.blocks import Array, BlockScheme, fit_blocks, pack, pieces
from burnish.passes.quant.insert import add_tensor
from burnish.passes.quant.weighted import Weights, weights_of

LEAST_BLOCK = 16
"""Smallest block of MatMulNBits and GatherBlockQuantized; all are powers of two."""

# What `compute` is called in MatMulNBits' accuracy_level.
_ACCURACY = {"float32": 1, "int8": 4}

Fitted = tuple[BlockScheme, NDArray[np.uint8]]
"""A scheme, and the integers `[rows, columns]` of weights in it."""


class Options(Protocol):
    """What a form has to know; the fields of the pass `quant-weights`."""

    @property
    def bits(self) -> int: ...
    @property
    def table_bits(self) -> int | None: ...
    @property
    def block(self) -> int: ...
    @property
    def symmetric(self) -> bool: ...
    @property
    def search(self) -> str: ...
    @property
    def compute(self) -> str: ...


@dataclass(frozen=True)
class _Stored:
    """Fitted weights, and what is in the model of them so far.

    Attributes:
        scheme: Scales and zero points.
        rows: The weights themselves; None where they are held as integers.
        integers: uint8 `[rows, columns]`; None where they are large, and computed when asked for.
        values: What has been put into the model, by its layout.
    """

    scheme: BlockScheme
    rows: Array | None
    integers: Array | None
    values: dict[str, ir.Value]

    def all_integers(self) -> Array:
        if self.integers is not None:
            return self.integers
        assert self.rows is not None
        return self.scheme.quantize(self.rows)


class Form(ABC):
    """Writes operators on weights in blocks into one model.

    Attributes:
        errors: Name of a node -> relative RMS error of its weights.
    """

    OPSET: ClassVar[int]
    """The least version of the standard operators."""

    def __init__(self, model: ir.Model, options: Options) -> None:
        self.model = model
        self.options = options
        self.errors: dict[str, float] = {}
        self._stored: dict[bytes, _Stored] = {}
        self._numbers: dict[tuple[int, ir.DataType], ir.Value] = {}

    @classmethod
    @abstractmethod
    def obstacle(cls, node: ir.Node, rows: Array, options: Options) -> str | None:
        """Return why a node cannot be written in this form, or None."""

    @abstractmethod
    def product(self, node: ir.Node, stored: _Stored, name: str) -> ir.Value:
        """Write a MatMul or Gemm without bias."""

    @abstractmethod
    def lookup(self, node: ir.Node, stored: _Stored, name: str) -> ir.Value:
        """Write a Gather."""

    def replace(self, node: ir.Node, rows: Array, fitted: Fitted | None = None) -> None:
        """Put integers in place of the weights of a MatMul, Gemm or Gather.

        Args:
            node: As `obstacle` has nothing against.
            rows: Its weights `[rows, columns]`, finite.
            fitted: Scheme and integers of the weights, if something better than rounding to the
                nearest found them. What is stored already stays as it is.
        """
        table = node.op_type == "Gather"
        bits = (self.options.table_bits if table else None) or self.options.bits
        old = node.inputs[0 if table else 1]
        assert old is not None
        name = old.name or node.name or "weights"
        stored = self._store(rows, bits, fitted)
        self.errors[node.name or node.outputs[0].name or ""] = stored.scheme.error
        result = self.lookup(node, stored, name) if table else self.product(node, stored, name)
        if node.op_type == "Gemm":
            result = self._with_bias(node, result)
        result.name = None  # takes over the name of what it replaces
        replace_value(node.outputs[0], result)
        remove_unused([node])

    def _with_bias(self, node: ir.Node, product: ir.Value) -> ir.Value:
        weights = weights_of(node)
        assert isinstance(weights, Weights)
        if weights.bias is None:
            return product
        old = node.inputs[2]
        assert old is not None
        bias = self.hold(f"{old.name}_row", ir.tensor(weights.bias))
        return self.emit(node, "Add", [product, bias], shape=product.shape)

    def _store(self, rows: Array, bits: int, fitted: Fitted | None) -> _Stored:
        key = _digest(rows, bits)
        if key not in self._stored and fitted is not None:
            self._stored[key] = _Stored(fitted[0], None, fitted[1], {})
        elif key not in self._stored:
            given = self.options
            scheme = fit_blocks(
                rows, bits, given.block, symmetric=given.symmetric, search=given.search
            )
            lazy = rows.nbytes >= LAZY_BYTES
            self._stored[key] = _Stored(
                scheme, rows if lazy else None, None if lazy else scheme.quantize(rows), {}
            )
        return self._stored[key]

    def integers(
        self,
        stored: _Stored,
        layout: str,
        name: str,
        dtype: ir.DataType,
        shape: Sequence[int],
        lay_out: Callable[[Array], Array],
    ) -> ir.Value:
        """Return an initializer of integers in some layout, made on first use.

        Args:
            stored: The weights.
            layout: What it is known by.
            name: Name wanted.
            dtype: Type of the result of `lay_out`.
            shape: Shape of it.
            lay_out: From uint8 `[rows, columns]`.
        """
        if layout not in stored.values:

            def compute() -> ir.TensorProtocol:
                return ir.tensor(lay_out(stored.all_integers()), dtype=dtype)

            lazy = stored.integers is None
            tensor = ir.LazyTensor(compute, dtype, ir.Shape(shape)) if lazy else compute()
            stored.values[layout] = self.hold(f"{name}_int{stored.scheme.bits}", tensor)
        return stored.values[layout]

    def hold(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Add a tensor to the main graph, where subgraphs see it too."""
        return add_tensor(self.model.graph, name, tensor)

    def emit(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, int | str] | None = None,
        *,
        domain: str = "",
        dtype: ir.DataType = ir.DataType.FLOAT,
        shape: ir.Shape | None,
    ) -> ir.Value:
        """Insert a node before another, named after it; returns its output."""
        base = before.name or before.outputs[0].name or before.op_type
        names = names_of(self.model.graph)
        node = ir.node(
            op_type, inputs, attributes, domain=domain, name=names.fresh(f"{base}/{op_type}")
        )
        (value,) = node.outputs
        value.name = names.fresh(f"{base}/{op_type}_out")
        value.dtype, value.shape = dtype, shape
        assert before.graph is not None
        before.graph.insert_before(before, node)
        return value


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

    def product(self, node: ir.Node, stored: _Stored, name: str) -> ir.Value:
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

    def lookup(self, node: ir.Node, stored: _Stored, name: str) -> ir.Value:
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

    def _reshaped(self, node: ir.Node, stored: _Stored, shape: Sequence[int]) -> ir.Value:
        """Return the integers of a table for a product, or the other way round."""
        held = stored.values["flat" if len(shape) == 3 else "blocks"]
        target = self.hold(f"{held.name}_shape", ir.tensor(np.array(shape, np.int64)))
        return self.emit(
            node, "Reshape", [held, target], dtype=ir.DataType.UINT8, shape=ir.Shape(shape)
        )

    def _scales(self, stored: _Stored, name: str) -> list[ir.Value]:
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

    def product(self, node: ir.Node, stored: _Stored, name: str) -> ir.Value:
        """Write MatMul(x, DequantizeLinear(integers, scales, zero points)), or Gemm."""
        scheme = stored.scheme
        channels, columns = len(scheme.scale), scheme.columns
        transposed = node.op_type == "Gemm" and _int(node, "transB") == 1
        layout = "rows" if transposed else "columns"
        held = self.integers(
            stored,
            layout,
            name,
            _integer(scheme.bits, signed=scheme.zero_point is None),
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

    def lookup(self, node: ir.Node, stored: _Stored, name: str) -> ir.Value:
        """Write DequantizeLinear(Gather(integers), Gather(scales), Gather(zero points))."""
        scheme, y = stored.scheme, node.outputs[0]
        rows, columns = len(scheme.scale), scheme.columns
        dtype = _integer(8, signed=scheme.zero_point is None)
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

    def _scales(self, stored: _Stored, layout: str, name: str) -> list[ir.Value]:
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
        return [scale, held("zero_point", scheme.zero_point, _integer(bits, signed=False))]


def _integer(bits: int, *, signed: bool) -> ir.DataType:
    """Return the ONNX type of integers."""
    return ir.DataType[f"{'' if signed else 'U'}INT{bits}"]


def _typed(integers: Array, scheme: BlockScheme) -> Array:
    """Return integers in the type DequantizeLinear takes; around zero if symmetric."""
    symmetric = scheme.zero_point is None
    dtype = _integer(scheme.bits, signed=symmetric).numpy()
    if symmetric:
        integers = integers.astype(np.int16) - 2 ** (scheme.bits - 1)
    return np.ascontiguousarray(integers).astype(dtype)


def _in_blocks(integers: Array, scheme: BlockScheme) -> Array:
    """Pack `[rows, columns]` as MatMulNBits takes them: `[rows, blocks, bytes of a block]`."""
    rows, blocks = scheme.scale.shape
    missing = blocks * scheme.block - scheme.columns
    padded = np.pad(integers, ((0, 0), (0, missing)))
    return pack(padded.reshape(rows, blocks, scheme.block), scheme.bits)


def _in_halves(integers: Array) -> Array:
    """Pack two columns a byte: the first half of a row in the low bits, the second in the high."""
    half = integers.shape[1] // 2
    return np.asarray(integers[:, :half] | integers[:, half:] << np.uint8(4))


def _int(node: ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return 0 if attribute is None else attribute.as_int()


def _digest(rows: Array, bits: int) -> bytes:
    """Return a fingerprint of weights, by which equal ones are stored once."""
    sha = hashlib.sha256(repr((rows.shape, bits)).encode())
    for part in pieces(rows):
        sha.update(np.ascontiguousarray(rows[part]).data)
    return sha.digest()
