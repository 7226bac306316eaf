# SPDX-License-Identifier: Apache-2.0
"""Names of passes: the built-in ones, and those of plugins that are really installed."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import pytest

from burnish.errors import InputError
from burnish.passes import registry
from burnish.passes.base import Fixpoint, Pass
from burnish.passes.pipeline import Pipeline
from burnish.testing import parse


def test_every_built_in_name_leads_to_a_pass_of_that_name() -> None:
    for name in registry.BUILT_IN:
        found = registry.lookup(name)
        assert issubclass(found, Pass)
        assert found.name == name


def test_names_are_all_there_is() -> None:
    names = registry.names()
    assert list(names) == sorted(names)
    assert {*registry.BUILT_IN, "fixpoint"} <= set(names)
    assert registry.lookup("fixpoint") is Fixpoint


def test_listing_names_imports_no_pass() -> None:
    script = (
        "import sys; from burnish.passes import registry; registry.names()\n"
        "modules = {each.partition(':')[0] for each in registry.BUILT_IN.values()}\n"
        "print(sorted(modules & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("prun", "did you mean 'prune'?"),
        ("FUSE", "did you mean 'fuse'?"),
        ("qqqq", "known: "),
        ("", "known: "),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(InputError, match="unknown pass") as caught:
        registry.lookup(name)
    assert hint in str(caught.value)


# Plugins: small packages, built and installed by pip into a folder of their own, and found by
# another interpreter that has this folder on its path.

_MODULE = '''
from dataclasses import dataclass
from typing import ClassVar

from burnish import NoMatch, Pass, option, rule


@rule
def relu_relu(op, x):
    """Relu(Relu(x)) -> Relu(x)"""
    return op.Relu(op.Relu(x))


@relu_relu.rewrite
def _(op, x):
    return op.Relu(x)


@dataclass(frozen=True)
class Stamp(Pass):
    """Writes a word into the model's metadata."""

    name: ClassVar[str] = "their-stamp"
    rule_names: ClassVar[tuple[str, ...]] = ("stamp",)
    word: str = option("stamped", help="what to write")

    def apply(self, model, ctx):
        if model.metadata_props.get("their-stamp") != self.word:
            with ctx.rewrite("stamp", "metadata") as go:
                if go:
                    model.metadata_props["their-stamp"] = self.word


class Misnamed(Stamp):
    name = "something-else"


NOT_A_PASS = 3
'''


@dataclass(frozen=True)
class Plugins:
    """Builds plugins and runs code that sees them, and those in the folders `beside`."""

    folder: Path
    beside: tuple[Path, ...] = ()

    def install(self, name: str, module: str, entries: dict[str, str]) -> None:
        """Install a distribution `name` with one module and entry points."""
        source = self.folder / f"{name}-source"
        source.mkdir()
        lines = "".join(f'{key} = "{value}"\n' for key, value in entries.items())
        (source / "pyproject.toml").write_text(
            "[build-system]\nrequires = ['setuptools']\n"
            "build-backend = 'setuptools.build_meta'\n"
            f"[project]\nname = '{name}'\nversion = '1.0'\n"
            f'[project.entry-points."burnish.passes"]\n{lines}'
            f"[tool.setuptools]\npy-modules = ['{name}']\n"
        )
        (source / f"{name}.py").write_text(module)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        command += ["--no-build-isolation", "--target", str(self.site), str(source)]
        subprocess.run(command, check=True, cwd=self.folder, capture_output=True, text=True)

    @property
    def site(self) -> Path:
        """Where they are installed."""
        return self.folder / "site"

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        """Run a command that sees the plugins, and of burnish only what is installed."""
        path = os.pathsep.join(map(str, (self.site, *self.beside)))
        environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
        return subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=environment,
        )

    def python(self, *lines: str) -> subprocess.CompletedProcess[str]:
        """Run lines of Python."""
        return self.run(sys.executable, "-c", "\n".join(lines))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    plugins = Plugins(tmp_path_factory.mktemp("theirs"))
    plugins.install(
        "their_plugin",
        _MODULE,
        {
            "their-rule": "their_plugin:relu_relu",
            "their-stamp": "their_plugin:Stamp",
            "their-misnamed": "their_plugin:Misnamed",
            "their-number": "their_plugin:NOT_A_PASS",
            "their-absent": "their_plugin:Absent",
            "their-missing": "their_missing_module:Pass",
        },
    )
    return plugins


def test_a_plugins_rule_and_pass_run_by_name(theirs: Plugins) -> None:
    model = theirs.folder / "m.onnx"
    ir.save(parse("g (float[N] x) => (float[N] y) { a = Relu(x)  y = Relu(a) }"), model)
    optimize = Path(sysconfig.get_path("scripts")) / "optimize"
    report = theirs.folder / "report.json"
    done = theirs.run(
        optimize, model, "--passes", "their-rule,their-stamp{word=mine}", "--report", report
    )
    assert done.returncode == 0, done.stderr
    first, second = json.loads(report.read_text())["passes"]
    assert (first["text"], first["rules"]["relu-relu"]["rewrites"]) == ("their-rule", 1)
    assert (second["text"], second["rules"]["stamp"]["rewrites"]) == (
        "their-stamp{word=mine}",
        1,
    )
    made = ir.load(theirs.folder / "m.opt.onnx")
    assert [node.op_type for node in made.graph] == ["Relu"]
    assert made.metadata_props["their-stamp"] == "mine"


def test_a_plugins_rule_is_disabled_by_its_name(theirs: Plugins) -> None:
    done = theirs.python(
        "from burnish.testing import parse, run_pass",
        "model = parse('g (float[N] x) => (float[N] y) { a = Relu(x)  y = Relu(a) }')",
        "run_pass('their-rule', model, disable=('relu-relu',))",
        "print(len(model.graph))",
    )
    assert done.stdout.strip() == "2", done.stderr


def test_text_of_plugins_round_trips(theirs: Plugins) -> None:
    done = theirs.python(
        "from burnish.passes.pipeline import Pipeline",
        "text = 'their-rule,fixpoint(their-stamp{word=mine},their-rule)'",
        "pipeline = Pipeline.parse(text)",
        "assert str(pipeline) == text",
        "assert Pipeline.parse(text) == pipeline",
        "print(pipeline.rule_names())",
    )
    assert done.returncode == 0, done.stderr
    assert "'relu-relu'" in done.stdout


def test_plugins_are_listed_and_hinted_at(theirs: Plugins) -> None:
    done = theirs.python(
        "from burnish.passes import registry",
        "assert {'their-rule', 'their-stamp'} <= set(registry.names())",
        "registry.lookup('their-rul')",
    )
    assert "unknown pass 'their-rul'; did you mean 'their-rule'?" in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "their-misnamed",
            "plugin their_plugin: the pass named 'their-misnamed' calls itself 'something-else'",
        ),
        (
            "their-number",
            "plugin their_plugin: their_plugin:NOT_A_PASS is neither a Pass class nor a rule",
        ),
        ("their-absent", "pass 'their-absent' of plugin their_plugin cannot be imported: "),
        ("their-missing", "pass 'their-missing' of plugin their_plugin cannot be imported: "),
    ],
)
def test_a_broken_plugin_is_one_line(theirs: Plugins, name: str, message: str) -> None:
    script = "from burnish.tools.cli import main; main()"
    done = theirs.run(sys.executable, "-c", script, "passes", name)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert message in line.replace("their-plugin", "their_plugin")


def test_a_broken_plugin_does_not_break_the_others(theirs: Plugins) -> None:
    done = theirs.python("from burnish.passes import registry", "registry.lookup('their-rule')")
    assert done.returncode == 0, done.stderr
    done = theirs.run(sys.executable, "-c", "from burnish.tools.cli import main; main()", "passes")
    assert done.returncode == 0, done.stderr
    assert "their-rule" in done.stdout
    assert "their-absent" in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("prune", "names a pass 'prune', which is built in; rename it or uninstall the plugin"),
        ("their-rule", "both name a pass 'their-rule'; uninstall one of them"),
    ],
)
def test_a_clash_of_names_is_one_line(
    theirs: Plugins, tmp_path: Path, name: str, message: str
) -> None:
    plugins = Plugins(tmp_path, beside=(theirs.site,))
    plugins.install("other_plugin", _MODULE, {name: "other_plugin:relu_relu"})
    optimize = Path(sysconfig.get_path("scripts")) / "optimize"
    model = tmp_path / "m.onnx"
    ir.save(parse("g (float[N] x) => (float[N] y) { y = Relu(x) }"), model)
    done = plugins.run(optimize, model, "--passes", "cleanup")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert message in line
    assert "other" in line
    assert not (tmp_path / "m.opt.onnx").exists()


def test_this_interpreter_has_no_plugins() -> None:
    """Else the tests above would show nothing."""
    assert not [name for name in registry.names() if name.startswith("their-")]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("their_plugin")
    with pytest.raises(InputError, match="unknown pass 'their-rule'"):
        Pipeline.parse("their-rule")
