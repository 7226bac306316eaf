# SPDX-License-Identifier: Apache-2.0
"""The scale and zero point of each value of a plan: by its range, and by how else it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from burnish.backends.int8 import Int8Form
from burnish.passes.quant.calibration.ranges import Observed
from burnish.passes.quant.int8.integers import Integers
from burnish.passes.quant.int8.placement import Plan, Step
from burnish.passes.quant.int8.swish import fits, hard_swish_params, shifted_params, uniform_affine
from burnish.passes.quant.scheme import QuantParams


class Schemes:
    """The schemes of the values of one plan, as they are asked for.

    Some integers are read in more than one way: what a HardSwish alone takes has its bends at
    integers, and a scale and a shift of a BatchNormalization are another way to read its input.

    Args:
        plan: What is quantized, and which values have the scale of others; more get one here.
        values: What was observed, by the name of a value.
        form: What the target's int8 kernels take.
        integers: Those of activations and weights.
    """

    def __init__(
        self, plan: Plan, values: Mapping[str, Observed], form: Int8Form, integers: Integers
    ) -> None:
        self.plan = plan
        self.values = values
        self.form = form
        self.integers = integers
        self.chosen: dict[ir.Value, QuantParams] = {}
        self._share_scales()
        self.swished: set[ir.Value] = set()
        self.read_anew: dict[ir.Value, ir.Value] = {}  # value -> its scaled and shifted self
        self.shifts: dict[ir.Value, tuple[float, float]] = {}  # that -> by what
        for step in plan.steps:
            source = self.root(step.node.inputs[0])
            if step.node.op_type == "HardSwish" and source.consumers() == (step.node,):
                self.swished.add(source)
            elif step.node.op_type == "BatchNormalization" and step.output is not None:
                self.read_anew.setdefault(source, step.output)
                self.shifts[step.output] = uniform_affine(step.node) or (1.0, 0.0)

    def _share_scales(self) -> None:
        """Give what is made for a Concat alone its scale: else the Concat rounds it once more."""
        made = {step.output for step in self.plan.steps}
        for step in self.plan.steps:
            if step.node.op_type != "Concat" or step.output is None:
                continue
            joined = self.values.get(step.output.name or "")
            for value in step.node.inputs:
                if joined is None or value is None:
                    break
                root = self.plan.root(value)
                if root in made and self._is_for(root, step) and _absorbs(root, joined):
                    self.plan.same_scale[root] = step.output

    def _is_for(self, value: ir.Value, step: Step) -> bool:
        """Whether a value goes into one operator alone."""
        while value not in step.node.inputs:
            users = value.consumers()
            if len(users) != 1 or self.plan.same_scale.get(users[0].outputs[0]) is not value:
                return False
            value = users[0].outputs[0]
        return value.consumers() == (step.node,)

    def unsuitable(self, step: Step, sources: Sequence[ir.Value]) -> str | None:
        """Return why what was observed forbids quantizing an operator, or None.

        Args:
            step: The operator.
            sources: Its inputs of the plan, as they were before any were quantized.
        """
        for value in (*sources, step.output):
            if value is None:
                continue
            found = self.values.get(self.root(value).name or "")
            if found is None:
                return "the file of ranges lacks its activations"
            if found.nonfinite:
                return "its activations are not finite on the calibration data"
            if found.seen.low == found.seen.high == 0.0:
                return "its activations are all zero on the calibration data"
        return self._misread(step, self.root(sources[0]))

    def _misread(self, step: Step, source: ir.Value) -> str | None:
        """Return why what an operator takes cannot be read in two ways, or None."""
        op = step.node.op_type
        if op not in ("HardSwish", "BatchNormalization"):
            return None
        if not fits(self.integers.activations):
            return "only uint8 with any scale and zero point can be read in two ways"
        if op == "BatchNormalization":
            anew = self.read_anew[source] is step.output and step.output not in self.swished
            return None if anew else "its integers are read in another way already"
        if source not in self.swished:
            return "something else takes its input, below its bends too"
        given = self.values[source.name or ""].range
        if source in self.shifts or source in self.read_anew or hard_swish_params(given) is None:
            return "its bends are no integers at the scale of its input"
        return None

    def root(self, value: ir.Value | None) -> ir.Value:
        """Return the value whose scale one has; itself, mostly."""
        assert value is not None
        return self.plan.root(value)

    def params(self, value: ir.Value) -> QuantParams:
        """Return the scheme of a value: that of the one whose scale it has."""
        root = self.root(value)
        found = self.chosen.get(root)
        if found is None:
            found = self.chosen[root] = self.held(self._chosen(root))
        return found

    def _chosen(self, root: ir.Value) -> QuantParams:
        """Return a scheme by the range of a value, and by how else its integers are read."""
        scheme = self.integers.activations
        values = self.values[root.name or ""].range
        if fits(scheme):
            shifted = self.read_anew.get(root, root)
            if shifted in self.shifts and shifted not in self.swished:
                both = shifted_params(self.values[shifted.name or ""].range, *self.shifts[shifted])
                return both[1 if shifted is root else 0]
            if root in self.swished and (snapped := hard_swish_params(values)) is not None:
                return snapped
        return scheme.params(values)

    def held(self, scheme: QuantParams) -> QuantParams:
        """Return a scheme with the scales that the target can hold."""
        least = np.float32(self.form.least_scale)
        return replace(scheme, scale=np.maximum(scheme.scale, least))


def _absorbs(value: ir.Value, joined: Observed) -> bool:
    """Whether a value rounded to the joined range is still what its maker means by it."""
    maker = value.producer()
    if maker is None or maker.op_type in ("BatchNormalization", "Clip"):  # read anew; cut there
        return False
    return maker.op_type != "Relu" or joined.range.low >= 0
