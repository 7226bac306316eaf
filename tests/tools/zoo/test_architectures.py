# SPDX-License-Identifier: Apache-2.0
"""The transformers that are built from their configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.errors import InputError
from burnish.tools.zoo.architectures import ARCHITECTURES, exported

pytest.importorskip("transformers", reason="exports need torch and transformers")


def test_an_unknown_one() -> None:
    with pytest.raises(InputError, match="unknown architecture 'perceptron'"):
        exported("perceptron")


def test_no_more_is_expected_of_one_than_it_has() -> None:
    for item in ARCHITECTURES.values():
        assert item.attentions > 0
        assert max(item.causal, item.past) <= item.attentions
        assert item.exporters


@pytest.mark.parametrize("name", ["bert", "llama-past"])
def test_it_is_built_the_same_each_time(name: str) -> None:
    import torch

    first, second = (ARCHITECTURES[name].build() for _ in range(2))
    with torch.no_grad():
        results = [item.module(*item.args) for item in (first, second)]
    lists = [item if isinstance(item, list) else [item] for item in results]
    assert all(torch.equal(a, b) for a, b in zip(*lists, strict=True))


def test_an_export_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    path = exported("vit", "torchscript")
    made = path.stat().st_mtime_ns
    assert exported("vit", "torchscript") == path
    assert path.stat().st_mtime_ns == made
    assert path.is_relative_to(tmp_path)
