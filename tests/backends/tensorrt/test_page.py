# SPDX-License-Identifier: Apache-2.0
"""docs/gpu.md says what the code does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from burnish.backends.tensorrt.options import BuildOptions
from burnish.passes.options import options_of
from burnish.testing import parse

PAGE = Path(__file__).parents[3] / "docs" / "gpu.md"


def test_every_option_of_a_build_is_on_the_page() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (.+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    declared = [
        (item.name, item.format(item.default) or "none", item.help)
        for item in options_of(BuildOptions)
    ]
    assert [row for row in rows if row[0] in {name for name, _, _ in declared}] == declared


def test_the_commands_that_need_no_gpu_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx_ir as ir

    from burnish.tools.cli import group
    from burnish.tools.optimize import command as optimize

    pytest.importorskip("tensorrt_rtx")
    monkeypatch.chdir(tmp_path)
    model = parse(
        """g (float[batch,8] x) => (float[batch,8] y)
        <float[8,8] w = {1,0,0,0,0,0,0,0, 0,1,0,0,0,0,0,0, 0,0,1,0,0,0,0,0, 0,0,0,1,0,0,0,0,
                         0,0,0,0,1,0,0,0, 0,0,0,0,0,1,0,0, 0,0,0,0,0,0,1,0, 0,0,0,0,0,0,0,1}>
        { a = MatMul(x, w) y = Relu(a) }"""
    )
    ir.save(model, "model.onnx")
    block = re.search(r"```console\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert block is not None
    lines = [shlex.split(line.removeprefix("$ ")) for line in block[1].splitlines()]
    assert [line[:2] for line in lines if line[0] == "burnish"] == [
        ["burnish", "inspect"],
        ["burnish", "verify-artifact"],
        ["burnish", "run"],
    ]
    runner = CliRunner()
    built = runner.invoke(optimize, lines[1][1:], catch_exceptions=False)
    assert built.exit_code == 0, built.output
    shown = runner.invoke(group, lines[2][1:], catch_exceptions=False)
    assert "sm120.engine" in shown.output
