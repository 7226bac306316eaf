# SPDX-License-Identifier: Apache-2.0
"""Exports: cached, and the same bytes every time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from burnish.tools import zoo
from burnish.tools.zoo.fetch import cache_folder

pytestmark = pytest.mark.zoo


def test_an_export_gives_the_same_bytes_in_another_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = zoo.fetch("mnist-cnn")
    shutil.copytree(cache_folder() / "pypi" / "ccexam-1.0.0", tmp_path / "pypi" / "ccexam-1.0.0")
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    there = zoo.fetch("mnist-cnn")
    assert there.parent == tmp_path / "export"
    assert there.name == here.name
    assert there.read_bytes() == here.read_bytes()


def test_an_export_is_made_once() -> None:
    path = zoo.fetch("mnist-cnn")
    made = path.stat().st_mtime_ns
    assert zoo.fetch("mnist-cnn") == path
    assert path.stat().st_mtime_ns == made


def test_weights_without_exporting() -> None:
    folder = zoo.fetch("mnist-cnn", export=False)
    assert (folder / "ccexam/weights/mnist.pth").is_file()
