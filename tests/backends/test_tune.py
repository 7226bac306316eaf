# SPDX-License-Identifier: Apache-2.0
"""Settings found by measuring."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import burnish
from burnish import api
from burnish.backends.artifact.folder import Plan
from burnish.backends.measure import Timing
from burnish.backends.settings import SessionSettings
from burnish.backends.tune import judge, tune
from burnish.errors import InputError
from burnish.testing import parse

_FEEDS = {"x": np.ones((4, 8), np.float32)}


def model() -> ir.Model:
    return parse("g (float[N,8] x) => (float[N,8] y) { e = Exp(x)  y = Relu(e) }")


@pytest.mark.parametrize(
    ("speedup", "low", "high", "text"),
    [
        (1.30, 1.20, 1.40, "arena=False: 1.30x (1.20 to 1.40), kept"),
        (1.10, 0.90, 1.30, "arena=False: 1.10x (0.90 to 1.30), left"),
        (0.55, 0.50, 0.60, "arena=False: 0.55x (0.50 to 0.60), left"),
        # Above 1 from end to end, and too close to it to be told apart.
        (1.014, 1.004, 1.024, "arena=False: 1.01x (1.00 to 1.02), left"),
    ],
)
def test_only_what_is_faster_beyond_doubt_is_kept(
    speedup: float, low: float, high: float, text: str
) -> None:
    timing = Timing("after", 1.0, 0.9, 1.1, 1.2, speedup, low, high)
    assert str(judge("arena", False, timing)) == text


def test_what_was_kept_is_what_the_settings_are() -> None:
    fixed = frozenset({"threads", "prepack"})
    found = tune(model(), _FEEDS, fixed=fixed, loads=2, repeats=2)
    assert not fixed & {trial.setting for trial in found.trials}
    kept = {trial.setting: trial.value for trial in found.trials if trial.kept}
    assert found.settings == dataclasses.replace(SessionSettings(), **kept)


def test_every_setting_is_measured() -> None:
    found = tune(model(), _FEEDS, loads=2, repeats=2)
    tried = {trial.setting for trial in found.trials}
    memory = {"arena", "memory_pattern", "memory_reuse"}
    assert {"blocked_layout", *memory, "prepack", "spinning"} <= tried
    assert all(0 < trial.low <= trial.speedup <= trial.high for trial in found.trials)


def test_an_artifact_records_what_was_found_and_runs_with_it(tmp_path: Path) -> None:
    _, report = api.optimize(model(), artifact=Plan(tmp_path / "a", tune=True))
    assert any(line.startswith("arena=False: ") for line in report.warnings)
    with burnish.load_artifact(tmp_path / "a") as loaded:
        loaded.run(_FEEDS)
    (entry,) = json.loads((tmp_path / "a" / "measured.json").read_text())["entries"]
    assert entry["what"] == "tune-session"
    kept = {t["setting"]: t["value"] for t in entry["figures"]["trials"] if t["kept"]}
    assert loaded.manifest.session == {**SessionSettings().as_dict(), **kept}
    with pytest.raises(InputError, match="of kind ep-context has no session to tune"):
        api.optimize(model(), artifact=Plan(tmp_path / "a", "ep-context", tune=True))
