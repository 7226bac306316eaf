# SPDX-License-Identifier: Apache-2.0
"""Repairs of what real exporters write and the passes should not have to know about.

Each function edits a model in place and returns a note for each repair, one line. None looks
at weights; all are linear in the nodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

# What exporters write for "not known": two dimensions called so need not be equal.
_NO_NAME = frozenset({"", "?", "None", "none", "-1", "*", "unknown", "unk"})


def repair(model: ir.Model, where: str) -> list[str]:
    """Make all the repairs below, in the order they need.

    Args:
        model: Edited in place.
        where: What to call the model in an error.

    Raises:
        InputError: something cannot be repaired.
    """
    return [
        *make_constants(model),
        *import_opsets(model, where),
        *sort_nodes(model, where),
        *name_dimensions(model),
        *name_nodes(model),
    ]


def make_constants(model: ir.Model) -> list[str]:
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
        return [f"input {names} has a default a caller may override, so it is no constant"]
    for value in both:
        graph.inputs.remove(value)
    model.ir_version = 4
    return [
        f"{_count(len(both), 'initializer')} also listed as inputs, as IR version 3 demands, "
        f"made constants: {names}"
    ]


def import_opsets(model: ir.Model, where: str) -> list[str]:
    """Add an import for each operator domain that is used but not imported."""
    notes = []
    for body in _bodies(model):
        imports = body.opset_imports
        if "ai.onnx" in imports:
            imports[""] = imports.pop("ai.onnx")
        for domain in dict.fromkeys(node.domain for node in body.all_nodes()):
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
                f"operator domain {domain!r} was used but not imported: "
                f"version {imports[domain]} assumed"
            )
    return notes


def sort_nodes(model: ir.Model, where: str) -> list[str]:
    """Put the nodes in an order in which every value is made before it is used."""
    notes = []
    for body in _bodies(model):
        if _sorted(body):
            continue
        try:
            body.sort()
        except ValueError as error:
            raise InputError(
                f"{where}: the nodes form a cycle", hint="the graph is invalid; export it again"
            ) from error
        notes.append(f"the nodes of {body.name or 'the graph'!r} were not in order: sorted")
    return notes


def name_dimensions(model: ir.Model) -> list[str]:
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
    for body in _bodies(model):
        for value in _own_values(body):
            for axis in _nameless(value):
                _set_dimension(value, axis, None)
    if not named:
        return []
    count = _count(len(named), "input dimension")
    return [f"{count} without a name named: {_some(named)}"]


def name_nodes(model: ir.Model) -> list[str]:
    """Give every node a name of its own, made of its operator and the first value it makes."""
    unnamed, repeated = 0, []
    for body in _bodies(model):
        taken = {node.name for node in body.all_nodes()}
        seen: set[str] = set()
        for node in body.all_nodes():
            if node.name and node.name not in seen:
                seen.add(node.name)
                continue
            if node.name:
                repeated.append(node.name)
                base = node.name
            else:
                unnamed += 1
                made = next((value.name for value in node.outputs if value.name), "")
                base = f"{node.op_type}_{made}" if made else node.op_type
            node.name = _fresh(base, taken)
            seen.add(node.name)
    notes = []
    if unnamed:
        notes.append(f"{_count(unnamed, 'node')} without a name named after what they make")
    if repeated:
        notes.append(f"node names given twice were numbered: {_some(repeated)}")
    return notes


def name_values(model: ir.Model) -> list[str]:
    """Number the values of one name, as an `onnx_ir.Model` can hold and a file cannot.

    The names of the graph's inputs and outputs are kept.
    """
    repeated = []
    for body in _bodies(model):
        holders: dict[str, ir.Value] = {}
        for value in (*body.inputs, *body.outputs):
            if value.name is not None:
                holders.setdefault(value.name, value)
        values = list(_own_values(body))
        taken = {value.name for value in values} | set(holders)
        for value in values:
            if value.name and holders.setdefault(value.name, value) is not value:
                repeated.append(value.name)
                value.name = _fresh(value.name, taken)
                holders[value.name] = value
    return [f"value names given twice were numbered: {_some(repeated)}"] if repeated else []


def _newest(domain: str) -> int:
    import onnx

    if domain == "":
        return 1  # before IR version 3 there was one opset, and no import
    schemas = onnx.defs.get_all_schemas_with_history()
    return max((s.since_version for s in schemas if s.domain == domain), default=1)


def _bodies(model: ir.Model) -> tuple[ir.Graph | ir.Function, ...]:
    return (model.graph, *model.functions.values())


def _own_values(body: ir.Graph | ir.Function) -> Iterator[ir.Value]:
    """Every value defined in a graph or function and its subgraphs."""
    import onnx_ir as ir

    yield from body.inputs
    for graph in (*([body] if isinstance(body, ir.Graph) else []), *body.subgraphs()):
        yield from graph.inputs
        yield from tuple(graph.initializers.values())
    for node in body.all_nodes():
        yield from node.outputs


def _sorted(body: ir.Graph | ir.Function) -> bool:
    made: set[ir.Node] = set()
    for node in body.all_nodes():
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer not in made:
                return False
        made.add(node)
    return True


def _fresh(base: str, taken: set[str | None]) -> str:
    name, suffix = base, 0
    while name in taken:
        suffix += 1
        name = f"{base}_{suffix}"
    taken.add(name)
    return name


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
    denotations = [shape.get_denotation(i) for i in range(len(dims))]
    value.shape = ir.Shape(dims, denotations)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _some(names: Iterable[str | None], limit: int = 3) -> str:
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(repr(name) for name in listed[:limit]) + more
