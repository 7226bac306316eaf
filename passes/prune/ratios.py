# SPDX-License-Identifier: Apache-2.0
"""How much of each weight may go, measured on what the model gives.

Each weight alone is pruned at a few ratios, and the model run on samples: the error of its outputs
is what the ratio costs. Errors of layers add up, nearly, in squares; so the ratios of least cost
that reach a share of all weights follow from the lower convex hulls of the costs, gentlest slope
first: the Lagrangian of "least error, so many zeros". (Y. Shoham and A. Gersho, "Efficient Bit
Allocation for an Arbitrary Set of Quantizers", 1988.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from burnish.passes.prune.weights import Weight
from burnish.passes.prune.zeroing import Zeroing
from burnish.passes.quant.calibration.collect import Progress
from burnish.passes.quant.search.sensitivity import Arrays, Reference

RATIOS = (0.25, 0.5, 0.7, 0.85, 1.0)
"""Ratios that are tried of each weight."""

SAMPLES = 8
"""Most samples the model is run on, for each ratio of each weight."""

RUNS = 2000
"""Most runs of the model in all, but for one of each ratio of each weight."""


def sample_count(weights: int) -> int:
    """Return on how many samples to run the model, for each ratio of so many weights."""
    return min(max(RUNS // (len(RATIOS) * max(weights, 1)), 1), SAMPLES)


Costs = Mapping[str, Mapping[float, float]]
"""Weight -> ratio -> relative RMS error of the model's outputs."""


def scan(
    model: ir.Model,
    weights: Sequence[Weight],
    zeroing: Callable[[Weight, float], Zeroing],
    samples: Sequence[Arrays],
    progress: Progress,
) -> dict[str, dict[float, float]]:
    """Measure what pruning one weight at a time costs.

    One session runs all of it: weights become inputs of a copy of the model.

    Args:
        model: Is not changed.
        weights: Those in subgraphs and functions are left out.
        zeroing: What is zeroed of a weight at a ratio.
        samples: What to run it on.
        progress: Shows progress.
    """
    from burnish.backends.onnxruntime import session

    probe = model.clone()
    fed = [weight for weight in weights if weight.value.graph is model.graph]
    for weight in fed:
        _make_input(probe, weight)
    trials = [(weight, ratio) for weight in fed for ratio in RATIOS]
    costs: dict[str, dict[float, float]] = {weight.name: {} for weight in fed}
    with session(probe, optimize="basic") as running:
        reference = Reference(running.run, samples)
        for weight, ratio in progress(trials, len(trials), "prune: sensitivity"):
            changed = {weight.name: zeroing(weight, ratio).array(weight.tensor)}

            def run(feeds: Arrays, more: Arrays = changed) -> Arrays:
                return running.run({**feeds, **more})

            costs[weight.name][ratio] = reference.compare(run).error
    return costs


def allocate(sizes: Mapping[str, int], costs: Costs, sparsity: float) -> dict[str, float]:
    """Choose a ratio for each weight, so that together a share is zero at the least cost.

    Args:
        sizes: Elements of each weight.
        costs: Of each weight; those without take the ratio `sparsity`.
        sparsity: Share of all elements that are to be zero.

    Returns:
        The ratio of each weight; between those measured, squared errors are taken to be linear.
    """
    ratios = {name: 0.0 if name in costs else sparsity for name in sizes}
    moves = sorted(
        (slope / sizes[name], name, start, end)
        for name, measured in costs.items()
        if sizes[name]
        for slope, start, end in _hull(measured)
    )
    left = sparsity * sum(sizes[name] for name in costs)
    for _, name, start, end in moves:
        taken = min(left, (end - start) * sizes[name])
        if taken <= 0:
            break
        ratios[name] = min(start + taken / sizes[name], 1.0)
        left -= taken
    return ratios


def _hull(measured: Mapping[float, float]) -> list[tuple[float, float, float]]:
    """Return the lower convex hull of squared errors: slopes, and from which ratio to which."""
    points = [(0.0, 0.0), *sorted((ratio, error**2) for ratio, error in measured.items())]
    hull: list[tuple[float, float]] = []
    for point in points:
        while len(hull) > 1 and _slope(hull[-2], point) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return [(_slope(a, b), a[0], b[0]) for a, b in itertools.pairwise(hull)]


def _slope(before: tuple[float, float], after: tuple[float, float]) -> float:
    return (after[1] - before[1]) / (after[0] - before[0])


def _make_input(probe: ir.Model, weight: Weight) -> None:
    """Let a weight of the main graph be fed; if it is not, it is what it was."""
    graph = probe.graph
    value = graph.initializers.get(weight.name)
    if value is None:
        node = next(node for node in graph if node.outputs[0].name == weight.name)
        value = ir.Value(name=weight.name, const_value=weight.tensor)
        node.outputs[0].replace_all_uses_with(value)
        graph.remove(node)
        graph.register_initializer(value)
    value.type = ir.TensorType(weight.tensor.dtype)
    value.shape = ir.Shape(weight.tensor.shape.numpy())
    graph.inputs.append(value)
