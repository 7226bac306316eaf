# SPDX-License-Identifier: Apache-2.0
"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from burnish.errors import BurnishError, InputError


def cache_folder() -> Path:
    """The user's cache: `$BURNISH_CACHE`, or `~/.cache/burnish`."""
    chosen = os.environ.get("BURNISH_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "burnish"


@contextmanager
def write_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the body succeeds.

    The temporary file lies in the same folder, so the rename is atomic on POSIX systems.

    Raises:
        InputError: the folder does not exist or cannot be written.
        BurnishError: writing failed, for instance for want of space.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise InputError(
            f"cannot write to folder {target.parent}: {error.strerror}",
            hint="choose another output with -o",
        ) from error
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(0o666 & ~_umask())
        aside.replace(target)
    except OSError as error:
        raise BurnishError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder beside `path`; rename it to `path` if the body succeeds.

    What is at `path` is replaced then, and not before.

    Raises:
        InputError: the folder above does not exist or cannot be written.
    """
    target = Path(path).absolute()
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise InputError(
            f"cannot write to folder {target.parent}: {error.strerror}",
            hint="choose another output",
        ) from error
    made, old = aside / target.name, aside / f"{target.name}.old"
    try:
        made.mkdir(mode=0o777)
        yield made
        if target.exists():
            target.replace(old)  # a folder is only renamed to a name that is free
        made.replace(target)
    finally:
        if old.exists() and not target.exists():
            old.replace(target)
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    # The umask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
