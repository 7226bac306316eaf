# SPDX-License-Identifier: Apache-2.0
"""Whole models against each other: a question that decisions about regions alone cannot answer.

What one region does to the next (which layout it leaves, what it finds in the caches, which buffers
the runtime shares) shows in the whole model only.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import onnx_ir as ir

from burnish.errors import BurnishError
from burnish.passes.decide import Decision, Decisions
from burnish.passes.part import CannotMeasure

if TYPE_CHECKING:
    import numpy as np

    from burnish.backends.answers import Answer
    from burnish.backends.onnxruntime import Session
    from burnish.passes.inputs import Sample

_SECONDS = 1.0  # for one comparison
_ROUNDS = 200
_FEWEST_ROUNDS = 8
_LOADS = 3
"""Comparisons, each of sessions of their own, until one is narrow."""
_NARROW = 1.03
"""Upper over lower end of the interval of a comparison that nothing disturbed."""
_CLEAR = 1.1
"""How far from 1 an interval lies of which the exact place does not matter."""


def ask(
    decisions: Decisions,
    before: ir.Model,
    after: ir.Model,
    question: str,
    *,
    rule: str,
    operator: str,
    confirm: bool = False,
    longest: float = _SECONDS,
) -> Decision:
    """Decide whether a model is worth having in place of another, by how fast both run.

    Args:
        decisions: Of the build; answers are kept and replayed as all of them are.
        before: The model there is.
        after: What would be in its place; it takes the same inputs.
        question: What it has that the other lacks, in words.
        rule: What the decision is said to be of.
        operator: What the table of preferences is asked about where nothing can be measured.
        confirm: Whether to believe that it is slower only if other sessions say so too.
        longest: Seconds that one comparison may take, where fewer are not enough rounds.
    """
    sample = decisions.sample
    sizes = [f"{name}:{'x'.join(map(str, array.shape))}" for name, array in sample.feeds.items()]
    # Of the inputs' symbols alone: what else the sample knows depends on what was asked before.
    usual = [] if sample.feeds else [(name, sample.sizes.get(name)) for name in _symbols(before)]
    digest = hashlib.sha256(repr((skeleton(before), skeleton(after), sizes, usual)).encode())
    asked = Decision(
        key=digest.hexdigest()[:32],
        question=question,
        rule=rule,
        operator=operator,
        shapes=[size.partition(":")[2] for size in sizes],
        dtype="FLOAT",
    )

    def timed() -> Answer:
        answer = _timed(before, after, sample, longest)
        if confirm and answer.verdict == "slower":
            answer = answer.widened(_timed(before, after, sample, longest))
        return answer

    return decisions.ask(asked, timed)


def _symbols(model: ir.Model) -> list[str]:
    """Names of the inputs' sizes, sorted."""
    dims = [dim for value in model.graph.inputs for dim in value.shape or ()]
    return sorted({dim.value for dim in dims if isinstance(dim, ir.SymbolicDim) and dim.value})


def open_session(model: ir.Model) -> Session:
    """Return a session as models are deployed: one thread, all of the runtime's optimizations."""
    from burnish.backends.onnxruntime import session

    return session(model, threads=1, optimize="all")


def skeleton(model: ir.Model) -> list[object]:
    """Return all of a model but its numbers: what its speed depends on."""
    found: list[object] = [sorted(model.opset_imports.items())]
    for graph in model.graphs():
        found += [(v.name, str(v.dtype), str(v.shape)) for v in graph.inputs]
        for name, value in graph.initializers.items():
            tensor = value.const_value
            found.append((name, tensor and (str(tensor.dtype), tensor.shape.numpy())))
        for node in graph:
            attributes = [
                (a.name, str(a.value))
                for a in node.attributes.values()
                if a.type not in (ir.AttributeType.GRAPH, ir.AttributeType.TENSOR)
            ]
            given = [value and value.name for value in node.inputs]
            made = [value.name for value in node.outputs]
            found.append((node.domain, node.op_type, sorted(attributes), given, made))
    return found


def _is_clear(low: float, high: float) -> bool:
    """Whether an interval leaves no doubt of which of two models is faster."""
    return low > _CLEAR or high < 1 / _CLEAR


def _timed(before: ir.Model, after: ir.Model, sample: Sample, longest: float) -> Answer:
    """Time two models in turns; again, if something else kept the machine busy and it matters.

    Raises:
        CannotMeasure: one does not run, or takes too long.
    """
    narrowest: Answer | None = None
    for _ in range(_LOADS):
        found = _compared(before, after, sample, longest)
        if narrowest is None or found.high / found.low < narrowest.high / narrowest.low:
            narrowest = found
        if narrowest.high / narrowest.low <= _NARROW or _is_clear(narrowest.low, narrowest.high):
            break
    assert narrowest is not None
    return narrowest


def _compared(before: ir.Model, after: ir.Model, sample: Sample, longest: float) -> Answer:
    from burnish.backends.answers import Answer
    from burnish.backends.measure import compare

    try:
        with open_session(before) as old, open_session(after) as new:
            feeds = sample.feeds or _usual_feeds(old, sample)
            sides = {"before": old, "after": new}
            compare(sides, feeds, repeats=1, warmup=1)
            started = time.perf_counter()
            compare(sides, feeds, repeats=1, warmup=0)
            fewest = _FEWEST_ROUNDS * (time.perf_counter() - started)
            if fewest > longest:
                raise CannotMeasure("it takes too long")
            found = compare(
                sides,
                feeds,
                repeats=_ROUNDS,
                warmup=0,
                budget=max(_SECONDS, fewest),
                enough=lambda so_far: _is_clear(so_far["after"].low, so_far["after"].high),
            )
    except BurnishError as error:
        raise CannotMeasure(f"it does not run: {error}") from error
    timing = found["after"]
    if math.isinf(timing.high):
        raise CannotMeasure("it takes too long")
    return Answer(timing.speedup, timing.low, timing.high)


def _usual_feeds(session: Session, sample: Sample) -> Mapping[str, np.ndarray]:
    """Return random inputs as large as requests mostly are; or else as the model runs with."""
    from burnish.backends.feeds import random_run

    own = {dim for spec in session.inputs for dim in spec.shape if isinstance(dim, str)}
    sizes = {dim: size for dim in own if (size := sample.sizes.get(dim)) is not None}
    try:
        return random_run(session, dims=sizes).feeds
    except BurnishError:
        return random_run(session).feeds
