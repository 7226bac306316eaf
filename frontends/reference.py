# SPDX-License-Identifier: Apache-2.0
"""`module:function`, the way a command line names a piece of Python."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from burnish.errors import InputError

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_reference(text: str) -> bool:
    """Does the text have the form `package.module:function`, and is it not a file's name?"""
    return _REFERENCE.fullmatch(text) is not None and not Path(text).exists()


def resolve(reference: str) -> Callable[..., Any]:
    """Import the function that `module:function` names.

    Modules in the current folder are found, as they are by `python -m`.

    Raises:
        InputError: there is no such module or function, or importing it fails.
    """
    name, _, attribute = reference.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{reference}: importing {name} failed: {reason}",
            hint="check the name; modules are looked for in the current folder too",
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    found = getattr(module, attribute, None)
    if not callable(found):
        close = difflib.get_close_matches(attribute, vars(module), n=1)
        raise InputError(
            f"{reference}: module {name} has no function {attribute!r}",
            hint=f"did you mean {close[0]!r}?" if close else "check its spelling",
        )
    function: Callable[..., Any] = found
    return function
