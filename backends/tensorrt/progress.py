# SPDX-License-Identifier: Apache-2.0
"""The builder's progress as a progress bar, and Ctrl-C that stops it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_PARTS = 200

Progress = Callable[[Iterable[Any], int | None, str], Iterable[Any]]


def watched(trt: Any, config: Any, build: Callable[[], Any], show: Progress, label: str) -> Any:
    """Return `build()`, run in a thread, while `show` is fed with what share of it is done.

    An interruption of the bar stops the build at its next step.
    """
    steps: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    done: dict[str, Any] = {}
    monitor = _monitor(trt, steps)
    config.progress_monitor = monitor

    def work() -> None:
        try:
            done["result"] = build()
        except BaseException as error:
            done["error"] = error
        finally:
            steps.put(None)

    thread = threading.Thread(target=work, name="tensorrt build")
    thread.start()
    try:
        for _ in show(_arriving(steps), _PARTS, label):
            pass
    finally:
        monitor.cancelled = True  # of no effect once it is done
        thread.join()
    if "error" in done:
        raise done["error"]
    return done["result"]


def _arriving(steps: queue.SimpleQueue[int | None]) -> Iterator[int]:
    """One item for each part that is done; all of them at the end."""
    reached = 0
    while reached < _PARTS:
        step = steps.get()
        until = _PARTS if step is None else step
        yield from range(reached, until)
        reached = max(reached, until)


def _monitor(trt: Any, steps: queue.SimpleQueue[int | None]) -> Any:
    class Monitor(trt.IProgressMonitor):
        """Phases lie within steps of others; a step's share is its phase's, divided evenly."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self.phases: dict[str, tuple[float, float]] = {}  # start, share of a step

        def phase_start(self, phase: str, parent: str | None, count: int) -> None:
            start, share = self.phases.get(parent or "", (0.0, 1.0))
            self.phases[phase] = (start, share / max(count, 1))

        def phase_finish(self, phase: str) -> None:
            self.phases.pop(phase, None)

        def step_complete(self, phase: str, _step: int) -> bool:
            start, share = self.phases.get(phase, (0.0, 0.0))
            self.phases[phase] = (start + share, share)
            steps.put(min(int((start + share) * _PARTS), _PARTS))
            return not self.cancelled

    return Monitor()
