# SPDX-License-Identifier: Apache-2.0
"""What an optimization did, as data: printed by the command line, written as JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

if TYPE_CHECKING:
    from burnish.backends.census import Census
    from burnish.passes.decide import Decision
    from burnish.passes.explain import NearMiss

SCHEMA_VERSION = 1


@dataclass
class RuleReport:
    """How often a rule fired and why it did not.

    Attributes:
        rewrites: Number of rewrites done.
        skipped: Number of rewrites held back by `--disable` or `--bisect-limit`.
        seconds: Time spent rewriting (s).
        refusals: Reason -> number of places refused for it.
    """

    rewrites: int = 0
    skipped: int = 0
    seconds: float = 0.0
    refusals: dict[str, int] = field(default_factory=dict)


@dataclass
class PassReport:
    """One pass: its pipeline text, wall time (s), rules, and the passes it ran itself.

    `details` is what else the pass has to say, as plain data; each documents its own.
    """

    text: str
    seconds: float = 0.0
    skipped: bool = False
    rules: dict[str, RuleReport] = field(default_factory=dict)
    members: list[PassReport] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def rule(self, name: str) -> RuleReport:
        """Return the entry of a rule, made on first use."""
        return self.rules.setdefault(name, RuleReport())

    @property
    def rewrites(self) -> int:
        """Number of rewrites done by the pass and its members."""
        own = sum(rule.rewrites for rule in self.rules.values())
        return own + sum(member.rewrites for member in self.members)

    @property
    def changed(self) -> bool:
        """Whether the pass changed the model."""
        return self.rewrites > 0

    def fired(self) -> Counter[str]:
        """Return rule -> rewrites, of rules of the pass and its members that did any."""
        own = {name: rule.rewrites for name, rule in self.rules.items() if rule.rewrites}
        return sum((member.fired() for member in self.members), Counter(own))


@dataclass(frozen=True)
class ModelStats:
    """Size of a model.

    Attributes:
        nodes: Number of nodes, subgraphs and functions included.
        ops: Operator (with its domain unless the default) -> number of nodes.
        parameters: Number of elements in initializers and Constant nodes.
        bytes: Bytes those take.
        opset: Version of the default operator set.
    """

    nodes: int
    ops: dict[str, int]
    parameters: int
    bytes: int
    opset: int

    @staticmethod
    def of(model: ir.Model) -> ModelStats:
        """Count a model; reads no weights."""
        ops: Counter[str] = Counter()
        parameters = size = 0
        for graph in all_graphs(model):
            for value in graph.initializers.values():
                if value.const_value is not None:
                    parameters += value.const_value.size
                    size += value.const_value.nbytes
            for node in graph:
                ops[f"{node.domain}::{node.op_type}" if node.domain else node.op_type] += 1
                for attribute in node.attributes.values():
                    if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                        parameters += attribute.as_tensor().size
                        size += attribute.as_tensor().nbytes
        opset = model.opset_imports.get("", 0)
        return ModelStats(sum(ops.values()), dict(sorted(ops.items())), parameters, size, opset)


def all_graphs(model: ir.Model) -> list[ir.Graph]:
    """Return the main graph, every subgraph, and every function body."""
    graphs = [model.graph, *model.graph.subgraphs()]
    for function in model.functions.values():
        graphs += [function.graph, *function.graph.subgraphs()]
    return graphs


@dataclass
class Report:
    """The whole record of one optimization; `as_dict` follows docs/report.schema.json.

    Attributes:
        input: Path or description, and sha256 digest, of what was optimized.
        pipeline: Pipeline text as run, groups expanded.
        versions: Package -> version that took part.
        before: Size before.
        after: Size after.
        passes: One entry a pass, in order.
        verification: What was checked and found; see `burnish.passes.guard`.
        warnings: One line each.
        census: "before" and "after" -> operators stored and executed, where asked for; see
            `burnish.backends.census`.
        decisions: Of rewrites that may lose, which were done, and why; see
            `burnish.passes.decide`.
        explanations: Near misses, where asked for; see `burnish.passes.explain`.
        seconds: Wall time (s) of the whole optimization.
    """

    input: dict[str, str]
    pipeline: str
    target: str
    seed: int
    versions: dict[str, str]
    before: ModelStats
    after: ModelStats
    passes: list[PassReport] = field(default_factory=list)
    verification: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    census: dict[str, Census] | None = None
    decisions: list[Decision] = field(default_factory=list)
    explanations: list[NearMiss] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        data = {"schema": SCHEMA_VERSION, **dataclasses.asdict(self)}
        if self.census is not None:
            data["census"] = {side: found.as_dict() for side, found in self.census.items()}
        return data
