# SPDX-License-Identifier: Apache-2.0
"""How far two sets of outputs are apart, and how far they may be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
        rms_rel: ``||actual - expected|| / ||expected||``; of strings, the root of the share that
            differs.
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


def outside(expected: Array, actual: Array) -> NDArray[np.bool_]:
    """Return which elements of one output are outside the tolerance of its type.

    Args:
        expected: Array of the original.
        actual: Array of the same type and shape, with NaN and infinities in the same places.
    """
    if expected.dtype.kind in "OUS":
        return np.not_equal(expected, actual).astype(np.bool_)
    tolerance = TOLERANCES.get(str(expected.dtype), EXACT)
    wide, other = _wide(expected), _wide(actual)
    finite = np.isfinite(wide)
    size = np.where(finite, np.abs(wide), 0.0)
    error = np.abs(np.where(finite, other, 0.0) - np.where(finite, wide, 0.0))
    rms = math.sqrt(float(np.mean(np.square(size), where=finite))) if finite.any() else 0.0
    beyond: NDArray[np.bool_] = error > tolerance.atol * rms + tolerance.rtol * size
    return beyond


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
        share = float(np.mean(outside(expected, actual))) if expected.size else 0.0
        return OutputDifference(name, dtype, rms_rel=math.sqrt(share), outside=share)
    if _same_bits(expected, actual):
        return OutputDifference(name, dtype)
    default = TOLERANCES.get(dtype, EXACT)
    tolerance = Tolerance(
        default.rtol if rtol is None else rtol, default.atol if atol is None else atol
    )
    return _compare_numbers(name, dtype, expected.reshape(-1), actual.reshape(-1), tolerance)


def _same_bits(expected: Array, actual: Array) -> bool:
    """Whether two arrays of one type and shape are the same, NaN included."""
    bits = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (expected, actual)]
    return bool(np.array_equal(bits[0], bits[1]))


def _wide(array: Array) -> NDArray[Any]:
    """The same numbers in a type whose differences neither overflow nor round visibly."""
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        return array.astype(np.longdouble)
    return array.astype(np.float64)


def _compare_numbers(
    name: str, dtype: str, expected: Array, actual: Array, tolerance: Tolerance
) -> OutputDifference:
    count, peak, worst_ratio = 0, 0.0, 0.0
    squares = np.zeros(3)  # of what was expected, of what was found, of the difference
    product = 0.0
    for a, b in _blocks(expected, actual):
        finite = np.isfinite(a)
        if not finite.all():
            if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
                kinds = (
                    f"{_count(np.isnan, expected)} NaN and {_count(np.isinf, expected)} infinite"
                )
                return OutputDifference(name, dtype, f"does not keep the {kinds} elements in place")
            a, b = a[finite], b[finite]
        if not np.isfinite(b).all():
            bad = f"{_count(np.isnan, actual)} NaN and {_count(np.isinf, actual)} infinite elements"
            return OutputDifference(name, dtype, f"has {bad} where there were none")
        if a.size == 0:
            continue
        error, size = np.abs(b - a), np.abs(a)
        count += a.size
        squares += [float(np.vdot(v, v).real) for v in (a, b, error)]
        product += float(np.vdot(a, b).real)
        peak = max(peak, float(error.max()))
        nonzero = size > 0
        ratios = np.divide(error, size, out=np.zeros_like(error), where=nonzero)
        worst_ratio = max(worst_ratio, float(ratios.max()))
    if count == 0:
        return OutputDifference(name, dtype)
    norm_a, norm_b, norm_error = map(math.sqrt, squares)
    allowed = tolerance.atol * norm_a / math.sqrt(count)
    beyond = 0
    with np.errstate(invalid="ignore"):  # an infinity less itself is no number, nor beyond any
        for a, b in _blocks(expected, actual):
            off = np.abs(b - a) > allowed + tolerance.rtol * np.abs(a)
            beyond += int(np.count_nonzero(off))
    return OutputDifference(
        name,
        dtype,
        max_abs=peak,
        max_rel=worst_ratio,
        rms_rel=_ratio(norm_error, norm_a),
        cosine=_cosine(product, norm_a, norm_b),
        outside=beyond / count,
    )


_BLOCK = 1 << 15  # elements that fit into the cache, each as a double


def _blocks(*arrays: Array) -> Iterator[tuple[NDArray[Any], ...]]:
    """Yield the same parts of flat arrays, in types wide enough."""
    for start in range(0, arrays[0].size, _BLOCK):
        yield tuple(_wide(array[start : start + _BLOCK]) for array in arrays)


def _count(of: np.ufunc, array: Array) -> int:
    return sum(int(np.count_nonzero(of(part))) for (part,) in _blocks(array))


def _cosine(product: float, norm_a: float, norm_b: float) -> float:
    if norm_a == 0 or norm_b == 0:
        return 1.0 if norm_a == norm_b else 0.0
    return float(np.clip(product / norm_a / norm_b, -1, 1))


def _ratio(error: float, norm: float) -> float:
    if norm > 0:
        return error / norm
    return 0.0 if error == 0 else math.inf


def _badness(output: OutputDifference) -> tuple[bool, float, float]:
    return output.problem is not None, output.outside, output.rms_rel
