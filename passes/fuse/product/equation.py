# SPDX-License-Identifier: Apache-2.0
"""Equations of Einsum with two tensors: which letters they contract, and which they keep."""

from __future__ import annotations

from dataclasses import dataclass

from burnish.passes.rule import NoMatch


@dataclass(frozen=True)
class Terms:
    """The letters of two tensors and of the result.

    Attributes:
        contracted: Those of both that the result lacks.
        batch: Those of all three.
    """

    left: str
    right: str
    result: str

    @property
    def contracted(self) -> str:
        return "".join(c for c in self.left if c in self.right and c not in self.result)

    @property
    def batch(self) -> str:
        return "".join(c for c in self.result if c in self.left and c in self.right)

    @property
    def turned(self) -> Terms:
        """The tensors in the order in which MatMul gives the last axis of the result last."""
        if self.result[-1:] and self.result[-1] not in self.right:
            return Terms(self.right, self.left, self.result)
        return self

    def only(self, side: str) -> str:
        """Return what is kept from one side alone, in the order of the result."""
        return "".join(c for c in self.result if c in side and c not in self.batch)


def read(equation: str) -> Terms | NoMatch:
    """Read an equation; or say why it is no product of two tensors' axes."""
    terms, arrow, result = equation.replace(" ", "").partition("->")
    left, _, right = terms.partition(",")
    if "." in terms:
        return NoMatch("the equation has an ellipsis")
    if not arrow:
        result = "".join(sorted(set(left) ^ set(right)))
    if any(len(set(term)) < len(term) for term in (left, right, result)):
        return NoMatch("a letter comes twice in one tensor")
    if not set(left) ^ set(right) <= set(result):
        return NoMatch("an axis that one tensor alone has is summed")
    return Terms(left, right, result)


def is_spread(equation: str) -> bool:
    """Whether a tensor keeps several axes beside a batch, which is another tensor's, too."""
    terms = read(equation)
    if isinstance(terms, NoMatch) or not terms.contracted or not terms.batch:
        return False
    return len(terms.only(terms.turned.left)) > 1


def transposes(terms: Terms, outer: str) -> int:
    """How many Transposes it takes if the left begins with these letters; but for the right's."""
    order = outer + terms.only(terms.left)[-1:]
    return (terms.left != order + terms.contracted) + (
        terms.result != order + terms.only(terms.right)
    )
