# SPDX-License-Identifier: Apache-2.0
"""Features of the processor are read from Linux, or guaranteed by the architecture."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.backends.isa import detect_isa


def test_detect_isa_reads_both_spellings_of_cpuinfo(tmp_path: Path) -> None:
    x86 = tmp_path / "x86"
    x86.write_text("processor\t: 0\nflags\t\t: fpu avx2 sse4_1\nbugs\t: spectre_v1\n")
    assert detect_isa(x86) == {"avx2", "sse4.1"}
    arm = tmp_path / "arm"
    arm.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert detect_isa(arm) == {"neon", "dotprod"}


def test_detect_isa_falls_back_on_the_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert detect_isa(tmp_path / "none") == {"neon"}
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert detect_isa(tmp_path / "none") == frozenset()
