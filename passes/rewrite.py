# SPDX-License-Identifier: Apache-2.0
"""The rewrite driver: a worklist of nodes, indexed by root operator.

Each node is looked at once, and again only if a rewrite near it may have enabled a match; nothing
ever restarts from the top, so the work is linear in nodes plus rewrites.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any

import onnx_ir as ir

from burnish.passes.constant import as_array, scalar_of
from burnish.passes.context import PassContext, describe
from burnish.passes.edit import discard, remove_unused, replace_value, take_names, use_count
from burnish.passes.match import Furthest, Match, match_at
from burnish.passes.pattern import Pattern
from burnish.passes.rule import Builder, NoMatch, Operand, Rule
from burnish.passes.shapes import infer_node, infer_shapes

# Rewrites for each node that a graph begins with, and for the smallest graph: beyond it, rules feed
# on what they make.
_FUEL, _LEAST_FUEL = 50, 5_000

_Index = dict[tuple[str, str], list[tuple[Rule, Pattern]]]
_Pairs = list[tuple[ir.Value, ir.Value]]  # old and new outputs of a rewrite


def apply_rules(model: ir.Model, rules: Sequence[Rule], ctx: PassContext) -> None:
    """Apply rules to the main graph, its subgraphs and the functions, until none matches."""
    infer_shapes(model)
    _Driver(model.graph, model.opset_imports, rules, ctx, in_function=False).run()
    for function in model.functions.values():
        _Driver(function.graph, function.opset_imports, rules, ctx, in_function=True).run()


class _Driver:
    """Rewrites one graph and its subgraphs."""

    def __init__(
        self,
        graph: ir.Graph,
        opset_imports: dict[str, int],
        rules: Sequence[Rule],
        ctx: PassContext,
        *,
        in_function: bool,
    ) -> None:
        self.graph = graph
        self.opset_imports = opset_imports
        self.rules = rules
        self.ctx = ctx
        self.in_function = in_function
        self.index: _Index = defaultdict(list)
        self.depth = 0
        self.siblings = False  # whether a pattern has several outputs: it then matches across users
        opset = opset_imports.get("", 1)
        for rule in rules:
            if not rule.applies_to(opset):
                continue
            for pattern in rule.patterns:
                self.depth = max(self.depth, pattern.depth)
                self.siblings = self.siblings or len(pattern.roots) > 1
                for op_type in sorted(pattern.start.op_types):
                    self.index[pattern.start.domain, op_type].append((rule, pattern))
        self.queue: deque[ir.Node] = deque()
        self.queued: set[ir.Node] = set()
        self.unsorted: dict[int, ir.Graph] = {}
        # One refusal a rule and node, so that revisits do not inflate the counts.
        self.refused: set[tuple[str, ir.Node]] = set()
        explain = ctx.explain
        self.asked = {rule.name for rule in rules if explain and explain.asks(rule.name)}
        self.done: Counter[str] = Counter()

    def run(self) -> None:
        if not self.index:
            return
        nodes = list(self.graph.all_nodes())
        for node in nodes:
            self.push(node)
        fuel = max(_LEAST_FUEL, _FUEL * len(nodes))
        while self.queue:
            if self.done.total() > fuel:
                (rule, count), *_ = self.done.most_common(1)
                self.ctx.warn(f"rule {rule} was stopped after {count} rewrites: it finds no end")
                break
            node = self.queue.popleft()
            self.queued.discard(node)
            if node.graph is not None:  # not removed meanwhile
                self.visit(node)
        for graph in self.unsorted.values():
            graph.sort()

    def push(self, node: ir.Node) -> None:
        if node not in self.queued and (node.domain, node.op_type) in self.index:
            self.queued.add(node)
            self.queue.append(node)

    def visit(self, node: ir.Node) -> None:
        opset = self.opset_imports.get(node.domain, 1)
        misses: dict[str, tuple[Rule, Furthest]] = {}
        makers = [value.producer() for value in node.inputs if value is not None]
        above = frozenset(maker.op_type for maker in makers if maker is not None)
        for rule, pattern in self.index[node.domain, node.op_type]:
            if not pattern.may_match(above) and rule.name not in self.asked:
                continue
            near = Furthest()
            try:
                match = match_at(pattern, node, opset, near)
            except Exception as error:  # a predicate's
                self.fault(rule, node, error)
                continue
            if match is not None:
                if self.attempt(rule, pattern, match, node):
                    return
            # Having matched most of the pattern is news; a lone root operator is not.
            elif near.nodes > 1 and (near.nodes * 3 > pattern.depth * 2 or rule.name in self.asked):
                _, furthest = misses.setdefault(rule.name, (rule, near))
                if near.nodes > furthest.nodes:
                    misses[rule.name] = rule, near
        for rule, near in misses.values():
            self.refuse(rule, node, NoMatch(near.reason), near.at)

    def refuse(self, rule: Rule, node: ir.Node, why: NoMatch, at: ir.Node | None = None) -> None:
        if (rule.name, node) not in self.refused:
            self.refused.add((rule.name, node))
            self.ctx.refuse(rule.name, node, why.reason, repair=why.repair, at=at)

    def fault(self, rule: Rule, node: ir.Node, error: Exception) -> None:
        """Leave out a rule that raised, at this node, or let its exception pass."""
        if not self.ctx.goes_on_after(error, rule.name, node):
            raise error
        self.refuse(rule, node, NoMatch(f"the rule raised {type(error).__name__}"))

    def attempt(self, rule: Rule, pattern: Pattern, match: Match, node: ir.Node) -> bool:
        """Build the replacement and, if nothing speaks against it, put it in place."""
        builder = Builder(self.opset_imports)
        try:
            found = self.propose(rule, pattern, match, builder)
        except Exception as error:
            discard(builder.nodes)
            self.fault(rule, node, error)
            return False
        if not isinstance(found, NoMatch):
            loss = self.loss(rule, match, builder, found)
            found = found if loss is None else loss
        if isinstance(found, NoMatch):
            discard(builder.nodes)
            self.refuse(rule, node, found)
            return False
        with self.ctx.rewrite(rule.name, node) as go:
            if go:
                self.splice(pattern, match, node, builder, found)
                self.done[rule.name] += 1
                return True
        discard(builder.nodes)
        return False

    def propose(
        self, rule: Rule, pattern: Pattern, match: Match, builder: Builder
    ) -> _Pairs | NoMatch:
        """Build the replacement beside the graph: old and new outputs, or why there are none."""
        made = rule.replace(builder, match.bindings(pattern), self.ctx)
        if isinstance(made, NoMatch):
            return made
        outputs = [item.value if isinstance(item, Operand) else item for item in _as_tuple(made)]
        assert len(outputs) == len(pattern.roots), f"{rule.name}: wrong number of outputs"
        old = [match.nodes[root.node].outputs[root.index] for root in pattern.roots]
        pairs = list(zip(old, outputs, strict=True))
        objection = self.objection(rule, builder, match, pairs)
        return pairs if objection is None else NoMatch(objection)

    def loss(self, rule: Rule, match: Match, builder: Builder, pairs: _Pairs) -> NoMatch | None:
        """Say that a replacement loses on the target, if it may and does."""
        decisions, node = self.ctx.decisions, pairs[0][0].producer()
        if decisions is None or node is None:
            return None
        operator = self.in_doubt(rule, builder, match)
        if operator is None or not self.ctx.allows(rule.name, node):
            return None
        decision = decisions.decide(
            rule.name,
            describe(node),
            operator,
            pairs,
            builder.nodes,
            self.opset_imports,
            self.rules,
        )
        if decision.refusal is None:
            return None
        return NoMatch(decision.refusal, decision.repair)

    def in_doubt(self, rule: Rule, builder: Builder, match: Match) -> str | None:
        """Name the operator for which a replacement may lose, if it may."""
        if isinstance(rule.may_lose, str):
            return rule.may_lose
        for new in builder.nodes:
            first = next((value for value in new.inputs if value is not None), None)
            dtype = None if first is None else first.dtype
            known = self.ctx.target.speaks_of(new.op_type, new.domain, dtype)
            if known is not None and not _has(match, new):
                return known
        if not rule.may_lose or not builder.nodes:
            return None
        return ", ".join(dict.fromkeys(new.op_type for new in builder.nodes))

    def objection(self, rule: Rule, builder: Builder, match: Match, pairs: _Pairs) -> str | None:
        """Infer the new nodes, and say what speaks against them, if anything does.

        Args:
            rule: Whose replacement it is.
            builder: Holds the new nodes.
            match: What would be replaced.
            pairs: Old and new value for each output.
        """
        like = {new: old for old, new in pairs}
        for node in builder.nodes:
            infer_node(node, self.opset_imports, like.get(node.outputs[0]))
        reason = _misfit(pairs) or _may_lose_axes(match, builder, pairs)
        if reason is None and len(pairs) > 1:
            reason = _makes_cycle(match)
        if reason is not None:
            return reason
        if rule.unsupported_ok:
            return None
        target = self.ctx.target
        for new in builder.nodes:
            opset = self.opset_imports.get(new.domain, 1)
            first = next((value for value in new.inputs if value is not None), None)
            dtype = first.dtype if first is not None else None
            if not target.runs(new.op_type, new.domain, opset=opset, dtype=dtype):
                kind = "" if dtype is None else f" of {dtype.name.lower()}"
                return f"target {target.name} does not run {new.op_type}{kind} at opset {opset}"
        return None

    def splice(
        self,
        pattern: Pattern,
        match: Match,
        node: ir.Node,
        builder: Builder,
        pairs: _Pairs,
    ) -> None:
        graph = node.graph
        assert graph is not None
        matched = list(match.nodes.values())
        kept = {id(n) for p, n in match.nodes.items() if p.shared}
        leaves = match.leaves
        for new in builder.nodes:
            if new.domain not in self.opset_imports:
                self.opset_imports[new.domain] = 1
            if node.metadata_props:
                new.metadata_props.update(node.metadata_props)
        take_names(builder.nodes, builder.initializers, node, self.graph)
        self.place_constants(graph, node, builder)
        graph.insert_before(node, builder.nodes)
        if len(pattern.roots) > 1:
            self.unsorted[id(graph)] = graph
        moved = [user for old, _ in pairs for user in old.consumers()]
        for old, new_value in pairs:
            replace_value(old, new_value)
        if self.siblings:
            moved += [user for _, new_value in pairs for user in new_value.consumers()]
        remove_unused([n for n in matched if id(n) not in kept])
        self.wake(builder.nodes, moved, leaves)

    def place_constants(self, graph: ir.Graph, node: ir.Node, builder: Builder) -> None:
        """Register new constants; a function cannot hold initializers, so there they are nodes."""
        for value in builder.initializers:
            if not use_count(value):
                continue
            if not self.in_function:
                graph.register_initializer(value)
                continue
            assert value.const_value is not None
            constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", value.const_value)])
            constant.outputs[0].name = value.name
            constant.outputs[0].shape, constant.outputs[0].type = value.shape, value.type
            graph.insert_before(node, constant)
            value.replace_all_uses_with(constant.outputs[0])

    def wake(
        self, new_nodes: Sequence[ir.Node], moved: Iterable[ir.Node], leaves: list[ir.Value]
    ) -> None:
        """Queue every node whose matches the rewrite may have changed.

        Those are the new nodes, the users that were moved to another value, what lies downstream
        of both within the depth of the deepest pattern, and what lies downstream of a leaf that
        has just come down to a single user.
        """
        for new in new_nodes:
            self.push(new)
        seeds = [value for new in new_nodes for value in new.outputs]
        for leaf in leaves:
            producer = leaf.producer()
            if producer is not None and use_count(leaf) == 1:
                seeds.append(leaf)
        # Not all users of what replaced the old values: thousands may share it already.
        users = [*moved, *(user for value in seeds for user in value.consumers())]
        seen: set[ir.Node] = set()
        for _ in range(self.depth):
            frontier: list[ir.Value] = []
            for user in users:
                if user not in seen:
                    seen.add(user)
                    self.push(user)
                    frontier += user.outputs
            users = [user for value in frontier for user in value.consumers()]


def _has(match: Match, node: ir.Node) -> bool:
    """Whether an operator stands among those matched: then it is not news."""
    kinds = {(matched.domain, matched.op_type) for matched in match.nodes.values()}
    return (node.domain, node.op_type) in kinds


def _as_tuple(made: Any) -> tuple[Any, ...]:
    return made if isinstance(made, tuple) else (made,)


def _misfit(pairs: Iterable[tuple[ir.Value, ir.Value]]) -> str | None:
    """Whether a new value certainly has another type or shape than the one it replaces.

    A rule need not think of broadcasting: x * 1 is not x where the 1 has more dimensions than x.
    """
    for old, new in pairs:
        if old.dtype is not None and new.dtype is not None and old.dtype != new.dtype:
            return "the replacement has another type"
        if old.shape is None or new.shape is None:
            continue
        if len(old.shape) != len(new.shape) or any(
            isinstance(mine, int) and isinstance(theirs, int) and mine != theirs
            for mine, theirs in zip(old.shape.dims, new.shape.dims, strict=True)
        ):
            return "the replacement has another shape"
    return None


def _may_lose_axes(match: Match, builder: Builder, pairs: _Pairs) -> str | None:
    """Say that a number that goes may have broadcast what it was combined with, if so.

    Gelu(x) is not x / 2 * (1 + erf(x / sqrt(2))) where the 2 is of shape [1, 1] and x a vector.
    Where both shapes are known, `_misfit` has compared them.
    """
    if all(old.shape is not None and new.shape is not None for old, new in pairs):
        return None
    kept = {value for node in builder.nodes for value in node.inputs}
    kept |= {new for _, new in pairs}
    for value in match.values.values():
        if not isinstance(value, ir.Value) or value in kept or scalar_of(value) is None:
            continue
        array = as_array(value)
        # Whole numbers are also axes and sizes, which broadcast nothing.
        if array is not None and array.ndim and array.dtype.kind not in "biu":
            return "a number with axes may broadcast what is of unknown rank"
    return None


def _makes_cycle(match: Match) -> str | None:
    """Whether a leaf of a match with several outputs depends on one of its nodes.

    Only such a match can become a cycle when fused: a path would leave it and come back.
    """
    inside = set(match.nodes.values())
    pending = [leaf.producer() for leaf in match.leaves]
    seen: set[ir.Node] = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        if node in inside:
            return "fusing would make a cycle"
        seen.add(node)
        pending += [value.producer() for value in node.inputs if value is not None]
    return None
