# SPDX-License-Identifier: Apache-2.0
"""What inputs a model is measured for, and the sizes of its values on them.

Sizes that inference did not find are found by running the model up to there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from burnish.errors import BurnishError
from burnish.passes.part import MAX_NODES, CannotMeasure, Part, check_types, model_of


@dataclass(frozen=True)
class Sample:
    """What inputs a model is measured for.

    Attributes:
        sizes: Symbolic dimension -> size; None where it cannot be found. Grows.
        feeds: Arrays by name of graph input, where there are some.
    """

    sizes: dict[str, int | None]
    feeds: Mapping[str, np.ndarray] = field(default_factory=dict)
    _shapes: dict[ir.Value, tuple[int, ...]] = field(default_factory=dict)

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Return the shape of a value on this sample.

        Raises:
            CannotMeasure: it is not known, and running the model up to there is too much.
        """
        if value.shape is not None:
            return tuple(self._size(dim, value) for dim in value.shape.dims)
        if value not in self._shapes:
            self._shapes[value] = self._observed(value)
        return self._shapes[value]

    def knows(self, value: ir.Value) -> bool:
        """Whether the shape of a value is known without running anything."""
        if value.shape is None:
            return value in self._shapes
        return all(
            isinstance(dim, int)
            or self.sizes.get(dim.value or "") is not None
            or all(self.sizes.get(symbol) is not None for symbol in dim.free_symbols())
            for dim in value.shape.dims
        )

    def array(self, value: ir.Value, rng: np.random.Generator) -> np.ndarray:
        """Return what a value may be on this sample; random but for inputs that were given."""
        from burnish.backends.feeds import random_array

        given = self.feeds.get(value.name or "") if value.is_graph_input() else None
        if given is not None:
            return given
        assert value.dtype is not None
        # A mask that masks nothing is valid for every operator.
        name = "mask" if value.dtype is ir.DataType.BOOL else ""
        return random_array(rng, name, value.dtype, self.shape(value))

    def _size(self, dim: int | ir.SymbolicDim, value: ir.Value) -> int:
        if isinstance(dim, int):
            return dim
        symbols = [dim.value] if dim.value in self.sizes else sorted(dim.free_symbols())
        for symbol in symbols:
            if symbol not in self.sizes:
                self.sizes[symbol] = None
                first, axis = _first(symbol, value)
                self.sizes[symbol] = self._observed(first)[axis]
        known = {symbol: size for symbol in symbols if (size := self.sizes[symbol]) is not None}
        found = known.get(dim.value or "") or dim.evaluate(known)
        if not isinstance(found, int):
            raise CannotMeasure("a size is unknown")
        if found < 0:
            raise CannotMeasure("the inputs it would be measured on are too small for it")
        return found

    def _observed(self, value: ir.Value) -> tuple[int, ...]:
        """Run the model up to a value; weights are zeros."""
        from burnish.backends.onnxruntime import session

        producer = value.producer()
        graph = None if producer is None else producer.graph
        if not isinstance(graph, ir.Graph) or not graph.opset_imports:
            raise CannotMeasure("a shape is unknown")
        part = Part(_above(value, self), {}, (value,))
        part.trace()
        check_types(part.inputs)
        names = {item: f"x{index}" for index, item in enumerate(part.inputs)}
        rng = np.random.default_rng(0)
        feeds = {names[item]: self.array(item, rng) for item in part.inputs}
        try:
            with session(model_of(part, names, graph.opset_imports, values=False)) as run:
                (result,) = run.run(feeds).values()
        except BurnishError as error:
            raise CannotMeasure("a shape is unknown") from error
        return tuple(result.shape)


def _first(symbol: str, value: ir.Value) -> tuple[ir.Value, int]:
    """Return the first value, and its axis, of a size that inference made a name for."""
    producer = value.producer()
    for node in () if producer is None or producer.graph is None else producer.graph:
        for output in node.outputs:
            for axis, dim in enumerate(output.shape or ()):
                if isinstance(dim, ir.SymbolicDim) and dim.value == symbol:
                    return output, axis
    raise CannotMeasure("a size is unknown")


def _above(value: ir.Value, sample: Sample) -> set[ir.Node]:
    """Return the nodes that the shape of a value comes from.

    Above numbers of known shape they do not matter: any numbers will do.
    """
    found: set[ir.Node] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        node = item.producer()
        if node is None or node in found:
            continue
        if item is not value and _is_float(item) and sample.knows(item):
            continue
        found.add(node)
        if len(found) > MAX_NODES:
            raise CannotMeasure("a size comes from too far above")
        pending += [above for above in node.inputs if above is not None]
    return found


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()
