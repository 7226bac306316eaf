# SPDX-License-Identifier: Apache-2.0
"""Errors meant for users: one line each, with the exit code the command line returns."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import ClassVar


class BurnishError(Exception):
    """An error a user can act on.

    Attributes:
        exit_code: What the command line exits with.
        hint: What to do about it, printed on the same line after the message.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}; {hint}")
        self.hint = hint


class InputError(BurnishError):
    """Bad usage or bad input: nothing was done and nothing was written."""

    exit_code = 2


class MissingExtraError(InputError):
    """A feature needs a package that is not installed."""


class UnavailableError(InputError):
    """What it takes to run is not here: hardware, a driver, or the runtime it was built for."""


class VerificationError(BurnishError):
    """A transformed model is malformed or computes something else than its original."""

    exit_code = 3


class BudgetError(BurnishError):
    """A budget the user set was missed."""

    exit_code = 4


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module.

    Raises:
        MissingExtraError: with the one command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{module} is not installed", hint=f"run: pip install 'burnish[{extra}]'"
        ) from error
