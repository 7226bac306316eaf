# SPDX-License-Identifier: Apache-2.0
"""What was measured on this machine, kept in the user's cache: one small file an answer.

One file each needs no lock: concurrent builds write whole files under names that say all that the
answer depends on, and at worst measure the same thing twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.backends.measure import RESOLUTION
from burnish.errors import BurnishError
from burnish.files import cache_folder, write_aside

if TYPE_CHECKING:
    from burnish.backends.target import Target


_NOISE = 1.25
"""Upper over lower end of an interval that tells nothing; undisturbed, they differ by 1 or 2 %."""


@dataclass(frozen=True)
class Answer:
    """How fast one form runs against another.

    Attributes:
        ratio: Seconds of the first over seconds of the second: above 1, the second is faster.
        low: Lower end of its 95 % confidence interval.
        high: Upper end.
    """

    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """How the second compares: `faster`, `slower`, or `same` if that cannot be told."""
        if self.low > 1 + RESOLUTION:
            return "faster"
        return "slower" if self.high < 1 - RESOLUTION else "same"

    @property
    def is_noise(self) -> bool:
        """Whether something else kept the machine so busy that next to nothing is known."""
        return self.verdict == "same" and self.high > _NOISE * self.low

    def widened(self, other: Answer) -> Answer:
        """Return what two measurements of the same say together: the milder, both intervals."""
        milder = min(self.ratio, other.ratio, key=lambda ratio: abs(math.log(ratio)))
        return Answer(milder, min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True)
class Environment:
    """What a measurement depends on beside what is measured.

    Attributes:
        cpu: The processor's name.
        isa: Its instruction sets, sorted.
        threads: Threads that share one operator's work.
        runtime: Name and version of the runtime.
        burnish: Version of this package.
    """

    cpu: str
    isa: tuple[str, ...]
    threads: int
    runtime: str
    burnish: str

    @staticmethod
    def of(target: Target, threads: int) -> Environment:
        """Return that of a target on this machine."""
        from importlib.metadata import version

        runtime = f"onnxruntime {version('onnxruntime')} {target.provider}"
        isa = tuple(sorted(target.isa))
        return Environment(cpu_name(), isa, threads, runtime, version("burnish"))

    @property
    def hardware(self) -> str:
        """The machine in a few words."""
        features = f" ({', '.join(self.isa)})" if self.isa else ""
        return f"{self.cpu}{features}, {self.threads} thread{'s' * (self.threads > 1)}"


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name as it gives it, or what Python knows of it."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


class Answers:
    """The answers found in one environment.

    Attributes:
        environment: What they hold for.
        folder: Where they lie.
        warn: Is told, in one line, of what cannot be read or written.
    """

    def __init__(
        self,
        environment: Environment,
        warn: Callable[[str], None],
        folder: Path | None = None,
    ) -> None:
        self.environment = environment
        self.folder = cache_folder() / "decisions" if folder is None else folder
        self.warn = warn

    def get(self, key: str) -> Answer | None:
        """Return the answer to a question, if it is known; a broken file is as good as none."""
        path = self._path(key)
        try:
            return _answer(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it holds no answer"
            self.warn(f"the cached measurement {path} cannot be used ({why}); it was taken again")
            return None

    def put(self, key: str, answer: Answer, question: str) -> None:
        """Keep an answer; the question goes along for whoever looks into the file."""
        path = self._path(key)
        entry = {
            "question": question,
            "answer": dataclasses.asdict(answer),
            "environment": dataclasses.asdict(self.environment),
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_aside(path) as aside:
                aside.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
        except (OSError, BurnishError):
            self.warn(
                f"measurements cannot be kept in {path.parent}: set BURNISH_CACHE to another folder"
            )

    def _path(self, key: str) -> Path:
        text = repr((key, self.environment))
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _answer(entry: Any) -> Answer:
    """Read an entry; ValueError if it is none."""
    try:
        found = Answer(**{name: float(number) for name, number in entry["answer"].items()})
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("not an answer") from error
    if not 0 < found.low <= found.ratio <= found.high < float("inf"):
        raise ValueError("not an answer")
    return found
