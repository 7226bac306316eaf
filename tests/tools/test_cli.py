# SPDX-License-Identifier: Apache-2.0
"""The commands beside `optimize` as a user meets them, and what all have in common."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from burnish.passes import registry

Run = Callable[..., Any]


def files(folder: Path) -> set[str]:
    """What lies in a folder."""
    return {path.name for path in folder.iterdir()}


def test_a_group_without_a_command_shows_its_help(burnish: Run) -> None:
    result = burnish()
    assert result.code == 2
    assert len(result.err.splitlines()) > 5
    result = burnish("inspect", "--frob")
    assert result.code == 2
    assert result.err.startswith("burnish: error: No such option")
    assert result.err.endswith("see burnish inspect --help\n")


def test_passes_lists_all_and_describes_one(burnish: Run) -> None:
    listing = burnish("passes")
    assert listing.code == 0, listing.err
    for name in registry.names():
        assert name in listing.out
    one = burnish("passes", "prune")
    assert "`sparsity`" in one.out
    wrong = burnish("passes", "prun")
    assert (wrong.code, "did you mean 'prune'?" in wrong.err) == (2, True)


@pytest.mark.usefixtures("misbehaving")
def test_bisect_names_the_first_bad_rewrite(optimize: Run, burnish: Run, model: Path) -> None:
    good = burnish("bisect", model, "--passes", "cleanup")
    assert (good.code, "no rewrite is at fault" in good.out) == (0, True)
    assert "burnish bisect" in optimize(model, "--passes", "cleanup,scale").err
    bad = burnish("bisect", model, "--passes", "cleanup,scale")
    assert bad.code == 3
    assert "rewrite 2 is the first bad one: rule scale of pass scale at 'w'" in bad.out
    assert f"optimize {model} --passes cleanup,scale --bisect-limit 2\n" in bad.out
    assert "the first 1 rewrites: good" in bad.err
    found = burnish("bisect", model, "--passes", "cleanup,scale", "--json")
    assert (found.code, json.loads(found.out)["number"]) == (3, 2)
    words = ("bisect", model, "--passes", "cleanup,scale", "--disable", "scale")
    assert burnish(*words).code == 0
    assert burnish("bisect", model, "--disable", "nothing").code == 2
    assert files(model.parent) == {"m.onnx"}


def test_bench(burnish: Run, model: Path) -> None:
    few = ("--repeats", 5, "--loads", 2)
    result = burnish("bench", model, model, *few, "--dim", "N=2", "--json")
    assert result.code == 0, result.err
    data = json.loads(result.out)
    assert (data["rounds"], data["loads"]) == (6, 2)
    assert [item["name"] for item in data["timings"]] == [f"{model} #1", f"{model} #2"]
    assert burnish("bench", model, "--dim", "N=x").code == 2
    assert burnish("bench", model.parent / "no.onnx").code == 2


def test_zoo_list(burnish: Run) -> None:
    result = burnish("zoo", "list")
    assert result.code == 0, result.err
    assert "ppocrv6-rec" in result.out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['optimize', '--help']\n"
        "from burnish.tools import cli\n"
        "cli.leave = int\n"
        "cli.optimize_main()\n"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'rich', 'networkx'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("script", ["optimize", "burnish"])
def test_console_scripts_are_installed(script: str) -> None:
    path = Path(sysconfig.get_path("scripts")) / script
    done = subprocess.run([path, "--help"], check=True, capture_output=True, text=True)
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("command", ["bench", "bisect"])
def test_a_negative_seed_is_bad_usage(burnish: Run, model: Path, command: str) -> None:
    result = burnish(command, model, "--seed", -1)
    assert result.code == 2
    assert "--seed" in result.err


def test_both_scripts_tell_the_version(optimize: Run, burnish: Run) -> None:
    assert optimize("--version").out == f"optimize, version {metadata.version('burnish')}\n"
    assert burnish("--version").out == f"burnish, version {metadata.version('burnish')}\n"


def test_a_process_that_leaves_has_done_and_said_all() -> None:
    code = (
        "import atexit, sys, threading\n"
        "from burnish.tools.cli import leave\n"
        "atexit.register(lambda: print('done'))\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "sys.stdout.write('said, ')\n"
        "leave(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said, done\n", "")


def test_a_process_whose_reader_is_gone_leaves_quietly() -> None:
    code = "import sys; from burnish.tools.cli import leave; sys.stdout.write('x'); leave(0)"
    read, write = os.pipe()
    os.close(read)
    buffered = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, env=buffered)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_process_told_to_end_leaves_nothing_half_written(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time, click\n"
        "from burnish.files import write_aside\n"
        "from burnish.tools import cli\n"
        "@click.command()\n"
        "@click.argument('path')\n"
        "def command(path):\n"
        "    with write_aside(path) as aside:\n"
        "        aside.write_text('half')\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(60)\n"
        "cli.leave(cli.run(command, 'command'))\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "file")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")
    assert not list(tmp_path.iterdir())


def test_a_process_without_standard_output_ends_as_others_do() -> None:
    code = "import sys; sys.stdout = None; from burnish.tools.cli import leave; leave(0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_characters_that_the_encoding_lacks_are_no_error() -> None:
    code = (
        "import click\n"
        "from burnish.tools import cli\n"
        "command = click.command()(lambda: print('m\u00f6del'))\n"
        "cli.leave(cli.run(command, 'command'))\n"
    )
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ascii_only)
    assert (done.returncode, done.stdout.strip()) == (0, b"m\\xf6del")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_no_internal_error(model: Path) -> None:
    path = Path(sysconfig.get_path("scripts")) / "optimize"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([path, model], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "optimize: error: no space left\n")
