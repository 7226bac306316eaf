# SPDX-License-Identifier: Apache-2.0
"""Runs a float model over calibration samples and lets observers watch values inside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx_ir as ir

from burnish.errors import BurnishError, InputError
from burnish.passes.calibration import CalibrationSource
from burnish.passes.quant.observers import Array

if TYPE_CHECKING:
    from burnish.backends.onnxruntime import Session

Progress = Callable[[Iterable[Any], int | None, str], Iterable[Any]]

# Bytes of activations fetched from one run of the model. Values that do not fit together are
# observed in further sweeps over the samples.
BUDGET = 512 << 20


class Watcher(Protocol):
    """Whatever is fed the arrays of a value, one sample after the other."""

    def update(self, array: Array) -> None:
        """Observe an array."""


def collect(
    model: ir.Model,
    watchers: Mapping[str, Sequence[Watcher]],
    samples: CalibrationSource,
    *,
    progress: Progress | None = None,
    budget: int = BUDGET,
) -> None:
    """Let watchers see values of the main graph over all samples.

    Samples are read one at a time and activations are forgotten once observed: memory depends on
    the model and on `budget`, not on the number of samples.

    Args:
        model: Runs in float, on one thread.
        watchers: Name of a value (a graph input, or output of a node) -> who watches it.
        samples: What to run it on.
        progress: Shows progress: (items, total, label) -> items.
        budget: Bytes of activations to hold at a time; one value alone may be larger.

    Raises:
        InputError: the samples or the model do not run.
    """
    from burnish.backends.onnxruntime import session

    def show(name: str, array: Array) -> None:
        for watcher in watchers[name]:
            watcher.update(array)

    inputs = {value.name: _default(value) for value in model.graph.inputs}
    fed = [name for name in watchers if name in inputs]
    groups = _groups(model, [name for name in watchers if name not in inputs], samples, budget)
    for index, group in enumerate(groups):
        sweep = "" if len(groups) == 1 else f" {index + 1}/{len(groups)}"
        with session(model, optimize="all", extra_outputs=group) as running:
            swept: Iterable[Any] = samples
            if progress is not None:
                swept = progress(samples, samples.known_length, f"calibrate{sweep}")
            for number, feeds in enumerate(swept):
                for name in fed if index == 0 else ():
                    given = feeds.get(name)
                    show(name, inputs[name] if given is None else given)
                for name, array in _run(running, feeds, group, number).items():
                    show(name, array)


def _run(
    running: Session, feeds: Mapping[str, Array], names: Sequence[str], number: int
) -> dict[str, Array]:
    if not names:
        return {}
    try:
        return running.run(feeds, names)
    except BurnishError as error:
        raise InputError(
            f"the model does not run on calibration sample {number}: {error}",
            hint="check the sizes of its inputs",
        ) from error


def _default(value: ir.Value) -> Array:
    return np.zeros(0, np.float32) if value.const_value is None else value.const_value.numpy()


def _groups(
    model: ir.Model, names: Sequence[str], samples: CalibrationSource, budget: int
) -> list[list[str]]:
    """Split names into groups whose arrays fit the budget, judged by the first sample."""
    if not names:
        return [[]]
    groups: list[list[str]] = []
    room = 0
    for name, size in zip(names, _sizes(model, names, samples), strict=True):
        if not groups or size > room:
            groups.append([])
            room = budget
        groups[-1].append(name)
        room -= size
    return groups


def _sizes(model: ir.Model, names: Sequence[str], samples: CalibrationSource) -> list[int]:
    """Return the bytes each value takes on the first sample, from shapes alone."""
    from burnish.backends.onnxruntime import session

    # In a copy that shares the weights, the values' shapes are fetched in place of the values.
    probe = model.clone()
    values = {value.name: value for node in probe.graph for value in node.outputs}
    nodes = [ir.node("Shape", [values[name]], name=f"burnish/shape/{name}") for name in names]
    for node in nodes:
        node.outputs[0].name = node.name
    probe.graph.extend(nodes)
    wanted = [node.name or "" for node in nodes]
    with session(probe, optimize="basic", extra_outputs=wanted) as running:
        shapes = _run(running, next(iter(samples)), wanted, 0)
    itemsize = np.dtype(np.float32).itemsize
    return [int(np.prod(shapes[name], dtype=np.int64)) * itemsize for name in wanted]
