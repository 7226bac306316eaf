# SPDX-License-Identifier: Apache-2.0
"""The search for the first rewrite that breaks a model, by halving the number of rewrites done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from burnish.errors import BurnishError, InputError
from burnish.passes.instrument import BisectLimit, Event, Instrument

if TYPE_CHECKING:
    from burnish.passes.pipeline import Pipeline


@dataclass(frozen=True)
class Culprit:
    """The first rewrite after which a model is wrong.

    Attributes:
        number: What `--bisect-limit` takes to do it last.
        rule: Name of the rule.
        node: Name of the node or value it was done at.
        of: Name of the pass it belongs to.
        problem: What is wrong then.
    """

    number: int
    rule: str
    node: str
    of: str
    problem: str


@dataclass(frozen=True)
class Trial:
    """What came of doing only the first rewrites.

    Attributes:
        last: The last rewrite done; None if none was.
        problem: What is wrong with the model then, or None.
    """

    last: Event | None
    problem: str | None


def first_bad(trial: Callable[[int | None], Trial]) -> Culprit | None:
    """Search for the first bad rewrite, in about log2(rewrites) trials.

    Args:
        trial: Does only the first so many rewrites (all of them for None) and checks the model.

    Returns:
        The culprit, or None if the model is right after all rewrites.

    Raises:
        InputError: the model is wrong without any rewrite.
    """
    found = trial(None)
    if found.problem is None:
        return None
    none = trial(0)
    if none.problem is not None or found.last is None:
        raise InputError(f"no rewrite is at fault: with none done, {none.problem}")
    good, bad = 0, found.last.number
    while bad - good > 1:
        middle = (good + bad) // 2
        tried = trial(middle)
        if tried.problem is None:
            good = middle
        else:
            bad, found = middle, tried
    event, problem = found.last, found.problem
    assert event is not None
    assert problem is not None
    return Culprit(event.number, event.name, event.where, event.of, problem)


def trial_of(
    model: Any,
    pipeline: Pipeline,
    *,
    progress: Callable[[str], None] = lambda _: None,
    instruments: Sequence[Instrument] = (),
    **options: Any,
) -> Callable[[int | None], Trial]:
    """Return the trial that runs a pipeline on a model.

    Args:
        model: What `burnish.optimize` takes.
        pipeline: What to run.
        progress: Is told in one line of each trial.
        instruments: Further watchers.
        options: Of `burnish.optimize`.

    Raises (when called):
        InputError: the input is bad, or the original model does not run.
    """
    from burnish import api

    def trial(limit: int | None) -> Trial:
        last = _Last()
        limits = [] if limit is None else [BisectLimit(limit)]
        problem = None
        try:
            _, report = api.optimize(
                model, pipeline, instruments=[*instruments, *limits, last], **options
            )
        except InputError:
            raise
        except BurnishError as error:
            problem = str(error).removesuffix(f"; {error.hint}")
        except Exception as error:
            problem = f"it raised {error!r}"
        else:
            if report.verification["skipped"] is not None:
                why = report.verification["skipped"]
                raise InputError(f"there is nothing to compare with: {why}")
        done = "all rewrites" if limit is None else f"the first {limit} rewrites"
        progress(f"{done}: {'good' if problem is None else 'bad'}")
        return Trial(last.event, problem)

    return trial


@dataclass
class _Last(Instrument):
    """Remembers the last rewrite begun."""

    event: Event | None = None

    def before(self, event: Event, model: ir.Model) -> None:
        if event.kind == "rewrite":
            self.event = event
