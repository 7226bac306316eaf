# SPDX-License-Identifier: Apache-2.0
"""References to Python objects in text: `module:attribute`, the attribute possibly dotted."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from burnish.errors import InputError

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def resolve(text: str) -> Any:
    """Import and return the object that `module:attribute` names.

    Modules in the current folder are found, too, after all others.

    Raises:
        InputError: the text has no colon, the module cannot be imported, or it has no such
            attribute (with the nearest one).
    """
    module, colon, path = text.partition(":")
    if not (module and colon and path):
        raise InputError(f"{text!r} is not of the form module:attribute")
    try:
        with _importable_from_here():
            found = importlib.import_module(module)
    except Exception as error:
        # Whatever a module of the user's does wrong at import: it is their input, not our bug.
        raise InputError(
            f"module {module!r} cannot be imported: {type(error).__name__}: {_one_line(error)}"
        ) from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise InputError(
                f"module {module!r} has no attribute {path!r}", hint=_nearest(name, dir(found))
            )
        found = getattr(found, name)
    return found


def resolve_function(text: str) -> Callable[..., Any]:
    """Import and return the function that `module:function` names.

    Raises:
        InputError: as for `resolve`, or what it names cannot be called.
    """
    found = resolve(text)
    if not callable(found):
        raise InputError(f"{text!r} names {type(found).__name__}, not a function")
    function: Callable[..., Any] = found
    return function


def is_reference(text: str) -> bool:
    """Whether the text has the form `package.module:function`, and is not a file's name."""
    return _REFERENCE.fullmatch(text) is not None and not Path(text).exists()


def reference_to(item: Any) -> str | None:
    """Return the text that `resolve` turns into this very object, or None if there is none."""
    module, name = getattr(item, "__module__", None), getattr(item, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is item else None


@contextlib.contextmanager
def _importable_from_here() -> Iterator[None]:
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)


def _nearest(name: str, names: list[str]) -> str:
    public = [each for each in names if not each.startswith("_")]
    close = difflib.get_close_matches(name, public, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"it has: {', '.join(public[:8])}" if public else "it has no public attributes"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
