# SPDX-License-Identifier: Apache-2.0
"""The demo holds what the README promises."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="needs the extra zoo")


@pytest.mark.zoo
def test_int8_is_small_and_reads_as_well(tmp_path: Path) -> None:
    from burnish.tools import demo

    before, after, timing = demo.main(tmp_path)
    assert after.bytes < 0.35 * before.bytes
    assert after.score > before.score - 0.02
    assert before.score > 0.8
    # How much faster is for the benchmarks; that both were timed is for here.
    assert timing["after"].median > 0
