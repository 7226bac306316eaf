# SPDX-License-Identifier: Apache-2.0
"""Runs a float model over calibration samples and lets sketches watch values inside it."""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx_ir as ir

from burnish.errors import InputError
from burnish.files import write_aside
from burnish.passes.calibration import CalibrationSource, add_to_digest, run_sample
from burnish.passes.sketch import Array, Storable

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


@dataclass(frozen=True)
class Checkpoint:
    """Where the state of a collection is kept, so that an interrupted one can go on.

    An interrupted and resumed collection gives the same bytes as an uninterrupted one.

    Attributes:
        path: File to write aside every so often; removed when the collection is done.
        key: Says what is collected from which model; a state under another key is not resumed.
        resume: Go on from the file if it is there; otherwise begin anew.
        every: Seconds between two writes, or twenty times what one takes if that is more; 0 writes
            after each sample.
    """

    path: Path
    key: str
    resume: bool = False
    every: float = 30.0


@dataclass(frozen=True)
class Collected:
    """What was read: the number of samples, and their digest as `CalibrationSource.digest`."""

    samples: int
    digest: str


def collect(
    model: ir.Model,
    watchers: Mapping[str, Sequence[Watcher]],
    samples: CalibrationSource,
    *,
    progress: Progress | None = None,
    budget: int = BUDGET,
    checkpoint: Checkpoint | None = None,
) -> Collected:
    """Let watchers see values of the main graph over all samples.

    Samples are read one at a time and activations are forgotten once observed: memory depends on
    the model and on `budget`, not on the number of samples. Where a sample is larger than those
    before and its activations would exceed the budget, the values are shared out among more
    sweeps from there on.

    Args:
        model: Runs in float, on one thread.
        watchers: Name of a value (a graph input, or output of a node) -> who watches it. Each is
            fed one array a sample, in order.
        samples: What to run it on.
        progress: Shows progress: (items, total, label) -> items.
        budget: Bytes of activations to hold at a time; one value alone may be larger.
        checkpoint: Keeps the state on disk meanwhile; watchers must be `Storable` then.

    Raises:
        InputError: the samples or the model do not run, a watcher does not take what it is shown,
            or the state on disk is of something else.
    """
    return _Collection(model, watchers, samples, progress, budget, checkpoint).run()


@dataclass
class _Sweep:
    """Values to observe together over the samples from `start` on."""

    names: list[str]
    start: int = 0
    inputs: bool = False  # observe graph inputs too


@dataclass
class _Collection:
    model: ir.Model
    watchers: Mapping[str, Sequence[Watcher]]
    samples: CalibrationSource
    progress: Progress | None
    budget: int
    checkpoint: Checkpoint | None
    sweeps: list[_Sweep] = field(default_factory=list)  # still to do, the current one first
    done: int = 0
    sizes: dict[str, int] = field(default_factory=dict)  # bytes of values on the largest sample
    largest: int = -1  # how many numbers that sample has
    expected: str | None = None  # digest of the samples before the current sweep's start
    saved: float = 0.0
    cost: float = 0.0

    def run(self) -> Collected:
        self.defaults = {value.name: _default(value) for value in self.model.graph.inputs}
        names = [name for name in self.watchers if name not in self.defaults]
        self.sweeps = [_Sweep(names, inputs=True)]
        if self.checkpoint is not None and self.checkpoint.resume and self.checkpoint.path.exists():
            self._resume(self.checkpoint)
        elif names:
            self._measure(next(iter(self.samples)), 0)
        self.saved = time.monotonic()
        found = None
        while self.sweeps:
            found = self._sweep(self.sweeps[0])
            if found is not None:
                self.sweeps.pop(0)
                self.done += 1
                self.expected = None
                self._save(0, found.digest, begun=False)
        assert found is not None
        if self.checkpoint is not None:
            self.checkpoint.path.unlink(missing_ok=True)
        return found

    def _sweep(self, sweep: _Sweep) -> Collected | None:
        """Read the samples once; returns None if the sweep was split and has to begin again."""
        from burnish.backends.onnxruntime import session

        if self._split(sweep, sweep.start):
            return None
        sha, number = hashlib.sha256(), -1
        whole = self.done + len(self.sweeps)
        label = "calibrate" if whole == 1 else f"calibrate {self.done + 1}/{whole}"
        swept: Iterable[Any] = self.samples
        if self.progress is not None:
            swept = self.progress(self.samples, self.samples.known_length, label)
        with session(self.model, optimize="all", extra_outputs=sweep.names) as running:
            for number, feeds in enumerate(swept):
                if number == sweep.start:
                    self._check_same(sha.hexdigest())
                if number >= sweep.start:
                    if self._measure(feeds, number) and self._split(sweep, number):
                        self.expected = sha.hexdigest()
                        return None
                    self._observe(sweep, running, feeds, number)
                add_to_digest(sha, feeds)
                if number >= sweep.start:
                    self._save(number + 1, sha.hexdigest())
        self._check_same(sha.hexdigest())  # where the samples end before the start
        return Collected(number + 1, sha.hexdigest())

    def _observe(
        self, sweep: _Sweep, running: Session, feeds: Mapping[str, Array], number: int
    ) -> None:
        arrays = run_sample(running, feeds, sweep.names, number)
        if sweep.inputs:
            for name, default in self.defaults.items():
                if name in self.watchers:
                    given = feeds.get(name or "")
                    arrays[name or ""] = default if given is None else given
        for name, array in arrays.items():
            for watcher in self.watchers[name]:
                try:
                    watcher.update(array)
                except ValueError as error:
                    raise InputError(
                        f"value {name!r} on calibration sample {number}: {error}"
                    ) from error

    def _measure(self, feeds: Mapping[str, Array], number: int) -> bool:
        """Look at the sizes of activations where a sample is larger than all before it."""
        numbers = sum(array.size for array in feeds.values())
        names = [name for each in self.sweeps for name in each.names]
        if numbers <= self.largest or not names:
            return False
        self.largest = numbers
        for name, size in _sizes(self.model, names, feeds, number).items():
            self.sizes[name] = max(size, self.sizes.get(name, 0))
        return True

    def _split(self, sweep: _Sweep, number: int) -> bool:
        """Replace a sweep whose values do not fit the budget by several, from `number` on."""
        groups: list[list[str]] = []
        room = 0
        for name in sweep.names:
            size = self.sizes.get(name, 0)
            if not groups or size > room:
                groups.append([])
                room = self.budget
            groups[-1].append(name)
            room -= size
        if len(groups) <= 1:
            return False
        parts = [_Sweep(group, number) for group in groups]
        parts[0].inputs = sweep.inputs
        self.sweeps[:1] = parts
        return True

    # --- the state on disk ---

    def _save(self, start: int, digest: str, *, begun: bool = True) -> None:
        """Write the state if it is time to: `start` samples of the current sweep are done."""
        if self.checkpoint is None:
            return
        now = time.monotonic()
        every = self.checkpoint.every
        if every and now - self.saved < max(every, 20 * self.cost):
            return
        sweeps = [[sweep.names, sweep.start, sweep.inputs] for sweep in self.sweeps]
        if begun:
            sweeps[0][1] = start
        note = {
            "key": self.checkpoint.key,
            "sweeps": sweeps,
            "digest": digest if begun else None,
            "done": self.done,
            "sizes": self.sizes,
            "largest": self.largest,
        }
        arrays = {
            f"{index}/{place}/{key}": array
            for index, watchers in enumerate(self.watchers.values())
            for place, watcher in enumerate(watchers)
            for key, array in _storable(watcher).state().items()
        }
        with write_aside(self.checkpoint.path) as aside, aside.open("wb") as out:
            np.savez(out, note=np.array(json.dumps(note)), **arrays)  # type: ignore[arg-type]
        self.saved = time.monotonic()
        self.cost = self.saved - now

    def _resume(self, checkpoint: Checkpoint) -> None:
        try:
            with np.load(io.BytesIO(checkpoint.path.read_bytes()), allow_pickle=False) as archive:
                arrays = dict(archive)
            note = json.loads(str(arrays.pop("note")))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise InputError(
                f"{checkpoint.path} is no state of a calibration", hint="leave out --resume"
            ) from error
        if note["key"] != checkpoint.key:
            raise InputError(
                f"{checkpoint.path} is the state of another calibration: the model or an option "
                "has changed",
                hint="leave out --resume",
            )
        self.sweeps = [_Sweep(*sweep) for sweep in note["sweeps"]]
        self.expected, self.done = note["digest"], note["done"]
        self.sizes, self.largest = note["sizes"], note["largest"]
        states: dict[tuple[int, int], dict[str, Array]] = {}
        for path, array in arrays.items():
            index, place, key = path.split("/", 2)
            states.setdefault((int(index), int(place)), {})[key] = array
        for index, watchers in enumerate(self.watchers.values()):
            for place, watcher in enumerate(watchers):
                _storable(watcher).restore(states.get((index, place), {}))

    def _check_same(self, digest: str) -> None:
        if self.expected is not None and digest != self.expected:
            raise InputError(
                "the calibration samples are not those of the interrupted run",
                hint="leave out --resume",
            )
        self.expected = None


def _storable(watcher: Watcher) -> Storable:
    if not isinstance(watcher, Storable):
        raise TypeError(f"{type(watcher).__name__} cannot be stored")
    return watcher


def _default(value: ir.Value) -> Array:
    return np.zeros(0, np.float32) if value.const_value is None else value.const_value.numpy()


def _sizes(
    model: ir.Model, names: Sequence[str], feeds: Mapping[str, Array], number: int
) -> dict[str, int]:
    """Return the bytes each value takes on a sample, from shapes alone."""
    from burnish.backends.onnxruntime import session

    # In a copy that shares the weights, the values' shapes are fetched in place of the values.
    probe = model.clone()
    values = {value.name: value for node in probe.graph for value in node.outputs}
    missing = [name for name in names if name not in values]
    if missing:
        raise InputError(f"{missing[0]!r} is not a value of the main graph")
    nodes = [ir.node("Shape", [values[name]], name=f"burnish/shape/{name}") for name in names]
    for node in nodes:
        node.outputs[0].name = node.name
    probe.graph.extend(nodes)
    wanted = [node.name or "" for node in nodes]
    # Nothing of it is optimized: the runtime's optimizer may trip over shapes in all places.
    with session(probe, optimize="off", extra_outputs=wanted, prepack=False) as running:
        shapes = run_sample(running, feeds, wanted, number)
    itemsize = np.dtype(np.float32).itemsize
    return {
        name: int(np.prod(shapes[shape], dtype=np.int64)) * itemsize
        for name, shape in zip(names, wanted, strict=True)
    }
