# SPDX-License-Identifier: Apache-2.0
"""Repairs of what real exporters write and the passes should not have to know about.

Each edits a model in place and returns a note for each thing repaired, one line. None looks at
weights; all are linear in the nodes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

# What exporters write for "not known": two dimensions called so need not be equal.
_NO_NAME = frozenset({"", "?", "None", "none", "-1", "*", "unknown", "unk"})

# What onnx-ir reads as a size: names and numbers, and what is computed with them.
_TERM = r"-?\s*(?:\d+(?![\w.(])|[^\W\d][\w.]*(?![\w.(]))"
_SUM = rf"\s*{_TERM}(?:\s*(?:\*\*|//|[-+*/%])\s*{_TERM})*\s*"
_FORMULA = re.compile(_SUM)
_BRACKETS = re.compile(
    rf"(?:\b(?:floor|max|Max|min|Min|mod|Mod|sqrt)|(?<![\w.]))\({_SUM}(?:,{_SUM})*\)"
)


def repair(model: ir.Model, where: str) -> list[str]:
    """Make all repairs that a model needs once its names are resolved.

    Args:
        model: Edited in place.
        where: What to call the model in an error.

    Raises:
        InputError: something cannot be repaired.
    """
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    bodies = [_Body.of(graph) for graph in graphs]
    _size_initializers(model)
    return [
        *_make_constants(model),
        *_import_opsets(model, bodies, where),
        *_sort_nodes(bodies, where),
        *_name_values(bodies),
        *_name_dimensions(model, bodies),
        *_name_nodes(bodies),
    ]


@dataclass(frozen=True)
class _Body:
    """A graph or function with the nodes in it and in its subgraphs, an owner before its own."""

    graph: ir.Graph | ir.Function
    nodes: tuple[ir.Node, ...]

    @classmethod
    def of(cls, graph: ir.Graph | ir.Function) -> _Body:
        return cls(graph, tuple(graph.all_nodes()))

    def values(self) -> Iterator[ir.Value]:
        """Every value defined here, some of them twice."""
        import onnx_ir as ir

        yield from self.graph.inputs
        graphs = [self.graph] if isinstance(self.graph, ir.Graph) else []
        for graph in (*graphs, *self.graph.subgraphs()):
            yield from graph.inputs
            yield from tuple(graph.initializers.values())
        for node in self.nodes:
            yield from node.outputs


def _size_initializers(model: ir.Model) -> None:
    """Give initializers the sizes they have where their declaration leaves some open."""
    import onnx_ir as ir

    for graph in model.graphs():
        for value in graph.initializers.values():
            shape, tensor = value.shape, value.const_value
            if shape is None or tensor is None or len(shape) != len(tensor.shape):
                continue
            sizes = zip(shape, tensor.shape.numpy(), strict=True)
            value.shape = ir.Shape(
                [size if isinstance(size, int) else held for size, held in sizes]
            )


def _make_constants(model: ir.Model) -> list[str]:
    """Make constants of initializers that are graph inputs only because they had to be.

    Before IR version 4 every initializer had to be listed as an input. Since then listing one
    means that a caller may override it: such an input is kept, and noted.
    """
    graph = model.graph
    both = [value for value in graph.inputs if value.is_initializer()]
    if not both:
        return []
    names = _some(value.name for value in both)
    if model.ir_version >= 4:
        return [f"{_count(len(both), 'input')} with a default, so no constants: {names}"]
    for value in both:
        graph.inputs.remove(value)
    model.ir_version = 4
    return [
        f"{_count(len(both), 'initializer')} listed as inputs, as IR versions below 4 demand, "
        f"made constants: {names}"
    ]


def _import_opsets(model: ir.Model, bodies: list[_Body], where: str) -> list[str]:
    """Add an import for each operator domain that is used but not imported."""
    notes = []
    for body in bodies:
        imports = body.graph.opset_imports
        if "ai.onnx" in imports:
            imports[""] = imports.pop("ai.onnx")
        for domain in dict.fromkeys(node.domain for node in body.nodes):
            if domain in imports:
                continue
            if domain in model.opset_imports:
                imports[domain] = model.opset_imports[domain]
            elif domain == "" and model.ir_version >= 3:
                raise InputError(
                    f"{where}: no opset version is given for the ONNX operators",
                    hint="set opset_import where the model is made",
                )
            else:
                imports[domain] = _newest(domain)
            notes.append(
                f"operator domain {domain or 'ai.onnx'!r} was used but not imported: version "
                f"{imports[domain]} assumed"
            )
    return notes


def _newest(domain: str) -> int:
    import onnx

    if domain == "":
        return 1  # before IR version 3 there was one opset, and no import
    schemas = onnx.defs.get_all_schemas_with_history()
    return max((s.since_version for s in schemas if s.domain == domain), default=1)


def _sort_nodes(bodies: list[_Body], where: str) -> list[str]:
    """Put the nodes in an order in which every value is made before it is used."""
    notes = []
    for body in bodies:
        if _sorted(body.nodes):
            continue
        try:
            body.graph.sort()
        except ValueError as error:
            raise InputError(
                f"{where}: the nodes form a cycle", hint="the graph is invalid; export it again"
            ) from error
        notes.append("the nodes were not in the order of execution: sorted")
    return notes


def _sorted(nodes: Iterable[ir.Node]) -> bool:
    made: set[ir.Node] = set()
    for node in nodes:
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer not in made:
                return False
        made.add(node)
    return True


def _name_values(bodies: list[_Body]) -> list[str]:
    """Number the values of one name, so that a name tells a value wherever it is used.

    An `onnx_ir.Model` can hold them in one graph, a file in two branches of an If. The names of
    the graph's inputs and outputs are kept.
    """
    repeated = []
    for body in bodies:
        holders: dict[str, ir.Value] = {}
        interface = [*body.graph.inputs, *body.graph.outputs]
        for value in (*interface, *body.values()):
            if value.name:
                holders.setdefault(value.name, value)
        taken: set[str | None] = set(holders)
        for value in body.values():
            if value.name and holders[value.name] is not value:
                repeated.append(value.name)
                value.name = _fresh(value.name, taken)
                holders[value.name] = value
    return [f"value names given twice were numbered: {_some(repeated)}"] if repeated else []


def _name_dimensions(model: ir.Model, bodies: list[_Body]) -> list[str]:
    """Name the input dimensions that have none, each differently; forget false names elsewhere.

    Exporters write "?" or the like for a dimension that is not known. Taken as a name it says
    that all of these are equal, which they need not be.
    """
    inputs = model.graph.inputs
    taken: set[str | None] = {
        dim.value for value in inputs for dim in value.shape or () if not isinstance(dim, int)
    }
    named = []
    for value in inputs:
        for axis in _nameless(value):
            base = re.sub(r"\W", "_", f"{value.name}_dim_{axis}")
            named.append(_fresh(f"_{base}" if base[0].isdigit() else base, taken))
            _set_dimension(value, axis, named[-1])
    for body in bodies:
        for value in body.values():
            for axis in _nameless(value):
                _set_dimension(value, axis, None)
    renamed = _rename_dimensions(inputs, bodies, taken)
    notes = []
    if named:
        count = _count(len(named), "input dimension")
        notes.append(f"{count} without a name named: {_some(named)}")
    if renamed:
        count = _count(len(renamed), "input dimension")
        notes.append(f"{count} with a name that is no formula renamed: {_some(renamed)}")
    return notes


def _rename_dimensions(
    inputs: Iterable[ir.Value], bodies: list[_Body], taken: set[str | None]
) -> list[str]:
    """Rename sizes that cannot be computed with; return the new names of those of inputs.

    TorchScript names the sizes of outputs after values: "Concatonnx::Reshape_205_dim_0".
    """
    names: dict[str, str] = {}  # old -> new
    for values in (inputs, *(body.values() for body in bodies)):
        for value in values:
            for axis, dim in enumerate(value.shape or ()):
                if isinstance(dim, int) or dim.value is None or _is_formula(dim.value):
                    continue
                if dim.value not in names:
                    base = re.sub(r"\W", "_", dim.value)
                    names[dim.value] = _fresh(f"_{base}" if base[0].isdigit() else base, taken)
                _set_dimension(value, axis, names[dim.value])
    new = set(names.values())
    dims = [dim for value in inputs for dim in value.shape or () if not isinstance(dim, int)]
    return list(dict.fromkeys(dim.value for dim in dims if dim.value in new))


@functools.lru_cache(maxsize=1 << 12)
def _is_formula(text: str) -> bool:
    """Whether onnx-ir can compute with a size; without SymPy, which takes long to load."""
    before = None
    while before != text:
        before, text = text, _BRACKETS.sub("_", text)
    return _FORMULA.fullmatch(text) is not None


def _nameless(value: ir.Value) -> Iterator[int]:
    for axis, dim in enumerate(value.shape or ()):
        if isinstance(dim, int):
            if dim < 0:
                yield axis
        elif dim.value is None or dim.value in _NO_NAME:
            yield axis


def _set_dimension(value: ir.Value, axis: int, dim: str | None) -> None:
    import onnx_ir as ir

    shape = value.shape
    assert shape is not None
    dims = [dim if i == axis else old for i, old in enumerate(shape)]
    value.shape = ir.Shape(dims, [shape.get_denotation(i) for i in range(len(dims))])


def _name_nodes(bodies: list[_Body]) -> list[str]:
    """Give every node a name of its own, made of its operator and the first value it makes."""
    repeated = []
    for body in bodies:
        taken = {node.name for node in body.nodes}
        seen: set[str] = set()
        for node in body.nodes:
            if not node.name:
                made = next((value.name for value in node.outputs if value.name), None)
                node.name = _fresh(f"{node.op_type}_{made}" if made else node.op_type, taken)
            elif node.name in seen:
                repeated.append(node.name)
                node.name = _fresh(node.name, taken)
            seen.add(node.name)
    # A node without a name is good ONNX, and naming it is no news; two of one name are a repair.
    return [f"node names given twice were numbered: {_some(repeated)}"] if repeated else []


def _fresh(base: str, taken: set[str | None]) -> str:
    name, suffix = base, 0
    while name in taken:
        suffix += 1
        name = f"{base}_{suffix}"
    taken.add(name)
    return name


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _some(names: Iterable[str | None], limit: int = 3) -> str:
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(repr(name) for name in listed[:limit]) + more
