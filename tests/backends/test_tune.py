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
from burnish.backends import tune as module
from burnish.backends.artifact.folder import Plan
from burnish.backends.measure import Comparison, Timing
from burnish.backends.settings import SessionSettings
from burnish.backends.tune import tune
from burnish.errors import InputError
from burnish.testing import parse

_FEEDS = {"x": np.ones((4, 8), np.float32)}


def model() -> ir.Model:
    return parse("g (float[N,8] x) => (float[N,8] y) { e = Exp(x)  y = Relu(e) }")


def test_only_what_is_faster_beyond_doubt_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = iter([(0.9, 1.3), (1.2, 1.4), (0.5, 0.6)])

    def compared(*args: object, **options: object) -> Comparison:
        low, high = next(ratios)
        timing = Timing("after", 1.0, 1.0, 1.0, 1.0, (low + high) / 2, low, high)
        return Comparison((dataclasses.replace(timing, name="before"), timing), 8)

    monkeypatch.setattr(module, "compare_loads", compared)
    fixed = frozenset({"threads", "prepack", "spinning"})
    found = tune(model(), _FEEDS, fixed=fixed)
    assert [(trial.setting, trial.kept) for trial in found.trials] == [
        ("blocked_layout", False),
        ("arena", True),
        ("memory_pattern", False),
    ]
    assert found.settings == SessionSettings(arena=False)
    assert str(found.trials[1]) == "arena=False: 1.30x (1.20 to 1.40), kept"


def test_every_setting_is_measured() -> None:
    found = tune(model(), _FEEDS, loads=2, repeats=2)
    tried = {trial.setting for trial in found.trials}
    assert {"blocked_layout", "arena", "memory_pattern", "prepack", "spinning"} <= tried
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
