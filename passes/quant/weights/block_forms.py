# SPDX-License-Identifier: Apache-2.0
"""How products and lookups with weights in blocks are written, whatever the operators.

A tensor of weights that several operators use is stored once. With `nbits` that holds for an
embedding table that is also, transposed, the weights of a product; with `dequantized` only from
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

from burnish.passes.edit import names_of, remove_unused, replace_value
from burnish.passes.fuse.rescale import LAZY_BYTES
from burnish.passes.quant.insert import add_tensor
from burnish.passes.quant.weighted import Weights, weights_of
from burnish.passes.quant.weights.blocks import Array, BlockScheme, fit_blocks, pieces

LEAST_BLOCK = 16
"""Smallest block of MatMulNBits and GatherBlockQuantized; all are powers of two."""

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
class Stored:
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
        """Return the integers, computed if they are not held: uint8 `[rows, columns]`."""
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
        self._stored: dict[bytes, Stored] = {}
        self._numbers: dict[tuple[int, ir.DataType], ir.Value] = {}

    @classmethod
    @abstractmethod
    def obstacle(cls, node: ir.Node, rows: Array, options: Options) -> str | None:
        """Return why a node cannot be written in this form, or None."""

    @abstractmethod
    def product(self, node: ir.Node, stored: Stored, name: str) -> ir.Value:
        """Write a MatMul or Gemm without bias."""

    @abstractmethod
    def lookup(self, node: ir.Node, stored: Stored, name: str) -> ir.Value:
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

    def _store(self, rows: Array, bits: int, fitted: Fitted | None) -> Stored:
        key = _digest(rows, bits)
        if key not in self._stored and fitted is not None:
            self._stored[key] = Stored(fitted[0], None, fitted[1], {})
        elif key not in self._stored:
            given = self.options
            scheme = fit_blocks(
                rows, bits, given.block, symmetric=given.symmetric, search=given.search
            )
            lazy = rows.nbytes >= LAZY_BYTES
            self._stored[key] = Stored(
                scheme, rows if lazy else None, None if lazy else scheme.quantize(rows), {}
            )
        return self._stored[key]

    def integers(
        self,
        stored: Stored,
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


def integer_type(bits: int, *, signed: bool) -> ir.DataType:
    """Return the ONNX type of integers."""
    return ir.DataType[f"{'' if signed else 'U'}INT{bits}"]


def _digest(rows: Array, bits: int) -> bytes:
    """Return a fingerprint of weights, by which equal ones are stored once."""
    sha = hashlib.sha256(repr((rows.shape, bits)).encode())
    for part in pieces(rows):
        sha.update(np.ascontiguousarray(rows[part]).data)
    return sha.digest()
