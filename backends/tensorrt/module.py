# SPDX-License-Identifier: Apache-2.0
"""The module of a target, `tensorrt` or `tensorrt_rtx`, and what it logs."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from burnish.errors import InputError, require

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Target -> module. The extra that installs it bears the name of the target."""


@functools.cache
def load(target: str) -> ModuleType:
    """Import the module of a target.

    Raises:
        MissingExtraError: it is not installed.
        InputError: it is installed, and its libraries do not load.
    """
    name = MODULES[target]
    try:
        return require(name, extra=target)
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(
            f"{name} is installed but does not load: {' '.join(str(error).split())}",
            hint=f"install it again: pip install --force-reinstall 'burnish[{target}]'",
        ) from error


@contextmanager
def messages(trt: Any) -> Iterator[list[str]]:
    """Collect what a module logs as warnings or errors within the context, instead of printing it.

    A module keeps the first logger it is given for as long as the process lives. So there is one
    for each module, and what threads do at the same time cannot be told apart.
    """
    log = logger(trt)
    outer, log.lines = log.lines, []
    try:
        yield log.lines
    finally:
        log.lines = outer


@functools.cache
def logger(trt: Any) -> Any:
    """The one logger of a module; its `lines` are its errors and warnings, errors marked so."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.lines.append(f"{ERROR}{_one_line(message)}")
            elif severity == trt.ILogger.WARNING:
                self.lines.append(_one_line(message))

    return Log()


ERROR = "error: "
"""What an error begins with in `messages`."""


def errors(lines: list[str]) -> list[str]:
    """Of messages, the errors, without repetition."""
    found = (line.removeprefix(ERROR) for line in lines if line.startswith(ERROR))
    return list(dict.fromkeys(found))


def _one_line(message: str) -> str:
    return " ".join(message.split())
