# SPDX-License-Identifier: Apache-2.0
"""Balances channels of int8 maps: those that reach little get more of the integers, at no cost.

A map has one scale, so that channels which reach a tenth of the largest one have a tenth of the
integers. Convolutions on both sides can take a factor for each channel (`burnish.passes.quant.
scaled`), so that the model computes the same, as in SmoothQuant (G. Xiao et al., 2023) and
cross-layer equalization (M. Nagel et al., 2019), but by what activations do on samples, and over
sums and gates. With p_c the largest magnitude of channel c and m_c its mean square,

    s_c = (p_c sqrt(m_c)) ** (alpha / 2)

for the p_c and m_c that are largest beside those of the whole value, over the values of a group.
alpha = 1 makes activations alike and moves all of the difference into weights; which alpha is
best is known from the noise that rounding adds to what each convolution gives, with weights w_ock:

    activations   d**2 / 12 sum_ock (w_ock s_c)**2              d = 2 max_c(p_c / s_c) / 255
    weights       sum_o d_o**2 / 12 sum_ck m_c / s_c**2         d_o = max_ck |w_ock s_c| / 127
    output        sum_ock w_ock**2 m_c

The first two over the last, added up over the convolutions that read the group, is made least.

The formula knows nothing of errors that add up on the way to the outputs, or cancel. So copies of
the model are quantized, with all factors, with those that promise much, and with none, and the one
whose outputs are nearest to the float model on samples decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.options import option, same_as
from burnish.passes.quant.accuracy.migrate import balanced
from burnish.passes.quant.accuracy.scaled import Group, by_group, filters, groups_of
from burnish.passes.quant.calibration.collect import collect
from burnish.passes.quant.int8.static import OBSERVED, QuantStatic
from burnish.passes.quant.ready import passed_through
from burnish.passes.quant.search.sensitivity import Reference, held_out
from burnish.passes.shapes import infer_shapes
from burnish.passes.sketch import Array
from burnish.passes.whole import open_session

GRID = tuple(round(0.1 * step, 1) for step in range(11))
"""Values of alpha that are tried; 0 changes nothing."""

_GAIN = 0.99
"""Of the noise, at most this much may be left, else nothing is changed."""
_CLEAR = 0.75
"""What promises to leave less than this is tried without the rest, too."""
_SAMPLES = 8
"""Samples that copies are compared on."""
_WHOLE = 1e-3
"""Steps of int8: nearer to a whole number of them are rounded weights alone."""
_STEEPEST = 2.0**-6
"""Least factor beside the largest: channels that are all but zero are not made as large."""


class ChannelReach:
    """Watches the largest magnitude of each channel (axis 1) of a value, and its mean square."""

    def __init__(self) -> None:
        self._peak: Array | None = None
        self._squares: Array | None = None
        self._count = 0

    def update(self, array: Array) -> None:
        """Observe the array of one sample."""
        rows = np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)
        peak = np.maximum(rows.max(axis=1), -rows.min(axis=1)).astype(np.float64)
        squares = np.einsum("cn,cn->c", rows, rows, dtype=np.float64)
        self._peak = peak if self._peak is None else np.maximum(self._peak, peak)
        self._squares = squares if self._squares is None else self._squares + squares
        self._count += rows.shape[1]

    @property
    def is_finite(self) -> bool:
        """Whether there were neither NaN nor infinity."""
        return bool(np.isfinite(self.peak).all())

    @property
    def peak(self) -> NDArray[np.float64]:
        """Largest magnitude of each channel."""
        assert self._peak is not None
        return self._peak

    @property
    def square(self) -> NDArray[np.float64]:
        """Mean square of each channel."""
        assert self._squares is not None
        return np.asarray(self._squares / max(self._count, 1))


@dataclass(frozen=True)
class Reader:
    """A convolution that reads a map.

    Attributes:
        weights: [groups, outputs / groups, channels / groups, taps].
        peak: Largest magnitude of each channel it reads, [groups, 1, channels / groups, 1].
        square: Their mean square, likewise.
    """

    weights: NDArray[np.float64]
    peak: NDArray[np.float64]
    square: NDArray[np.float64]

    def noise(self, factor: NDArray[np.float64]) -> float:
        """Return the noise of int8 beside what the convolution gives, both as squares.

        Args:
            factor: By which channels are divided, of the shape of `peak`.
        """
        size = float((self.weights**2 * self.square).sum())
        if size == 0:
            return 0.0
        scaled = self.weights * factor
        step = 2 * float((self.peak / factor).max()) / 255
        steps = np.abs(scaled).max(axis=(2, 3), keepdims=True) / 127
        taps = self.weights.shape[3]
        activations = step**2 / 12 * float((scaled**2).sum())
        weights = float((steps**2 / 12 * taps * self.square / factor**2).sum())
        return (activations + weights) / size


@dataclass(frozen=True, eq=False)
class Scaling:
    """Factors for a group of values.

    Attributes:
        index: Which of `groups_of` it is.
        factor: By which to divide channels, [channels].
        left: The noise that is left, over that of before, by the formula.
    """

    index: int
    factor: NDArray[np.float64]
    left: float


@dataclass(frozen=True)
class Balance(Pass):
    """Scale channels of maps between convolutions, so that int8 suits all of them.

    Exact up to rounding, and nothing is computed in addition. Groups of channels that meet a
    function which takes no factor stay as they are, as do those whose noise would not fall. Run it
    before `quant` finds ranges; `quant` does so by itself.
    """

    name: ClassVar[str] = "balance"
    rule_names: ClassVar[tuple[str, ...]] = ("balance-channels",)

    calibrate: str = same_as(QuantStatic, "calibrate")
    percentile: float = same_as(QuantStatic, "percentile")
    per_channel: bool = same_as(QuantStatic, "per_channel")
    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes to leave alone")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Observe channels, then scale group by group.

        Raises:
            InputError: the calibration data does not fit the model.
        """
        (rule,) = self.rule_names
        if ctx.calibration is None or passed_through(model, ctx):
            return
        infer_shapes(model)
        groups = groups_of(model, self.exclude)
        planned = self._planned(groups, model, ctx)
        kept = self._nearest(planned, model, ctx) if planned else []
        spread: dict[str, float] = {}
        for item in planned:
            group = groups[item.index]
            node = group.makers[0]
            if item not in kept:
                ctx.refuse(
                    rule, node, "outputs are as near in int8 without factors, by measurement"
                )
                continue
            with ctx.rewrite(rule, node) as go:
                if go:
                    group.scale(item.factor)
                    model.meta.pop(OBSERVED, None)  # it knew other numbers
                    spread[node.name or _read(group.readers[0])] = float(
                        item.factor.max() / item.factor.min()
                    )
        if spread:
            ctx.details["balance"] = {"largest by smallest factor": spread}

    def _planned(self, groups: Sequence[Group], model: ir.Model, ctx: PassContext) -> list[Scaling]:
        """Observe channels, and find the factors that the formula asks for."""
        (rule,) = self.rule_names
        free: list[int] = []
        for index, group in enumerate(groups):
            if group.fixed is not None or not group.readers:
                ctx.refuse(rule, group.makers[0], group.fixed or "no convolution reads it")
            else:
                free.append(index)
        reach = {v.name or "": ChannelReach() for i in free for v in _observed(groups[i])}
        if reach:
            watchers = {name: [each] for name, each in reach.items()}
            assert ctx.calibration is not None
            collect(model, watchers, ctx.calibration, progress=ctx.progress)
        planned = []
        for index in free:
            group = groups[index]
            found = _scaling(index, group, reach)
            if isinstance(found, str):
                ctx.refuse(rule, group.makers[0], found)
            else:
                planned.append(found)
        return planned

    def _nearest(self, planned: list[Scaling], model: ir.Model, ctx: PassContext) -> list[Scaling]:
        """Return those of the scalings, all, some or none, that int8 is nearest to float with."""
        assert ctx.calibration is not None
        samples = held_out(ctx.calibration) or ctx.calibration
        with open_session(model) as session:
            reference = Reference(session.run, itertools.islice(samples, _SAMPLES))
        quantize = QuantStatic(
            calibrate=self.calibrate,
            percentile=self.percentile,
            per_channel=self.per_channel,
            ops=("Conv",),
            along=("MatMul", "Gemm"),
            exclude=self.exclude,
            optional=True,
        )

        def error(chosen: list[Scaling]) -> float:
            copy = model.clone()
            groups = groups_of(copy, self.exclude)
            for item in chosen:
                groups[item.index].scale(item.factor)
            within = PassContext(ctx.target, ctx.calibration, ctx.seed)
            within.progress = ctx.progress
            quantize.run(copy, within)
            with open_session(copy) as session:
                return reference.compare(session.run).error

        clear = [item for item in planned if item.left < _CLEAR]
        tried = [[], planned] if len(clear) in (0, len(planned)) else [[], clear, planned]
        return min(tried, key=error)


def _scaling(index: int, group: Group, reach: Mapping[str, ChannelReach]) -> Scaling | str:
    """Return the factors for a group, or why it gets none."""
    values = [reach[value.name or ""] for value in _observed(group)]
    if not all(value.is_finite for value in values):
        return "its activations are not finite on the calibration data"
    if any(is_rounded(filters(user)) for user in group.readers):
        return "the weights that read it are rounded to int8 already"
    readers = [_reader(user, reach[_read(user)]) for user in group.readers]
    factor = factors(values, readers)
    if factor is None:
        return "its channels suit int8 as they are"
    before = sum(reader.noise(np.ones_like(reader.peak)) for reader in readers)
    after = sum(reader.noise(factor.reshape(reader.peak.shape)) for reader in readers)
    return Scaling(index, factor, after / before)


def factors(
    values: Iterable[ChannelReach], readers: Iterable[Reader]
) -> NDArray[np.float64] | None:
    """Return the factors by which to divide channels, or None if the noise would hardly fall.

    Args:
        values: What is known of the values that bear the same factors.
        readers: The convolutions that read them.
    """
    reaches = [np.sqrt(value.peak * np.sqrt(value.square)) for value in values]
    reach = np.max([each / (each.max() or 1.0) for each in reaches], axis=0)
    whole = np.where(reach > 0, np.maximum(reach, _STEEPEST * reach.max()), 1.0)
    given = list(readers)

    def noise(alpha: float) -> float:
        return sum(reader.noise((whole**alpha).reshape(reader.peak.shape)) for reader in given)

    found = {alpha: noise(alpha) for alpha in GRID}
    best = min(found, key=lambda alpha: found[alpha])
    return balanced(whole**best) if found[best] < _GAIN * found[0.0] else None


def is_rounded(weights: NDArray[np.float64]) -> bool:
    """Whether all weights are multiples of a step of int8, as AdaRound leaves them.

    Factors would undo that.

    Args:
        weights: [groups, outputs / groups, channels / groups, taps].
    """
    by_channel = np.abs(weights).max(axis=(2, 3), keepdims=True)
    for reach in (by_channel, by_channel.max()):
        for levels in (127, 64):
            steps = weights * levels / np.where(reach > 0, reach, 1.0)
            if np.abs(steps - np.rint(steps)).max() < _WHOLE:
                return True
    return False


def _observed(group: Group) -> list[ir.Value]:
    """Return the values of a group that may be rounded: not those that go into a Relu alone."""
    return [
        value
        for value in group.values
        if not (value.consumers() and all(user.op_type == "Relu" for user in value.consumers()))
    ]


def _reader(node: ir.Node, reach: ChannelReach) -> Reader:
    return Reader(filters(node), by_group(node, reach.peak), by_group(node, reach.square))


def _read(node: ir.Node) -> str:
    """Return the name of what a convolution reads."""
    value = node.inputs[0]
    assert value is not None
    return value.name or ""
