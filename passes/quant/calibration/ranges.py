# SPDX-License-Identifier: Apache-2.0
"""Ranges of values: found by calibration, kept in files, and read from those of other tools.

Two forms are written and read:

    JSON            everything that is known, in a form that is the same for the same ranges
    TensorRT cache  `name: hexadecimal` a line, the bits of a float32 scale (largest magnitude over
                    127), big-endian, under a line `TRT-<version>-<calibrator>`
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from burnish.errors import InputError
from burnish.files import write_aside
from burnish.passes.calibration import CalibrationSource
from burnish.passes.edit import inputs_within
from burnish.passes.quant.accuracy.correct import ChannelMean
from burnish.passes.quant.calibration.adequacy import Adequacy, Halves, Stability
from burnish.passes.quant.calibration.collect import BUDGET, Checkpoint, Progress, Watcher, collect
from burnish.passes.quant.calibration.observers import Observer, Range

_VERSION = 1
# Of the last releases that took a cache; readers look at the calibrator's name alone.
_CACHE_HEAD = "TRT-8601-EntropyCalibration2"
_CACHE_LINE = re.compile(r"(?P<name>.+): (?P<bits>[0-9a-fA-F]{1,8})")
_LEVELS = 127


@dataclass(frozen=True)
class Observed:
    """What calibration says about one value.

    Attributes:
        range: The range to represent.
        seen: The range that occurred.
        nonfinite: How many NaN and infinities occurred.
        mean: Mean of each channel (axis 1), where it was asked for.
    """

    range: Range
    seen: Range
    nonfinite: int = 0
    mean: tuple[float, ...] | None = None

    @property
    def is_constant(self) -> bool:
        """Whether only one number occurred."""
        return self.seen.low == self.seen.high


@dataclass(frozen=True)
class Ranges:
    """Ranges by name of value, and where they come from.

    Attributes:
        values: Name -> what was observed.
        method: How ranges were chosen, for people.
        samples: Number of samples; 0 if not known.
        digest: Of the samples (`CalibrationSource.digest`); empty if not known.
        adequacy: Whether there were enough samples; None if that is not known.
    """

    values: Mapping[str, Observed]
    method: str = ""
    samples: int = 0
    digest: str = ""
    adequacy: Adequacy | None = field(default=None, compare=False)

    def warnings(self) -> list[str]:
        """Return what a user should know about the calibration data, a line each."""
        lines = []
        if self.samples == 1:
            lines.append("there is one calibration sample: nothing says that ranges suit others")
        elif self.adequacy is not None and not self.adequacy.is_enough:
            lines.append(f"the calibration set is too small or too uneven: {self.adequacy}")
        odd = {
            "NaN or infinity": [n for n, v in self.values.items() if v.nonfinite],
            "one number only": [
                n for n, v in self.values.items() if v.is_constant and not v.nonfinite
            ],
        }
        for what, names in odd.items():
            if names:
                more = f" and {len(names) - 1} more values" if len(names) > 1 else ""
                lines.append(f"{what} on the calibration data: {names[0]!r}{more}")
        return lines

    def summary(self) -> dict[str, Any]:
        """Return what the report says of the calibration."""
        return {
            "method": self.method,
            "samples": self.samples,
            "values": len(self.values),
            "adequacy": None if self.adequacy is None else self.adequacy.as_dict(),
        }

    # --- files ---

    def save(self, path: Path) -> None:
        """Write JSON, or TensorRT's form where the name ends in `.cache`."""
        text = self.to_cache() if path.suffix == ".cache" else self.to_json()
        with write_aside(path) as aside:
            aside.write_text(text, encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Ranges:
        """Read either form, told apart by the contents.

        Raises:
            InputError: there is no such file, or it is neither.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"ranges file {path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no file of ranges", hint=_HINT) from error
        try:
            return Ranges.from_cache(text) if text.startswith("TRT-") else Ranges.from_json(text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no file of ranges: {error}", hint=_HINT) from error

    def to_json(self) -> str:
        """Return JSON; numbers read back as they were, to the last bit."""
        head = {
            "burnish": "ranges",
            "version": _VERSION,
            "method": self.method,
            "samples": self.samples,
            "samples_sha256": self.digest,
            "adequacy": None if self.adequacy is None else self.adequacy.as_dict(),
        }
        lines = [
            f"  {json.dumps(name, ensure_ascii=False)}: {json.dumps(_entry(value))}"
            for name, value in self.values.items()
        ]
        outer = json.dumps(head, ensure_ascii=False, indent=1).removesuffix("\n}")
        inner = ",\n".join(lines)
        return f'{outer},\n "values": {{\n{inner}\n }}\n}}\n'

    @staticmethod
    def from_json(text: str) -> Ranges:
        """Read what `to_json` returned.

        Raises:
            ValueError, KeyError, TypeError: it is something else.
        """
        data = json.loads(text)
        if data.get("burnish") != "ranges":
            raise ValueError("it does not say so")
        if data["version"] != _VERSION:
            raise ValueError(f"it is of version {data['version']}, not {_VERSION}")
        adequacy = data["adequacy"]
        if adequacy is not None:
            adequacy = Adequacy(**{k: v for k, v in adequacy.items() if k != "enough"})
        values = {name: _observed(name, entry) for name, entry in data["values"].items()}
        return Ranges(values, data["method"], data["samples"], data["samples_sha256"], adequacy)

    def to_cache(self) -> str:
        """Return TensorRT's form, which is symmetric: the larger magnitude counts."""
        lines = [_CACHE_HEAD]
        for name, value in self.values.items():
            reach = max(-value.range.low, value.range.high, 0.0)
            lines.append(f"{name}: {struct.pack('>f', reach / _LEVELS).hex()}")
        return "\n".join(lines) + "\n"

    @staticmethod
    def from_cache(text: str) -> Ranges:
        """Read TensorRT's form.

        Raises:
            ValueError: a line is malformed.
        """
        head, *lines = text.splitlines()
        values: dict[str, Observed] = {}
        for number, line in enumerate(lines, 2):
            if not line.strip():
                continue
            match = _CACHE_LINE.fullmatch(line.strip())
            if match is None:
                raise ValueError(f"line {number} is not `name: hexadecimal`")
            (scale,) = struct.unpack(">f", bytes.fromhex(match["bits"].zfill(8)))
            if not (math.isfinite(scale) and scale >= 0):
                raise ValueError(f"line {number} holds the scale {scale}")
            reach = Range(-_LEVELS * scale, _LEVELS * scale)
            values[match["name"]] = Observed(reach, reach)
        return Ranges(values, method=head)


_HINT = "make one with `burnish calibrate`"


def _entry(value: Observed) -> dict[str, Any]:
    found: dict[str, Any] = {
        "range": [value.range.low, value.range.high],
        "seen": [value.seen.low, value.seen.high],
    }
    if value.nonfinite:
        found["nonfinite"] = value.nonfinite
    if value.mean is not None:
        found["mean"] = list(value.mean)
    return found


def _observed(name: str, entry: Mapping[str, Any]) -> Observed:
    low, high = map(float, entry["range"])
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"the range of {name!r} is {[low, high]}")
    mean = entry.get("mean")
    return Observed(
        Range(low, high),
        Range(*map(float, entry.get("seen", (low, high)))),
        int(entry.get("nonfinite", 0)),
        None if mean is None else tuple(map(float, mean)),
    )


# --- finding them --------------------------------------------------------------------------------


def calibrate(
    model: ir.Model,
    names: Iterable[str],
    samples: CalibrationSource,
    make: Callable[[], Observer],
    *,
    method: str = "",
    means: Collection[str] = (),
    progress: Progress | None = None,
    budget: int = BUDGET,
    checkpoint: Checkpoint | None = None,
) -> Ranges:
    """Find the ranges of values of the main graph, in memory that does not grow with the samples.

    Args:
        model: A float model.
        names: Values to observe: graph inputs and outputs of nodes.
        samples: What to run it on.
        make: Makes the observer of a value, as `observer` of
            `burnish.passes.quant.calibration.observers` does.
        method: What to call the way ranges are chosen.
        means: Values whose channel means are wanted too.
        progress: Shows progress: (items, total, label) -> items.
        budget: Bytes of activations to hold at a time.
        checkpoint: Keeps the state on disk meanwhile.

    Raises:
        InputError: the samples do not fit the model, or it does not run on them.
    """
    halves = {name: Halves(make) for name in names}
    watched = {name: ChannelMean() for name in means}
    watchers: dict[str, Sequence[Watcher]] = {
        name: [w for w in (halves.get(name), watched.get(name)) if w is not None]
        for name in {**halves, **watched}
    }
    found = collect(
        model, watchers, samples, progress=progress, budget=budget, checkpoint=checkpoint
    )
    values: dict[str, Observed] = {}
    stability: dict[str, Stability] = {}
    for name, each in halves.items():
        whole = each.whole
        kept = whole.range()
        mean = tuple(watched[name].mean.tolist()) if name in watched else None
        values[name] = Observed(kept, whole.seen, whole.nonfinite, mean)
        if found.samples > 1 and whole.seen.width:
            stability[name] = Stability.of(each, whole, kept)
    adequacy = Adequacy.of(stability, found.samples)
    return Ranges(values, method, found.samples, found.digest, adequacy)


def float_values(model: ir.Model) -> list[str]:
    """Return the names of the float values that change with the input, in order.

    They are inputs and outputs of nodes of the main graph of a model whose types were inferred;
    what follows from constants alone is left out.
    """
    varying = dict.fromkeys(v for v in model.graph.inputs if not v.is_initializer())
    for node in model.graph:
        # A node without inputs that draws random numbers varies as well.
        if node.op_type.startswith("Random") or any(v in varying for v in inputs_within(node)):
            varying.update(dict.fromkeys(node.outputs))
    return [
        value.name
        for value in varying
        if value.name
        and value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
        and isinstance(value.type, ir.TensorType)
    ]


def fed_to_channels(model: ir.Model) -> list[str]:
    """Return the names of values that a Conv or Gemm of the main graph takes.

    Their channel means let biases make up for the mean error of the weights.
    """
    known = set(float_values(model))
    found: dict[str, None] = {}
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm") and node.domain == "" and node.inputs[0] is not None:
            name = node.inputs[0].name or ""
            if name in known:
                found[name] = None
    return list(found)
