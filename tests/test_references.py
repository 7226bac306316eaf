# SPDX-License-Identifier: Apache-2.0
"""`module:attribute` finds objects, and says in one line why it does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish.errors import InputError
from burnish.references import reference_to, resolve


@pytest.fixture
def broken_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "broken_module_of_mine.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "broken_module_of_mine"
    sys.modules.pop("broken_module_of_mine", None)


def test_resolves_dotted_attributes() -> None:
    assert resolve("json:JSONEncoder.encode") is json.JSONEncoder.encode


def test_finds_modules_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_lying_here.py").write_text("answer = 42\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert resolve("module_lying_here:answer") == 42
    assert sys.path == path
    del sys.modules["module_lying_here"]


@pytest.mark.parametrize("item", [json.dumps, json.JSONEncoder, json.JSONEncoder.encode])
def test_a_reference_leads_back(item: object) -> None:
    text = reference_to(item)
    assert text is not None
    assert resolve(text) is item


def test_what_no_module_names_has_no_reference() -> None:
    assert reference_to(lambda: None) is None
    assert reference_to(json.JSONEncoder()) is None
    assert reference_to(3) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("json", "'json' is not of the form module:attribute"),
        ("json:", "'json:' is not of the form module:attribute"),
        (":dumps", "':dumps' is not of the form module:attribute"),
        (
            "no_such_module_here:f",
            "module 'no_such_module_here' cannot be imported: ModuleNotFoundError: "
            "No module named 'no_such_module_here'",
        ),
        ("json:dunps", "module 'json' has no attribute 'dunps'; did you mean 'dumps'?"),
        ("broken_module_of_mine:f", "cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_says_what_is_wrong(text: str, message: str, broken_module: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
