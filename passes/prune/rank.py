# SPDX-License-Identifier: Apache-2.0
"""In which order the units of each group go, and what is lost on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from burnish.errors import InputError
from burnish.passes.context import PassContext
from burnish.passes.prune.coupling import Indices
from burnish.passes.prune.importance import (
    MeanSquare,
    Scores,
    by_activation,
    by_magnitude,
    readings,
)
from burnish.passes.prune.plan import Candidate, Counts, Curve
from burnish.passes.prune.units import Group, Units

if TYPE_CHECKING:
    from burnish.passes.prune.trials import Trials

MEASURED = 4
"""Points of a curve that are measured; what lies between is interpolated."""


@dataclass(frozen=True)
class Ranking:
    """Units of a candidate, the first to go first.

    Attributes:
        order: Places of its units in the group.
        scores: Of its units, in the order of the group.
        curve: What the outputs lose, if that was measured.
    """

    order: Indices
    scores: Scores
    curve: Curve | None


def rank(
    model: ir.Model,
    units: Units,
    candidates: Sequence[Candidate],
    criterion: str,
    trials: Trials | None,
    ctx: PassContext,
) -> list[Ranking]:
    """Rank the units of each candidate.

    Args:
        model: The model.
        units: Its analysis.
        candidates: What may be cut.
        criterion: One of `importance.CRITERIA`, but for auto.
        trials: Measures what is lost; None if that is not wanted.
        ctx: Samples, seed and progress.

    Raises:
        InputError: the criterion needs samples that there are not.
    """
    if criterion in ("activation", "reconstruction") and ctx.calibration is None:
        raise InputError(
            f"criterion={criterion} needs calibration data",
            hint="give --calibration, or use criterion=l2",
        )
    if criterion == "reconstruction":
        ranked: Iterable[Ranking] = _by_elimination(model, units, candidates, trials, ctx)
    else:
        scores = _scores(model, units, [each.group for each in candidates], criterion, ctx)
        pairs = zip(candidates, scores, strict=True)
        ranked = (_by_scores(candidate, found, trials) for candidate, found in pairs)
    return [*ctx.progress(ranked, len(candidates), "rank")]


def _scores(
    model: ir.Model, units: Units, groups: Sequence[Group], criterion: str, ctx: PassContext
) -> Iterable[Scores]:
    if criterion == "random":
        rng = np.random.default_rng(ctx.seed)
        return [rng.random(len(group.units)) for group in groups]
    if criterion != "activation":
        return (by_magnitude(units, group, 1 if criterion == "l1" else 2) for group in groups)
    from burnish.passes.quant.calibration.collect import collect

    assert ctx.calibration is not None
    watched = {
        (str(reading.data[0].name), reading.data[1]): MeanSquare(reading.data[1])
        for group in groups
        for reading in readings(units, group)
        if isinstance(reading.data[0], ir.Value)
    }
    watchers: dict[str, list[Any]] = {}
    for (name, _), square in watched.items():
        watchers.setdefault(name, []).append(square)
    collect(model, watchers, ctx.calibration, progress=ctx.progress)
    return (
        scores if scores.any() else by_magnitude(units, group, 2)
        for group, scores in zip(groups, by_activation(units, groups, watched), strict=True)
    )


def _by_scores(candidate: Candidate, scores: Scores, trials: Trials | None) -> Ranking:
    from burnish.passes.prune.elimination import Stage

    order = np.argsort(scores, kind="stable")
    curve = None
    if trials is not None:
        stops = _measured(candidate.stops)
        losses = [trials.loss(candidate.group, Stage(order[:stop], scores)) for stop in stops]
        curve = Curve.through(candidate.stops, stops, losses)
    return Ranking(order, scores, curve)


def _by_elimination(
    model: ir.Model,
    units: Units,
    candidates: Sequence[Candidate],
    trials: Trials | None,
    ctx: PassContext,
) -> Iterator[Ranking]:
    from burnish.passes.prune.elimination import eliminate, readers_of

    assert ctx.calibration is not None
    groups = [candidate.group for candidate in candidates]
    read = readers_of(model, units, groups, ctx.calibration, ctx.progress)
    for candidate, found in zip(candidates, read, strict=True):
        if not found:  # such as what transposed convolutions alone read
            yield _by_scores(candidate, by_magnitude(units, candidate.group, 2), trials)
            continue
        every = candidate.stops
        stops = _measured(every) if trials is not None else [int(every[-1])]
        losses = []
        for stage in eliminate(found, candidate.count, stops):
            if stage.removed.size == candidate.count:
                order, scores = stage.removed, np.zeros(candidate.count)
                scores[order] = stage.losses
            elif trials is not None:
                losses.append(trials.loss(candidate.group, stage))
        curve = None if trials is None else Curve.through(every, stops, losses)
        yield Ranking(order, scores, curve)


def _measured(stops: Counts) -> list[int]:
    """Choose some of all stops but none gone, the last among them."""
    at = np.linspace(0, stops.size - 1, min(MEASURED, stops.size - 1) + 1).round().astype(int)
    return [int(stop) for stop in stops[at[1:]]]
