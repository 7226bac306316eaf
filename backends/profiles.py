# SPDX-License-Identifier: Apache-2.0
"""Profiles: the shapes of inputs that an engine is built for, or that requests are padded to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from burnish.errors import InputError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""Shape by name of input: one request's."""


class Range(NamedTuple):
    """The shapes of one input that a profile takes, axis by axis.

    Attributes:
        min: Smallest size of each axis.
        opt: The one that speed matters most for.
        max: Largest size of each axis.
    """

    min: Shape
    opt: Shape
    max: Shape

    def covers(self, shape: Sequence[int]) -> bool:
        """Whether every axis of `shape` lies between `min` and `max`."""
        return len(shape) == len(self.min) and all(
            low <= size <= high for low, size, high in zip(self.min, shape, self.max, strict=True)
        )


@dataclass(frozen=True)
class Profile:
    """Ranges of the shapes of all inputs, taken together.

    Attributes:
        name: Unique among the profiles of an artefact.
        inputs: Range by name of input.
    """

    name: str
    inputs: Mapping[str, Range]

    def __post_init__(self) -> None:
        for name, span in self.inputs.items():
            ranks = {len(shape) for shape in span}
            if len(ranks) != 1 or not all(
                1 <= low <= middle <= high
                for low, middle, high in zip(span.min, span.opt, span.max, strict=True)
            ):
                raise InputError(
                    f"profile {self.name!r}: input {name!r} is not min <= opt <= max on each axis: "
                    f"{list(span.min)}, {list(span.opt)}, {list(span.max)}",
                    hint="give three shapes of one rank, sizes 1 or more",
                )

    def covers(self, shapes: Shapes) -> bool:
        """Whether the shape of every input that the profile names lies in its range."""
        return all(
            name in shapes and span.covers(shapes[name]) for name, span in self.inputs.items()
        )

    def contains(self, shapes: Shapes) -> bool:
        """Whether no input is larger than the largest of its range on any axis."""
        return all(
            name in shapes
            and len(shapes[name]) == len(span.max)
            and all(size <= high for size, high in zip(shapes[name], span.max, strict=True))
            for name, span in self.inputs.items()
        )

    @property
    def elements(self) -> int:
        """Elements of all inputs at their largest."""
        return sum(math.prod(span.max) for span in self.inputs.values())

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        spans = {name: span._asdict() for name, span in sorted(self.inputs.items())}
        return {
            "name": self.name,
            "inputs": {
                name: {end: list(shape) for end, shape in span.items()}
                for name, span in spans.items()
            },
        }

    @staticmethod
    def of(data: Mapping[str, Any]) -> Profile:
        """Read what `as_dict` returns."""
        spans = {
            name: Range(*(tuple(span[end]) for end in Range._fields))
            for name, span in data["inputs"].items()
        }
        return Profile(data["name"], spans)


def check(
    profiles: Sequence[Profile], inputs: Iterable[tuple[str, Sequence[int | str | None]]]
) -> None:
    """Compare profiles with the inputs of a model: name, and size or symbol by axis.

    Raises:
        InputError: an input with open sizes is missing, one is unknown, or a size is not the
            model's.
    """
    declared = dict(inputs)
    for profile in profiles:
        for name, span in profile.inputs.items():
            if name not in declared:
                raise InputError(
                    f"the model has no input {name!r}", hint=f"inputs: {', '.join(declared)}"
                )
            dims = declared[name]
            if len(dims) != len(span.max) or any(
                isinstance(dim, int) and not low == dim == high
                for dim, low, high in zip(dims, span.min, span.max, strict=True)
            ):
                shape = ", ".join(map(str, dims))
                raise InputError(
                    f"input {name!r} of the model is [{shape}]; {profile.name} has "
                    f"{list(span.min)} to {list(span.max)}",
                    hint="correct the shapes of the requests",
                )
        for name, dims in declared.items():
            if name not in profile.inputs and not all(isinstance(dim, int) for dim in dims):
                raise InputError(
                    f"the requests do not give the shape of input {name!r}", hint="add it"
                )


def choose(profiles: Sequence[Profile], shapes: Shapes, *, padded: bool = False) -> Profile:
    """The profile for a request: of those that take it, the one with the fewest elements.

    Args:
        profiles: What there is.
        shapes: The request's.
        padded: Whether the request may be padded, so that it only must not be larger.

    Raises:
        InputError: none takes it.
    """
    takes = Profile.contains if padded else Profile.covers
    fitting = [profile for profile in profiles if takes(profile, shapes)]
    if fitting:
        return min(fitting, key=lambda profile: profile.elements)
    asked = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    raise InputError(
        f"no profile covers a request of {asked}; there are {describe(profiles)}",
        hint="build the artefact with --shapes that include it",
    )


def describe(profiles: Sequence[Profile], at_most: int = 4) -> str:
    """One line: the ranges of the first few profiles."""
    shown = [
        " ".join(
            f"{name} {list(span.min)} to {list(span.max)}" for name, span in profile.inputs.items()
        )
        for profile in profiles[:at_most]
    ]
    more = len(profiles) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")
