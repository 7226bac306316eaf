# SPDX-License-Identifier: Apache-2.0
"""Pad a request to the shapes of a profile, and cut its outputs back to its own.

That is right only where the model ignores what was added, as a transformer does behind a mask of
zeros. So the inputs that may be padded are declared, with the value that does no harm; outputs are
cut where declared; and the declaration is tried out before an artefact is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from burnish.backends.profiles import Profile, Shape, Shapes
from burnish.errors import InputError, VerificationError

if TYPE_CHECKING:
    import onnx_ir as ir

    Array = np.ndarray[Any, np.dtype[Any]]


class Axis(NamedTuple):
    """An axis of an input or output."""

    name: str
    axis: int


@dataclass(frozen=True)
class Padding:
    """What is padded, and what is cut.

    Attributes:
        values: By name of input that may be padded (at the end of each axis): with what.
        cuts: Axis of an output -> the axis of an input that it has the size of.
    """

    values: Mapping[str, float]
    cuts: Mapping[Axis, Axis]

    @staticmethod
    def parse(pad: Sequence[str], unpad: Sequence[str]) -> Padding:
        """Read ``INPUT=VALUE`` and ``OUTPUT:AXIS=INPUT:AXIS``.

        Raises:
            InputError: one is not of that form.
        """
        values = {}
        for text in pad:
            name, _, value = text.rpartition("=")
            try:
                values[name] = float(value)
            except ValueError:
                name = ""
            if not name:
                raise InputError(f"--pad {text!r} is not INPUT=VALUE", hint="for example mask=0")
        cuts = {}
        for text in unpad:
            output, _, source = text.partition("=")
            try:
                cuts[_axis(output)] = _axis(source)
            except ValueError as error:
                raise InputError(
                    f"--unpad {text!r} is not OUTPUT:AXIS=INPUT:AXIS",
                    hint="for example last_hidden_state:1=input_ids:1",
                ) from error
        return Padding(values, cuts)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        cuts = [
            {"output": out.name, "axis": out.axis, "input": of.name, "input_axis": of.axis}
            for out, of in sorted(self.cuts.items())
        ]
        return {"values": dict(sorted(self.values.items())), "cuts": cuts}

    @staticmethod
    def of(data: Mapping[str, Any]) -> Padding:
        """Read what `as_dict` returns."""
        return Padding(
            dict(data["values"]),
            {
                Axis(cut["output"], cut["axis"]): Axis(cut["input"], cut["input_axis"])
                for cut in data["cuts"]
            },
        )

    def pad(self, feeds: Mapping[str, Array], profile: Profile) -> dict[str, Array]:
        """Pad every input to the largest shape of a profile that it fits into.

        Raises:
            InputError: an input would have to be padded, but no value is declared for it.
        """
        padded = dict(feeds)
        for name, span in profile.inputs.items():
            array = feeds[name]
            if array.shape == span.max:
                continue
            if name not in self.values:
                raise InputError(
                    f"input {name!r} of shape {list(array.shape)} is not {list(span.max)}, and "
                    "with what to pad it is not declared",
                    hint=f"build the artefact with --pad {name}=VALUE if the model ignores it",
                )
            full = np.full(span.max, self.values[name], dtype=array.dtype)
            full[tuple(map(slice, array.shape))] = array
            padded[name] = full
        return padded

    def cut(self, outputs: Mapping[str, Array], shapes: Shapes) -> dict[str, Array]:
        """Cut outputs to the sizes that `shapes`, of the inputs before padding, imply."""
        found = dict(outputs)
        for (name, axis), of in self.cuts.items():
            if name in found:
                found[name] = found[name].take(range(shapes[of.name][of.axis]), axis=axis)
        return found

    def check(self, model: ir.Model, profiles: Sequence[Profile]) -> None:
        """Try whether padding leaves the outputs as they are, on random inputs.

        Each profile is tried with a request of half its sizes.

        Raises:
            InputError: an input or output named is not there.
            VerificationError: padding changes an output.
        """
        from burnish.backends import numeric, onnxruntime
        from burnish.backends.feeds import random_array

        self._check_names(model)
        rng = np.random.default_rng(0)
        with onnxruntime.session(model, optimize="off") as session:
            for profile in profiles:
                feeds = {
                    spec.name: random_array(
                        rng, spec.name, spec.dtype, _half(spec.shape, profile.inputs[spec.name].max)
                    )
                    for spec in session.inputs
                }
                expected = session.run(feeds)
                shapes = {name: array.shape for name, array in feeds.items()}
                found = self.cut(session.run(self.pad(feeds, profile)), shapes)
                difference = numeric.compare_outputs(expected, found)
                if not difference.ok:
                    raise VerificationError(
                        f"padding to {profile.name} changes what the model computes: "
                        f"{difference.worst}; pad its mask with 0, --unpad the outputs that grow, "
                        "or leave out --pad"
                    )

    def _check_names(self, model: ir.Model) -> None:
        inputs = [value.name for value in model.graph.inputs]
        outputs = [value.name for value in model.graph.outputs]
        for kind, named, known in (
            ("input", [*self.values, *(of.name for of in self.cuts.values())], inputs),
            ("output", [out.name for out in self.cuts], outputs),
        ):
            for name in named:
                if name not in known:
                    raise InputError(
                        f"the model has no {kind} {name!r} to pad or cut",
                        hint=f"there are: {', '.join(map(str, known))}",
                    )


def _axis(text: str) -> Axis:
    name, _, axis = text.rpartition(":")
    if not name or int(axis) < 0:
        raise ValueError(text)
    return Axis(name, int(axis))


def _half(declared: Sequence[int | str | None], largest: Shape) -> Shape:
    """A shape of half the size on each axis that the model leaves open."""
    return tuple(
        full if isinstance(dim, int) else max(1, full // 2)
        for dim, full in zip(declared, largest, strict=True)
    )
