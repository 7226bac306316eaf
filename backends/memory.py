# SPDX-License-Identifier: Apache-2.0
"""How much memory a piece of work takes at its peak, in a process of its own."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.backends.feeds import random_feeds
from burnish.errors import BurnishError

if TYPE_CHECKING:
    from burnish.backends.onnxruntime import Optimize


def peak_memory(work: Sequence[str] | Callable[[], object]) -> int:
    """Bytes of physical memory that `work` takes at its peak, in a process of its own.

    Pages of memory-mapped files count while they are resident, as they do in the operating
    system's own figures.

    Args:
        work: A command; or a picklable function (of a module, or a `functools.partial` of one),
            whose figure includes the interpreter and what it imports.

    Raises:
        BurnishError: the work failed; its last line of error output is quoted.
    """
    if callable(work):
        return _in_child(work)[1]
    # A child inherits the peak of the process that forks it, even across exec. So the command is
    # started by a small interpreter, whose own few megabytes are the least that can be seen.
    return int(_python(_LAUNCHER, [*work]).decode().strip())


@dataclass(frozen=True)
class Memory:
    """Physical memory of a process that loads a model and runs it once, in bytes.

    Attributes:
        peak: The most it took.
        baseline: What it had taken before it loaded the model: interpreter, libraries, runtime.
    """

    peak: int
    baseline: int

    @property
    def added(self) -> int:
        """What loading and running the model added."""
        return self.peak - self.baseline


def inference_memory(
    path: Path,
    *,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    threads: int = 1,
    optimize: Optimize = "all",
) -> Memory:
    """Memory that an ONNX file takes to load and run once, on `random_feeds`, as deployed.

    Raises:
        BurnishError: it does not load or run.
    """
    work = functools.partial(_infer, str(path), seed, dict(dims or {}), threads, optimize)
    baseline, peak = _in_child(work)
    return Memory(peak, int(baseline))


def _infer(path: str, seed: int, dims: dict[str, int], threads: int, optimize: Optimize) -> int:
    # Part of the baseline, as this library's own needs are.
    import onnx_ir  # noqa: F401
    import onnxruntime  # noqa: F401

    from burnish.backends.onnxruntime import session

    baseline = _peak_of_this_process()
    with session(Path(path), threads=threads, optimize=optimize) as loaded:
        loaded.run(random_feeds(loaded, seed, dims))
    return baseline


def _peak_of_this_process() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux
        import resource

        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _call_and_weigh(work: Callable[[], object]) -> tuple[object, int]:
    return work(), _peak_of_this_process()


# The search path comes first: it is what the pickled function is found on. The answer leaves by
# what was standard output, which from then on is standard error, whatever the function prints.
_WORKER = """
import os, pickle, sys
answer = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
sys.path[:] = pickle.load(sys.stdin.buffer)
pickle.dump(pickle.load(sys.stdin.buffer)(), answer)
"""

_LAUNCHER = """
import os, sys
quiet = [(os.POSIX_SPAWN_DUP2, 2, 1)]
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(abs(os.waitstatus_to_exitcode(status)))
"""


def _in_child(work: Callable[[], object]) -> tuple[Any, int]:
    call = functools.partial(_call_and_weigh, work)
    answer: tuple[Any, int] = pickle.loads(
        _python(_WORKER, [], pickle.dumps(sys.path) + pickle.dumps(call))
    )
    return answer


def _python(code: str, arguments: Sequence[str], stdin: bytes = b"") -> bytes:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], input=stdin, capture_output=True, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no error output"]
        raise BurnishError(f"measuring memory failed (exit {done.returncode}): {lines[-1]}")
    return done.stdout
