# SPDX-License-Identifier: Apache-2.0
"""One name, one value: resolves the names of a model before it is deserialized.

ONNX demands static single assignment, yet torch's dynamo exporter can name an output
`embedding` beside an internal `embedding`, and inlined or hand-stitched graphs do the like.
The runtime refuses such a file and onnx-ir cannot read it. The order of the nodes still tells
which use means which definition: the last one above it. All definitions but one are renamed;
the one that keeps the name is the graph's input, else its output, else the first.

Works on the protobuf itself, in one walk linear in the nodes; weights are never touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx

_GRAPH, _GRAPHS = 5, 10  # onnx.AttributeProto.GRAPH and GRAPHS
_RENAME = "rename one of the two where the model is made"


def resolve_names(model: onnx.ModelProto, where: str) -> list[str]:
    """Give every value of a model, its subgraphs and its functions a name of its own.

    Args:
        model: Edited in place. Names of the graph's inputs and outputs are kept.
        where: What to call the model in an error: its file, for instance.

    Returns:
        A note for each name that had several definitions.

    Raises:
        InputError: a name is used that nothing defines, or two definitions of a name are both
            part of the model's interface.
    """
    walk = _Namespace(where, model.graph)
    walk.graph(model.graph)
    notes = walk.notes
    for function in model.functions:
        walk = _Namespace(f"{where}, function {function.name}", function)
        walk.function(function)
        notes += walk.notes
    return notes


class _Scope:
    """The names of one graph: what each means at the current node."""

    def __init__(self, outer: _Scope | None) -> None:
        self.outer = outer
        self.current: dict[str, str] = {}
        # The new names of a name with several definitions, in the order of these.
        self.successive: dict[str, Iterator[str]] = {}

    def find(self, name: str) -> str | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.current:
                return scope.current[name]
            scope = scope.outer
        return None

    def define(self, name: str) -> str:
        if name in self.successive:
            self.current[name] = next(self.successive[name])
            return self.current[name]
        return name


class _Namespace:
    """The walk over a graph and its subgraphs, or a function and its."""

    def __init__(self, where: str, root: onnx.GraphProto | onnx.FunctionProto) -> None:
        self.notes: list[str] = []
        self._where = where
        self._root = root
        self._taken: set[str] | None = None

    def graph(self, graph: onnx.GraphProto, outer: _Scope | None = None) -> None:
        self._keep_last_initializers(graph)
        inputs = [value.name for value in graph.input]
        given = dict.fromkeys([*inputs, *(tensor.name for tensor in graph.initializer)])
        # A subgraph's inputs and outputs are matched by position: those may be renamed.
        fixed = ([], []) if outer else (inputs, [value.name for value in graph.output])
        if len(set(inputs)) < len(inputs):
            twice = next(name for name in inputs if inputs.count(name) > 1)
            raise InputError(f"{self._where}: two inputs are called {twice!r}", hint=_RENAME)
        scope = self._scope(given, graph.node, outer, *fixed)
        if scope.successive:
            renamed = {name: scope.define(name) for name in given}
            for item in (*graph.input, *graph.initializer):
                item.name = renamed[item.name]
            # Nothing says which of the definitions a recorded type is of.
            kept = [info for info in graph.value_info if info.name not in scope.successive]
            del graph.value_info[:]
            graph.value_info.extend(kept)
        self._nodes(graph.node, scope)
        for value in graph.output:
            value.name = self._meaning(value.name, scope, "a graph output")

    def function(self, function: onnx.FunctionProto) -> None:
        scope = self._scope(
            dict.fromkeys(function.input), function.node, None, function.input, function.output
        )
        for name in function.input:
            scope.define(name)
        self._nodes(function.node, scope)
        for name in function.output:
            self._meaning(name, scope, "a function output")

    def _scope(
        self,
        given: dict[str, None],
        nodes: Iterable[onnx.NodeProto],
        outer: _Scope | None,
        inputs: Iterable[str],
        outputs: Iterable[str],
    ) -> _Scope:
        scope = _Scope(outer)
        made = Counter(name for node in nodes for name in node.output if name)
        scope.current = dict.fromkeys(given) | dict.fromkeys(made)  # type: ignore[assignment]
        for name in scope.current:
            scope.current[name] = name
            count = made[name] + (name in given)
            hidden = outer.find(name) if outer else None
            if count == 1 and hidden is None:
                continue
            if hidden is not None:
                names = [self._fresh(name) for _ in range(count)]
                # Above its first definition here the name means the outer value.
                scope.current[name] = hidden
            else:
                keeper = count - 1 if name in outputs and name not in inputs else 0
                if name in inputs and name in outputs:
                    raise InputError(
                        f"{self._where}: {name!r} is the name of an input and of an output "
                        "that differs from it",
                        hint=_RENAME,
                    )
                names = [name if i == keeper else self._fresh(name) for i in range(count)]
                scope.current[name] = names[0]
            scope.successive[name] = iter(names)
            others = ", ".join(repr(new) for new in names if new != name)
            self.notes.append(
                f"value name {name!r} has {count + (hidden is not None)} definitions: "
                f"renamed to {others}, each use following the definition above it"
            )
        return scope

    def _nodes(self, nodes: Iterable[onnx.NodeProto], scope: _Scope) -> None:
        for node in nodes:
            for i, name in enumerate(node.input):
                if name and (new := self._meaning(name, scope, node)) != name:
                    node.input[i] = new
            for attribute in node.attribute:
                if attribute.type == _GRAPH:
                    self.graph(attribute.g, scope)
                elif attribute.type == _GRAPHS:
                    for graph in attribute.graphs:
                        self.graph(graph, scope)
            for i, name in enumerate(node.output):
                if name in scope.successive:
                    node.output[i] = scope.define(name)

    def _meaning(self, name: str, scope: _Scope, user: onnx.NodeProto | str) -> str:
        found = scope.find(name)
        if found is None:
            if not isinstance(user, str):
                user = f"{user.op_type} node {user.name or ', '.join(user.output)!r}"
            raise InputError(
                f"{self._where}: {user} reads {name!r}, which nothing defines",
                hint="the file is damaged or badly made; export it again",
            )
        return found

    def _keep_last_initializers(self, graph: onnx.GraphProto) -> None:
        """Of several initializers of a name keep the last, as ONNX Runtime does."""
        last = {tensor.name: i for i, tensor in enumerate(graph.initializer)}
        for i in reversed(range(len(graph.initializer))):
            if last[name := graph.initializer[i].name] != i:
                del graph.initializer[i]
                self.notes.append(f"initializer {name!r} is given twice: the last one is used")

    def _fresh(self, name: str) -> str:
        if self._taken is None:
            self._taken = set(_names(self._root))
        i = 1
        while f"{name}_{i}" in self._taken:
            i += 1
        self._taken.add(f"{name}_{i}")
        return f"{name}_{i}"


def _names(root: onnx.GraphProto | onnx.FunctionProto) -> Iterator[str]:
    """Every name below a graph or function, of values that is."""
    for declared in (root.input, root.output, getattr(root, "initializer", ())):
        for item in declared:
            yield item if isinstance(item, str) else item.name
    for node in root.node:
        yield from node.output
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *([attribute.g] if attribute.type == _GRAPH else [])):
                yield from _names(graph)
