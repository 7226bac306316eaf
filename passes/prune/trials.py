# SPDX-License-Identifier: Apache-2.0
"""How much the model's outputs change when parts of it go: measured, on held-out samples.

The loss is the squared difference of the outputs from the whole model's, relative to their
variance: no label is needed. Of units of a group, these are zeroed, and their readers make up for
them. (As the sensitivity scans of H. Li et al., "Pruning Filters for Efficient ConvNets", 2017,
section 3.2, after reconstruction.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from burnish.backends.onnxruntime import session
from burnish.errors import InputError
from burnish.passes.calibration import CalibrationSource, run_sample
from burnish.passes.prune.cut import Cut
from burnish.passes.prune.elimination import Stage
from burnish.passes.prune.units import Group, Units
from burnish.passes.reconstruct.layer import layers_of, shift_bias
from burnish.passes.reconstruct.observe import is_held_out
from burnish.passes.sketch import Array

SAMPLES = 8, 64
"""Held-out samples to run each trial on, at least and at most."""

OPERATIONS = 2e12
"""Floating-point operations of all trials together, beyond which there are fewer samples."""

BYTES = 64 << 20
"""Of those samples and their outputs."""


class Outputs:
    """What a model gives, to compare variants of it with.

    Args:
        model: The whole one; it is not changed.
        samples: Held-out ones are run on; of very few, all.
        operations: Of one run, times the variants there will be.
        hint: What to do where there is nothing to compare.

    Raises:
        InputError: no output can be compared, or the model does not run.
    """

    def __init__(
        self,
        model: ir.Model,
        samples: CalibrationSource,
        operations: float,
        hint: str | None = None,
    ) -> None:
        self.feeds: list[Mapping[str, Array]] = []
        self.wanted: list[dict[str, Array]] = []
        self.names = [
            value.name or ""
            for value in model.graph.outputs
            if value.dtype is None or value.dtype.is_floating_point()
        ]
        if not self.names:
            text = "no output of the model is a floating-point number to compare"
            raise InputError(text, hint=hint)
        room = BYTES
        most = int(np.clip(OPERATIONS / max(operations, 1), *SAMPLES))
        with session(model, optimize="all") as whole:
            for number, feeds in _chosen(samples):
                outputs = run_sample(whole, feeds, self.names, number)
                self.feeds.append(feeds)
                self.wanted.append(outputs)
                room -= sum(array.nbytes for array in (*feeds.values(), *outputs.values()))
                if len(self.feeds) == most or room <= 0:
                    break
        self.spread = {name: _spread([each[name] for each in self.wanted]) for name in self.names}

    def loss(self, variant: ir.Model) -> float:
        """Return the squared error of the outputs relative to their variance, mean over outputs."""
        errors = dict.fromkeys(self.names, 0.0)
        with session(variant, optimize="all") as running:
            for number, (feeds, wanted) in enumerate(zip(self.feeds, self.wanted, strict=True)):
                for name, array in run_sample(running, feeds, self.names, number).items():
                    difference = array.astype(np.float64) - wanted[name]
                    errors[name] += float(np.vdot(difference, difference))
        shares = [error / self.spread[name] for name, error in errors.items()]
        loss = sum(shares) / len(shares)
        return loss if np.isfinite(loss) else np.finfo(np.float64).max


class Trials:
    """Runs a model with some of its units zeroed, beside the whole one.

    Args:
        model: As analyzed; it is not changed.
        units: The analysis.
        outputs: Of the whole one.
    """

    def __init__(self, model: ir.Model, units: Units, outputs: Outputs) -> None:
        self.model = model
        self.units = units
        self.outputs = outputs

    def loss(self, group: Group, stage: Stage) -> float:
        """Return the loss without what is gone at a stage of one group; see `Outputs.loss`."""
        copy = self.model.clone()
        cut = Cut(self.units, group.units[stage.removed])
        cut.mask(self.model, copy)
        own = {layer.name: layer for layer in layers_of(copy)}
        for layer, rows, mean in stage.rows:
            result = layer.node.outputs[0]
            axis = 1 if layer.node.op_type == "Conv" else len(result.shape or ()) - 1
            kept = cut.axes(result).get(axis, np.ones(len(rows), bool))
            before = layer.rows[0].astype(np.float64)
            own[layer.name].replace((rows * kept[:, None])[None])
            shift_bias(own[layer.name], ((before - rows) @ mean) * kept)
        return self.outputs.loss(copy)


def _chosen(samples: CalibrationSource) -> Iterator[tuple[int, Mapping[str, Array]]]:
    few = (samples.known_length or len(samples)) < 8
    for number, feeds in enumerate(samples):
        if few or is_held_out(number):
            yield number, feeds


def _spread(arrays: list[Array]) -> float:
    flat = np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float64)
    return float(np.square(flat - flat.mean()).sum()) or 1.0
