# SPDX-License-Identifier: Apache-2.0
"""Find the settings of a session that are fastest here, by measuring one after the other.

A setting is changed only if that is faster beyond doubt; so the result is never slower than the
start, as far as measuring tells, and most settings of most models stay as they are.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.backends.measure import compare_loads
from burnish.backends.settings import SessionSettings

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from burnish.backends.measure import Timing


@dataclass(frozen=True)
class Trial:
    """A setting that was tried.

    Attributes:
        setting: Its name.
        value: What it was set to.
        speedup: Median before over median with it: above 1 is faster.
        low: Lower end of its 95 % confidence interval.
        high: Upper end.
        kept: Whether it was kept, which takes that it is faster beyond doubt.
    """

    setting: str
    value: Any
    speedup: float
    low: float
    high: float
    kept: bool

    def __str__(self) -> str:
        done = "kept" if self.kept else "left"
        ratio = f"{self.speedup:.2f}x ({self.low:.2f} to {self.high:.2f})"
        return f"{self.setting}={self.value}: {ratio}, {done}"


@dataclass(frozen=True)
class Tuned:
    """What was found.

    Attributes:
        settings: The fastest.
        trials: What was tried, in order; each against what was kept before.
    """

    settings: SessionSettings
    trials: tuple[Trial, ...]


def tune(
    model: ir.Model | Path,
    feeds: Mapping[str, np.ndarray[Any, np.dtype[Any]]],
    start: SessionSettings | None = None,
    *,
    fixed: frozenset[str] = frozenset(),
    loads: int = 5,
    repeats: int = 40,
    budget: float = 120.0,
) -> Tuned:
    """Search settings one by one: threads, layout, arena, and the rest.

    Args:
        model: What to run.
        feeds: Inputs to run it on.
        start: Where to start from.
        fixed: Names of settings to leave alone.
        loads: As for `burnish.backends.measure.compare_loads`, for each trial.
        repeats: Likewise.
        budget: Seconds for all trials together.

    Raises:
        InputError: the model cannot be loaded, or the feeds do not fit.
    """
    best = start or SessionSettings()
    trials = []
    candidates = [item for item in _candidates(best) if item[0] not in fixed]
    for name, value in candidates:
        if getattr(best, name) == value:
            continue
        changed = dataclasses.replace(best, **{name: value})
        found = compare_loads(
            {"before": partial(best.session, model), "after": partial(changed.session, model)},
            feeds,
            loads=loads,
            repeats=repeats,
            budget=budget / len(candidates),
        )["after"]
        trial = judge(name, value, found)
        trials.append(trial)
        best = changed if trial.kept else best
    return Tuned(best, tuple(trials))


def judge(setting: str, value: Any, found: Timing) -> Trial:
    """Whether to keep a setting, given how a session with it compares with one without."""
    kept = found.verdict == "faster"
    return Trial(setting, value, found.speedup, found.low, found.high, kept)


def _candidates(start: SessionSettings) -> Iterator[tuple[str, Any]]:
    """Settings to try, those that matter most first."""
    cores, threads = os.cpu_count() or 1, 2
    while threads < cores:
        yield "threads", threads
        threads *= 2
    if cores > 1:
        yield "threads", cores
    yield "blocked_layout", not start.blocked_layout
    yield "arena", not start.arena
    yield "memory_pattern", not start.memory_pattern
    yield "memory_reuse", not start.memory_reuse
    yield "prepack", not start.prepack
    yield "spinning", not start.spinning
