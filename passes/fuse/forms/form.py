# SPDX-License-Identifier: Apache-2.0
"""Linear forms of indices and sizes, and conditions made of them: which keys a query sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from burnish.passes.cleanup.dims import Size

Variable = int | str
"""An index, by its axis counted from the end; or a size, by its name."""


@dataclass(frozen=True)
class Form:
    """A linear form: the sum of `terms`, each a variable and its factor, and a constant."""

    terms: frozenset[tuple[Variable, int]] = frozenset()
    constant: int = 0

    @staticmethod
    def of(terms: Mapping[Variable, int], constant: int = 0) -> Form:
        """Make a form in which no factor is 0."""
        return Form(frozenset((name, n) for name, n in terms.items() if n), constant)

    def plus(self, other: Form, times: int = 1) -> Form:
        """Return self + times * other."""
        terms = dict(self.terms)
        for name, n in other.terms:
            terms[name] = terms.get(name, 0) + times * n
        return Form.of(terms, self.constant + times * other.constant)

    def put(self, name: Variable, value: Form) -> Form:
        """Return the form with `value` in place of a variable."""
        terms = dict(self.terms)
        times = terms.pop(name, 0)
        return Form.of(terms, self.constant).plus(value, times)

    @property
    def axes(self) -> list[int]:
        """The axes whose index is in the form."""
        return [name for name, _ in self.terms if isinstance(name, int)]

    @property
    def never_positive(self) -> bool:
        """Whether it is at most 0 for all indices and sizes, none of which is negative."""
        return self.constant <= 0 and all(n < 0 for _, n in self.terms)


Condition = frozenset[Form]
"""Forms that must all be at most 0."""

QUERY, KEY = Form.of({-2: 1}), Form.of({-1: 1})
NEVER: Condition = frozenset({Form(constant=1)})


def size_form(dim: Size) -> Form | None:
    """Read a size: a number, a name, or a sum of such with factors, as inference writes it."""
    if isinstance(dim, int):
        return Form(constant=dim)
    if dim.value is None:
        return None
    total = Form()
    for part in dim.value.split(" + "):
        factor, _, name = part.rpartition("*")
        if name.isdecimal() and not factor:
            total = total.plus(Form(constant=int(name)))
        elif name.isidentifier() and (not factor or factor.isdecimal()):
            total = total.plus(Form.of({name: int(factor or 1)}))
        else:
            return None
    return total


def is_causal(condition: Condition, past: Size = 0) -> bool:
    """Whether exactly the keys up to a query's own position are seen, `past` keys ahead of it."""
    offset = size_form(past)
    if offset is None:
        return False
    wanted = KEY.plus(QUERY, -1).plus(offset, -1)
    return {form for form in condition if not form.never_positive} == {wanted}


def sees_some(condition: Condition, queries: Size, keys: Size) -> bool:
    """Whether each query certainly sees a key: the first of all, or that at its own position."""
    diagonals = [form.plus(KEY, -1) for form in condition if (-1, 1) in form.terms]
    last, end = size_form(queries), size_form(keys)
    spots = [Form()]
    for offset in (diagonal.plus(QUERY) for diagonal in diagonals):
        # The last query's key, queries - 1 - offset, has to be there: it is below the end.
        if (
            last is not None
            and end is not None
            and last.plus(offset, -1).plus(end, -1).never_positive
        ):
            spots.append(QUERY.plus(offset, -1))
    return any(all(form.put(-1, spot).never_positive for form in condition) for spot in spots)
