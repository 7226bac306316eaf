# SPDX-License-Identifier: Apache-2.0
"""Near misses: where a rule almost applied, what stood in its way, and what would clear it.

The context counts refusals by reason for the report. Asked by `--explain`, it also hands each of
them to an `Explain`, which costs nothing where there is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import onnx_ir as ir

from burnish.passes.context import describe
from burnish.passes.report import all_graphs

# What helps against a constraint, by how it is worded: the matcher's and the driver's own, then
# what rules often say. A `NoMatch(reason, repair=...)` knows better.
_REPAIRS = tuple(
    (re.compile(pattern), repair)
    for pattern, repair in (
        ("is used elsewhere too$", "remove the other user, or duplicate the node for it"),
        ("is an output of the graph$", "drop that output, or duplicate the node for it"),
        ("stands where .* should$", "write it with that operator, or give the rule this spelling"),
        ("^attribute .* differs$", "set the attribute to what the pattern asks for"),
        ("stands for two different values$", "feed one value to all these places"),
        ("is not computed by a node$", "compute it in the graph, as the pattern does"),
        ("is computed in an outer graph$", "move both into the same graph"),
        (r"^an operand is ", "make it a constant of that value"),
        ("^input .* is missing$", "give the input"),
        ("has another value$", "change the constant to what the pattern asks for"),
        (" does not run ", "raise the opset with the pass upgrade, or choose another --target"),
        ("^the replacement has another type$", "make the types of the operands agree"),
        ("^the replacement has another shape$", "give the operands shapes that broadcast alike"),
        ("^fusing would make a cycle$", "cut the path that leaves the match and comes back"),
        ("(is|are) not constant", "make it constant: an initializer that is no input of the graph"),
        ("(?<!or is )(unknown|not known)", "declare shapes and types of the model's inputs"),
        ("^the rule raised ", "report it with the reproducer; --strict stops at it"),
    )
)


@dataclass(frozen=True)
class NearMiss:
    """One place where a rule did not apply.

    Attributes:
        rule: Name of the rule.
        node: Name of the node (or value) it was tried at.
        op_type: Operator of that node; empty where the place is no node.
        at: Name of the node that failed the constraint, if it is another one.
        reason: The constraint that failed.
        repair: What would clear it; empty where nothing is known to.
    """

    rule: str
    node: str
    op_type: str
    at: str
    reason: str
    repair: str


@dataclass
class Explain:
    """Collects the near misses of the rules whose name matches a glob pattern.

    A place is kept once a rule, with what was said of it last. A rule asked for by name is told
    of wherever more than its root operator matched; any other, where most of its pattern did.
    """

    pattern: str = "*"
    _found: dict[tuple[str, str], NearMiss] = field(default_factory=dict)

    def add(self, miss: NearMiss) -> None:
        """Keep a near miss of a rule that is asked for."""
        if fnmatchcase(miss.rule, self.pattern):
            self._found[miss.rule, miss.node] = miss

    def asks(self, rule: str) -> bool:
        """Whether a rule is asked for by name."""
        return self.pattern != "*" and fnmatchcase(rule, self.pattern)

    def left_in(self, model: ir.Model) -> list[NearMiss]:
        """Return the near misses whose place is still in the model, by rule, in order found.

        What was rewritten after all, by this rule or another, is none of the user's concern.
        """
        names = {describe(node) for graph in all_graphs(model) for node in graph}
        kept = [miss for miss in self._found.values() if miss.node in names or not miss.op_type]
        return sorted(kept, key=lambda miss: miss.rule)


def repair_for(reason: str) -> str:
    """Return what usually helps against a constraint; empty if nothing is known to."""
    return next((repair for pattern, repair in _REPAIRS if pattern.search(reason)), "")
