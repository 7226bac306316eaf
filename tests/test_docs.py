# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows is run: files in code blocks, and commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from burnish.tools import reference

_ROOT = Path(__file__).parents[1]
_DOCS = _ROOT / "docs"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SCRIPTS = Path(sysconfig.get_path("scripts"))


def blocks(path: Path, language: str) -> list[str]:
    """Code blocks of one language."""
    return [text for kind, text in _BLOCK.findall(path.read_text("utf-8")) if kind == language]


def run(folder: Path, *command: str | Path) -> str:
    """Run a command in a folder; its output is shown if it fails."""
    # A user's interpreter looks beside the script.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_files_of_writing_a_pass_run(tmp_path: Path) -> None:
    shown = blocks(_DOCS / "writing-a-pass.md", "python")
    named = [text for text in shown if re.match(r"# \w+\.py\n", text)]
    assert len(named) == 3
    for text in named:
        (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text)
    out = run(tmp_path, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "2 passed" in out
    (usage,) = [text for text in shown if text not in named]
    model = "import numpy as np, onnx_ir as ir\nfrom burnish.testing import parse\n"
    model += 'ir.save(parse("g (float[2] x) => (float[2] y) { y = Relu(x) }"), "model.onnx")\n'
    check = "\nassert len(model.graph) == 1 and report.pipeline.endswith('longer_than=80}')\n"
    (tmp_path / "usage.py").write_text(model + usage + check)
    run(tmp_path, sys.executable, "usage.py")


def test_the_reference_of_passes_is_up_to_date() -> None:
    assert (_DOCS / "passes.md").read_text("utf-8") == reference.whole(), "run: make docs"


def test_links_lead_somewhere() -> None:
    for path in (_ROOT / "README.md", *_DOCS.glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
            assert (path.parent / link).exists(), f"{path.name} links to {link}"


_README = _ROOT / "README.md"
_PAGES = ("quantization", "quantization-weights", "deploying", "pruning")
_RUN = (_README, *(_DOCS / f"{name}.md" for name in _PAGES))


def commands(path: Path) -> list[str]:
    """Commands of the console blocks of a page."""
    lines = [line for block in blocks(path, "console") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


_COMMANDS = commands(_README)


@pytest.mark.parametrize("command", [c for c in _COMMANDS if c.startswith(("optimize", "burnish"))])
def test_commands_of_the_readme_run(command: str, tmp_path: Path) -> None:
    _readme_files(tmp_path)
    # Speed cannot be asked for where nothing is measured.
    measuring = "BURNISH_MEASURE=1; " if "--min-speedup" in command else ""
    run(tmp_path, "bash", "-c", f'PATH="{_SCRIPTS}:$PATH"; {measuring}{command}')


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (_ROOT / "Makefile").read_text()
    for command in _COMMANDS:
        if command.startswith("make "):
            target = command.split()[1]
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), command


@pytest.mark.parametrize("page", _RUN[1:], ids=lambda page: page.name)
def test_commands_of_a_page_run_in_order(page: Path, tmp_path: Path) -> None:
    _readme_files(tmp_path)
    for command in commands(page):
        run(tmp_path, "bash", "-c", f'PATH="{_SCRIPTS}:$PATH"; {command}')


@pytest.mark.parametrize("page", _RUN, ids=lambda page: page.name)
def test_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    _readme_files(tmp_path)
    for text in blocks(page, "python"):
        (tmp_path / "shown.py").write_text(text)
        run(tmp_path, sys.executable, "shown.py")


def _readme_files(folder: Path) -> None:
    """A small model.onnx, a model.opt.onnx, samples/ and requests.jsonl, as pages speak of."""
    import numpy as np
    import onnx_ir as ir

    from burnish.testing import parse

    rng = np.random.default_rng(0)
    weights = (", ".join(map(str, rng.standard_normal(64 * 64).round(3))) for _ in range(2))
    named = (f"float[64,64] w{index} = {{{each}}}" for index, each in enumerate(weights))
    text = (
        f"g (float[N,64] x) => (float[N,64] y) <{', '.join(named)}> "
        "{ i = Identity(x)  s = MatMul(i, w0)  r = Relu(s)  t = MatMul(r, w1)  y = Relu(t) }"
    )
    for name in ("model.onnx", "model.opt.onnx"):
        ir.save(parse(text), folder / name)
    (folder / "requests.jsonl").write_text('{"x": [2, 64]}\n{"x": [3, 64]}\n{"x": [9, 64]}\n')
    (folder / "samples").mkdir()
    for index in range(4):
        sample = rng.standard_normal((2, 64)).astype(np.float32)
        np.savez(folder / "samples" / f"{index}.npz", x=sample)
