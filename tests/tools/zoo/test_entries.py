# SPDX-License-Identifier: Apache-2.0
"""The table: complete, and consistent with itself."""

from __future__ import annotations

import pkgutil
import re
from collections import Counter

import pytest

from burnish.errors import InputError
from burnish.tools import zoo
from burnish.tools.zoo.entry import Entry

MODELS = [entry for entry in zoo.entries() if entry.kind == "model"]


def every(entry: Entry) -> str:
    return entry.name


def test_names_are_unique() -> None:
    assert max(Counter(entry.name for entry in zoo.entries()).values()) == 1


@pytest.mark.parametrize("entry", zoo.entries(), ids=every)
def test_pins_every_file_and_names_a_licence(entry: Entry) -> None:
    assert entry.licence
    assert entry.packages
    for package in entry.packages:
        assert re.match(r"\d", package.version)
        assert package.files
        assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in package.files)


@pytest.mark.parametrize("entry", MODELS, ids=every)
def test_a_model_has_a_file_or_a_way_to_make_it_and_a_task(entry: Entry) -> None:
    assert (entry.onnx is None) != (entry.export is None)
    names = [file.name for package in entry.packages for file in package.files]
    if entry.export is not None:
        assert callable(pkgutil.resolve_name(entry.export.example))
    else:
        assert entry.onnx in names
    assert entry.task is not None
    assert callable(pkgutil.resolve_name(entry.task))
    # A task is given files by name, so no two may share one.
    data = [zoo.find(name) for name in entry.data]
    assert all(found.kind == "data" for found in data)
    names += [file.name for found in data for package in found.packages for file in package.files]
    assert max(Counter(names).values()) == 1


def test_a_data_set_has_no_feeds() -> None:
    with pytest.raises(InputError, match="digits is a data set; name a model"):
        zoo.feeds("digits", 1)
