# SPDX-License-Identifier: Apache-2.0
"""The numerical guard: does the transformed model still compute what the original did?

A lossless pass must keep the outputs within the rounding of their dtype. A lossy one (pruning,
quantization) may change them: how much is recorded, and what comes after it is compared with what
it gave. Both sides run with the runtime's own optimizations off, or it would hide what is tested,
and with weights where they lie: rearranging them for a run or two costs more than it gains, and
takes as much memory again.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx_ir as ir

from burnish.errors import BurnishError, InputError, VerificationError
from burnish.passes.amplified import NOTHING_TOLD, Sample, allowance
from burnish.passes.instrument import Event, Instrument
from burnish.passes.report import all_graphs
from burnish.passes.verify import verify

if TYPE_CHECKING:
    from burnish.backends.onnxruntime import Session
    from burnish.passes.calibration import CalibrationSource

Feeds = Mapping[str, np.ndarray]
Level = Literal["each", "end", "off"]

OTHER_IO = "burnish.other_io"
"""In a model's `meta`: inputs and outputs were given another float type on purpose."""

# Enough to meet different values; few enough to stay a small part of a build.
_SAMPLES = 4
# Random numbers that tell functions apart, and runs at most to have so many: the sign of one number
# hides the difference of Abs and Relu.
_NUMBERS, _RUNS = 32, 8
# Passes a message names one by one.
_NAMED = 4


@dataclass
class Guard(Instrument):
    """Checks a model between passes.

    Attributes:
        level: "each" checks after every pass that changed something, "end" once before the first
            lossy pass and once at the end, "off" never.
        calibration: Where sample inputs come from; without it they are random.
        seed: Seed of random inputs.
        checks: What was compared, for the report.
        undefined: Outputs in which the original gave NaN where a lossy pass was checked.
    """

    level: Level
    calibration: CalibrationSource | None
    seed: int
    checks: list[dict[str, Any]] = field(default_factory=list)
    undefined: set[str] = field(default_factory=set)
    _unchecked: str | None = None
    _original_run: Background | None = None
    _feeds: list[Feeds] = field(default_factory=list)
    _original: list[dict[str, np.ndarray]] = field(default_factory=list)
    _expected: list[dict[str, np.ndarray]] = field(default_factory=list)
    _reference: ir.Model | None = None  # what gave the expected outputs
    _depth: int = 0
    _lossy: bool = False
    _pending: list[str] = field(default_factory=list)

    @property
    def unchecked(self) -> str | None:
        """Why numbers were not compared, if they were not."""
        self.settle()
        return self._unchecked

    def start(self, model: ir.Model) -> None:
        """Run the original model, whose outputs all later ones are compared with.

        It runs beside the passes, until its outputs are needed.

        Raises:
            InputError: it is malformed, or a sample does not fit it; no pass shall be blamed for
                that.
        """
        if self.level == "off":
            return
        from burnish.backends import onnxruntime

        problems = verify(model)
        if problems:
            raise InputError(f"the model is malformed: {problems[0]}", hint="export it again")
        self._expected, self._reference = self._original, model.clone()
        if self.calibration is not None:
            self._feeds = list(itertools.islice(self.calibration, _SAMPLES))
        try:
            load = onnxruntime.prepare(_repeatable(model), prepack=False)
        except BurnishError as error:
            self._give_up(error)
            return
        self._original_run = Background(lambda: self._run_original(load))

    def settle(self) -> None:
        """Wait for the outputs of the original model."""
        running, self._original_run = self._original_run, None
        if running is not None:
            running.join()

    def _run_original(self, load: Callable[[], Session]) -> None:
        try:
            session = load()
        except BurnishError as error:
            self._give_up(error)
            return
        try:
            with session:
                if self.calibration is None:
                    self._run_on_random(session)
                else:
                    self._original += [session.run(feeds) for feeds in self._feeds]
        except BurnishError as error:
            self._give_up(error, ran=True)

    def _run_on_random(self, session: Session) -> None:
        """Run on random inputs of several sizes, where the model has sizes that are not fixed.

        A declared size that is wrong for every input but the first is found by no other means. A
        larger batch and longer axes come one at a time: both at once take the most memory of all.
        """
        from burnish.backends.feeds import BATCH, random_feeds, random_run
        from burnish.backends.trial import returns

        first = random_run(session, self.seed)
        self._feeds.append(first.feeds)
        self._original.append(first.outputs)
        more = {dim: size if size > BATCH else BATCH + 2 for dim, size in first.sizes.items()}
        longer = {dim: 2 * size if size > BATCH else size for dim, size in first.sizes.items()}
        for others in (more, longer):
            if others == first.sizes:
                continue
            with contextlib.suppress(BurnishError):
                feeds = random_feeds(session, self.seed + 1, others)
                if first.unusual and not returns(functools.partial(session.run, feeds)):
                    continue
                self._original.append(session.run(feeds))
                self._feeds.append(feeds)
        drawn = sum(array.size for feeds in self._feeds for array in feeds.values())
        while 0 < drawn < _NUMBERS and len(self._feeds) < _RUNS:
            feeds = random_feeds(session, self.seed + 1 + len(self._feeds), first.sizes)
            self._original.append(session.run(feeds))
            self._feeds.append(feeds)
            drawn += sum(array.size for array in feeds.values())

    def _give_up(self, error: BurnishError, *, ran: bool = False) -> None:
        self._unchecked = f"the original model does not run: {error}"
        if ran and self.calibration is None:
            self._unchecked += "; inputs were random: --calib gives it samples that fit"

    def before(self, event: Event, model: ir.Model) -> None:
        """Settle what lossless passes did before a lossy one blurs it."""
        if event.kind != "pass":
            return
        if self._depth == 0 and self.level == "end" and not event.lossless and not self._lossy:
            self._check(model)
        self._depth += 1

    def after(self, event: Event, model: ir.Model) -> None:
        """Check a pass, or remember it for the check at the end."""
        if event.kind != "pass":
            return
        self._depth -= 1
        if self._depth:
            return
        self._pending.append(event.where)
        self._lossy = self._lossy or not event.lossless
        if self.level == "each":
            self._check(model)

    def failed(self, event: Event, model: ir.Model, error: BaseException) -> None:
        """Leave the scope of a pass that raised."""
        if event.kind == "pass":
            self._depth -= 1

    def finish(self, model: ir.Model) -> None:
        """Check whatever has not been checked yet."""
        self.settle()
        if self.level == "end":
            self._check(model)

    @property
    def final_error(self) -> float | None:
        """Relative RMS error of the last check against the original model, if one was made."""
        return self.checks[-1]["error"] if self.checks and not self.unchecked else None

    def remarks(self) -> Iterator[str]:
        """Yield a line for each thing that the checks cannot tell."""
        if self.unchecked is not None:
            yield f"numbers were not compared: {self.unchecked}"
        for check in self.checks:
            allowed = check.get("amplified", 0.0)
            if allowed >= NOTHING_TOLD:
                yield (
                    f"rounding alone changes an output by {allowed / 2:.0%} of itself"
                    f" (after {check['after']}): how it compares says nothing on these inputs"
                    + ("; --calib gives it others" if self.calibration is None else "")
                )

    def as_dict(self) -> dict[str, Any]:
        """Return what was checked, as plain data."""
        self.settle()
        source = "random" if self.calibration is None else "calibration"
        return {
            "level": self.level,
            "inputs": source,
            "samples": len(self._feeds),
            "skipped": self.unchecked,
            "checks": self.checks,
        }

    def _check(self, model: ir.Model) -> None:
        if not self._pending:
            return
        label, lossless = _label(self._pending), not self._lossy
        self._pending, self._lossy = [], False
        problems = verify(model)
        if problems:
            raise VerificationError(f"after {label} the model is malformed: {problems[0]}")
        if self.unchecked is not None:
            return
        actual = self._run(model, label)
        self._compare(label, actual, lossless)
        if not lossless:
            self._expected, self._reference = actual, model.clone()

    def _run(self, model: ir.Model, label: str) -> list[dict[str, np.ndarray]]:
        from burnish.backends import onnxruntime

        try:
            with onnxruntime.session(_repeatable(model), prepack=False) as session:
                if not model.meta.get(OTHER_IO):
                    return [session.run(feeds) for feeds in self._feeds]
                return [
                    _as_float(session.run(_as_fed(feeds, session)), original)
                    for feeds, original in zip(self._feeds, self._original, strict=True)
                ]
        except BurnishError as error:
            raise VerificationError(f"after {label} the model does not run: {error}") from error

    def _compare(self, label: str, actual: Sequence[dict[str, np.ndarray]], lossless: bool) -> None:
        from burnish.backends.numeric import compare_outputs

        worst = 0.0
        unlike: list[Sample] = []
        exact = lossless and self._expected is self._original
        for index, outputs in enumerate(actual):
            original, expected = self._original[index], self._expected[index]
            numbers = outputs if exact else self._numbers_only(original, outputs)
            difference = compare_outputs(original, numbers)
            if lossless:
                since = difference if exact else compare_outputs(expected, outputs)
                if not since.ok:
                    unlike.append(Sample(self._feeds[index], expected, outputs, since))
            for output in difference.outputs:
                if output.problem is not None and not lossless:
                    raise VerificationError(f"after {label}: {output}")
                worst = max(worst, output.rms_rel)
        amplified = self._excuse(label, unlike) if unlike else 0.0
        check = {"after": label, "lossless": lossless, "error": worst}
        self.checks.append(check | ({"amplified": amplified} if amplified else {}))

    def _numbers_only(self, original: Feeds, actual: Feeds) -> dict[str, np.ndarray]:
        """Return outputs with NaN wherever the original has it: nothing is known there.

        Integers, which some lossy passes compute with, have no NaN.
        """
        found = dict(actual)
        for name, array in original.items():
            other = actual.get(name)
            if array.dtype.kind != "f" or other is None:
                continue
            if (other.dtype, other.shape) != (array.dtype, array.shape):
                continue
            undefined = np.isnan(array)
            if undefined.any():
                self.undefined.add(name)
                found[name] = np.where(undefined, array, other)
        return found

    def _excuse(self, label: str, unlike: Sequence[Sample]) -> float:
        """Accept differences that the model makes out of rounding alone; return how large ones.

        Raises:
            VerificationError: a difference is another one.
        """
        assert self._reference is not None
        found = allowance(_repeatable(self._reference), unlike)
        if isinstance(found, float):
            return found
        raise VerificationError(
            f"after {label} the outputs differ: {found}",
            hint="`burnish bisect` with the same options finds the rewrite at fault",
        )


def _as_fed(feeds: Feeds, session: Session) -> Feeds:
    """Return feeds in the float types that a session takes."""
    types = {
        spec.name: spec.dtype.numpy() for spec in session.inputs if spec.dtype.is_floating_point()
    }
    return {name: array.astype(types.get(name, array.dtype)) for name, array in feeds.items()}


def _as_float(outputs: dict[str, np.ndarray], original: Feeds) -> dict[str, np.ndarray]:
    """Return outputs of one float type in that of the original's outputs."""
    return {
        name: array.astype(original[name].dtype) if original[name].dtype.kind == "f" else array
        for name, array in outputs.items()
    }


class Background:
    """A function that runs in a thread of its own."""

    def __init__(self, function: Callable[[], None]) -> None:
        """Start it."""
        self._function = function
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:
            self._error = error

    def join(self) -> None:
        """Wait until it is done, and raise what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error


def _repeatable(model: ir.Model) -> ir.Model:
    """Return the model, or where it draws random numbers a copy that draws the same ones each run.

    Without a seed the runtime takes one from the time and the node's place in the graph, which
    passes change.
    """
    if not any(_draws(node) for graph in all_graphs(model) for node in graph):
        return model
    copy = model.clone()
    for graph in all_graphs(copy):
        for node in graph:
            if _draws(node):
                node.attributes.add(ir.Attr("seed", *_SEED[node.op_type]))
    return copy


def _draws(node: ir.Node) -> bool:
    if node.domain != "" or node.op_type not in _SEED or "seed" in node.attributes:
        return False
    # Dropout draws only if told to train: an input of its own since opset 12, when `seed` came too.
    return node.op_type != "Dropout" or len(node.inputs) > 2


# Random operators, and the form of their attribute `seed`.
_SEED: dict[str, tuple[ir.AttributeType, float | int]] = {
    **dict.fromkeys(
        ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        (ir.AttributeType.FLOAT, 1.0),
    ),
    "Bernoulli": (ir.AttributeType.FLOAT, 1.0),
    "Multinomial": (ir.AttributeType.FLOAT, 1.0),
    "Dropout": (ir.AttributeType.INT, 1),
}


def _label(passes: Sequence[str]) -> str:
    if len(passes) <= _NAMED:
        return ",".join(passes)
    return f"{len(passes)} passes from {passes[0]} to {passes[-1]}"
