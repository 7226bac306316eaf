# SPDX-License-Identifier: Apache-2.0
"""How far two sets of outputs are apart, and how far they may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = np.ndarray[Any, np.dtype[Any]]


class Tolerance(NamedTuple):
    """An element may differ by ``atol + rtol * |expected|``, where atol is in units of the output.

    Attributes:
        rtol: Relative part, per element.
        atol: Absolute part, as a share of the root mean square of the expected output. A sum of
            large terms that cancel has an error in proportion to the terms, not to the sum; a
            plain absolute tolerance would depend on the model's scale.
    """

    rtol: float
    atol: float


EXACT = Tolerance(0.0, 0.0)

# What reordering the same arithmetic may change. Errors of a sum of n rounded products grow like
# sqrt(n) units in the last place (Higham, Accuracy and Stability of Numerical Algorithms, 4.2);
# deep networks compound a few hundred such sums. The figures are about that many units.
TOLERANCES: dict[str, Tolerance] = {
    "float64": Tolerance(1e-12, 1e-12),  # unit 1.1e-16; only folding in another order changes it
    "float32": Tolerance(1e-4, 1e-4),  # unit 6.0e-8; fused kernels, other summation orders
    "float16": Tolerance(1e-2, 1e-2),  # unit 4.9e-4; some kernels accumulate in float16
    "bfloat16": Tolerance(4e-2, 4e-2),  # unit 3.9e-3; accumulated in float32, rounded per operator
    "complex64": Tolerance(1e-4, 1e-4),  # two float32
    "complex128": Tolerance(1e-12, 1e-12),  # two float64
}
"""Tolerances of a lossless change, by NumPy type name. A type that is not here, whole numbers,
booleans and strings among them, must agree exactly."""


@dataclass(frozen=True)
class OutputDifference:
    """How one output differs from what was expected.

    Attributes:
        name: Name of the output.
        dtype: NumPy name of its type.
        problem: Why the arrays cannot be compared, or differ in kind (missing, shape, type, NaN,
            infinity); ``None`` if they differ in value alone.
        max_abs: Largest absolute difference of an element.
        max_rel: Largest difference of an element relative to what was expected, over elements
            that should not be zero.
        rms_rel: ``||actual - expected|| / ||expected||``.
        cosine: Cosine of the angle between the two, flattened.
        outside: Share of elements outside the tolerance.
    """

    name: str
    dtype: str
    problem: str | None = None
    max_abs: float = 0.0
    max_rel: float = 0.0
    rms_rel: float = 0.0
    cosine: float = 1.0
    outside: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the output is within its tolerance."""
        return self.problem is None and self.outside == 0.0

    def __str__(self) -> str:
        if self.problem is not None:
            return f"output {self.name!r}: {self.problem}"
        return (
            f"output {self.name!r} ({self.dtype}): max abs {self.max_abs:.3g}, "
            f"relative RMS {self.rms_rel:.3g}, cosine {self.cosine:.6f}, "
            f"{self.outside:.2%} of elements outside tolerance"
        )


@dataclass(frozen=True)
class Difference:
    """How a set of outputs differs from what was expected, output by output."""

    outputs: tuple[OutputDifference, ...]

    @property
    def ok(self) -> bool:
        """Whether every output is within its tolerance."""
        return all(output.ok for output in self.outputs)

    @property
    def worst(self) -> OutputDifference | None:
        """The output that is furthest off; ``None`` if there is no output."""
        return max(self.outputs, key=_badness, default=None)

    def __str__(self) -> str:
        return str(self.worst) if self.outputs else "no outputs"


def compare_outputs(
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> Difference:
    """Compare outputs by name.

    NaN agrees with NaN, and an infinity with itself. Elements are compared as
    ``|actual - expected| <= atol * rms(expected) + rtol * |expected|``.

    Args:
        expected: Arrays of the original.
        actual: Arrays of the same names; others are ignored.
        rtol: Instead of the relative tolerance of `TOLERANCES`.
        atol: Instead of the absolute one.
    """
    found = []
    for name, array in expected.items():
        if name not in actual:
            found.append(OutputDifference(name, str(np.asarray(array).dtype), "it is missing"))
        else:
            pair = np.asarray(array), np.asarray(actual[name])
            found.append(_compare(name, *pair, rtol=rtol, atol=atol))
    return Difference(tuple(found))


def _compare(
    name: str, expected: Array, actual: Array, *, rtol: float | None, atol: float | None
) -> OutputDifference:
    dtype = str(expected.dtype)
    if expected.dtype != actual.dtype:
        return OutputDifference(name, dtype, f"type {actual.dtype}, expected {dtype}")
    if expected.shape != actual.shape:
        shapes = f"shape {list(actual.shape)}, expected {list(expected.shape)}"
        return OutputDifference(name, dtype, shapes)
    if expected.dtype.kind in "OUS":  # strings
        outside = float(np.mean(expected != actual)) if expected.size else 0.0
        return OutputDifference(name, dtype, outside=outside)
    default = TOLERANCES.get(dtype, EXACT)
    tolerance = Tolerance(
        default.rtol if rtol is None else rtol, default.atol if atol is None else atol
    )
    return _compare_numbers(name, dtype, _wide(expected), _wide(actual), tolerance)


def _wide(array: Array) -> NDArray[Any]:
    """The same numbers in a type whose differences neither overflow nor round visibly."""
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        return array.astype(np.longdouble)
    return array.astype(np.float64)


def _compare_numbers(
    name: str, dtype: str, expected: NDArray[Any], actual: NDArray[Any], tolerance: Tolerance
) -> OutputDifference:
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], actual[~finite], equal_nan=True):
        kinds = f"{np.isnan(expected).sum()} NaN and {np.isinf(expected).sum()} infinite"
        return OutputDifference(name, dtype, f"does not keep the {kinds} elements in place")
    a, b = expected[finite], actual[finite]
    if not np.isfinite(b).all():
        bad = f"{np.isnan(b).sum()} NaN and {np.isinf(b).sum()} infinite elements"
        return OutputDifference(name, dtype, f"has {bad} where there were none")
    if a.size == 0:
        return OutputDifference(name, dtype)
    error, size = np.abs(b - a), np.abs(a)
    norm_a, norm_b, norm_error = (float(np.linalg.norm(v)) for v in (size, np.abs(b), error))
    rms = norm_a / math.sqrt(a.size)
    nonzero = size > 0
    return OutputDifference(
        name,
        dtype,
        max_abs=float(error.max()),
        max_rel=float((error[nonzero] / size[nonzero]).max()) if nonzero.any() else 0.0,
        rms_rel=_ratio(norm_error, norm_a),
        cosine=_cosine(a, b, norm_a, norm_b),
        outside=float(np.mean(error > tolerance.atol * rms + tolerance.rtol * size)),
    )


def _cosine(a: NDArray[Any], b: NDArray[Any], norm_a: float, norm_b: float) -> float:
    if norm_a == 0 or norm_b == 0:
        return 1.0 if norm_a == norm_b else 0.0
    # Normalized first: the product of the norms may overflow.
    return float(np.clip(np.vdot(a / norm_a, b / norm_b).real, -1, 1))


def _ratio(error: float, norm: float) -> float:
    if norm > 0:
        return error / norm
    return 0.0 if error == 0 else math.inf


def _badness(output: OutputDifference) -> tuple[bool, float, float]:
    return output.problem is not None, output.outside, output.rms_rel
