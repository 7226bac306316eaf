# SPDX-License-Identifier: Apache-2.0
"""The distribution: what is declared, what the built wheel holds, and what it needs to run."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import burnish

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NOT_PACKAGED = {"build", "dist", "docs", "tests"}


def package_folders() -> Iterator[Path]:
    """Yield every folder below the root, and the root itself, whose modules are the package's."""
    yield ROOT
    for top in ROOT.iterdir():
        if not top.is_dir() or top.name.startswith(".") or top.name in NOT_PACKAGED:
            continue
        for folder in (top, *top.rglob("*/")):
            if any(folder.glob("*.py")):
                yield folder


def sources() -> list[Path]:
    """Return every module of the package."""
    return sorted(path for folder in package_folders() for path in folder.glob("*.py"))


def module_name(source: Path) -> str:
    parts = source.relative_to(ROOT).with_suffix("").parts
    return ".".join(("burnish", *(part for part in parts if part != "__init__")))


def requirements() -> list[Requirement]:
    """Return everything that pyproject.toml asks for, extras and groups included."""
    project = PYPROJECT["project"]
    lists = [
        PYPROJECT["build-system"]["requires"],
        project["dependencies"],
        *project["optional-dependencies"].values(),
        *PYPROJECT["dependency-groups"].values(),
    ]
    found = [Requirement(entry) for entries in lists for entry in entries if isinstance(entry, str)]
    return [requirement for requirement in found if requirement.name != "burnish"]


def python(*arguments: str, cwd: Path, **environment: str) -> str:
    """Run this interpreter elsewhere and return its standard output."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tests_run_against_what_they_should() -> None:
    home = Path(burnish.__path__[0]).resolve()
    if os.environ.get("BURNISH_TESTED") == "wheel":
        assert home == Path(sysconfig.get_path("purelib")).resolve() / "burnish"
    else:
        assert home == ROOT


def test_the_root_is_not_importable() -> None:
    tops = {path.stem for path in ROOT.glob("*.py")} | {
        folder.name for folder in package_folders() if folder.parent == ROOT
    }
    for name in tops - {"__init__"}:
        spec = importlib.util.find_spec(name)
        places = () if spec is None else (spec.origin, *(spec.submodule_search_locations or ()))
        assert not any(place and Path(place).parent == ROOT for place in places), name


def test_packages_listed_are_packages_on_disk() -> None:
    on_disk = {module_name(folder / "__init__.py") for folder in package_folders()}
    assert on_disk == set(PYPROJECT["tool"]["setuptools"]["packages"])
    assert [folder for folder in package_folders() if not (folder / "__init__.py").exists()] == []


def test_every_source_names_its_licence() -> None:
    line = "# SPDX-License-Identifier: Apache-2.0\n"
    files = [*sources(), *(ROOT / "tests").rglob("*.py")]
    assert [path for path in files if not path.read_text(encoding="utf-8").startswith(line)] == []


def test_constraints_pin_every_requirement_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {
        canonicalize_name(name): version
        for name, _, version in (line.partition("==") for line in lines if line[:1] != "#")
    }
    for requirement in requirements():
        if requirement.name == "tensorrt":  # for machines with a GPU; no target installs it
            continue
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not pinned: run `make lock`"
        assert requirement.specifier.contains(version), f"{requirement} does not admit {version}"


def test_extras_named_to_users_exist() -> None:
    declared = set(PYPROJECT["project"]["optional-dependencies"])
    named = {
        keyword.value.value
        for source in sources()
        for call in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "extra" and isinstance(keyword.value, ast.Constant)
    }
    assert named
    assert named <= declared


def test_console_scripts_run(tmp_path: Path) -> None:
    for name in PYPROJECT["project"]["scripts"]:
        script = Path(sysconfig.get_path("scripts")) / name
        done = subprocess.run(
            [script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"Usage: {name} ")


def test_every_module_imports_without_the_extras(tmp_path: Path) -> None:
    core = {Requirement(entry).name for entry in PYPROJECT["project"]["dependencies"]}
    optional = {requirement.name for requirement in requirements()} - core
    provided = importlib.metadata.packages_distributions()
    absent = {
        module
        for module, distributions in provided.items()
        if {canonicalize_name(name) for name in distributions} <= optional
    }
    assert absent >= {"torch", "PIL", "pytest", "onnxscript"} & provided.keys()
    program = (
        "import importlib, sys\n"
        "names, absent = (argument.split(',') for argument in sys.argv[1:])\n"
        "sys.modules.update(dict.fromkeys(absent))\n"  # None makes the import fail
        "for name in names: importlib.import_module(name)\n"
    )
    names = ",".join(module_name(source) for source in sources())
    python("-c", program, names, ",".join(sorted(absent)), cwd=tmp_path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a source archive from a copy of this checkout, and the wheel from that archive."""
    checkout = tmp_path_factory.mktemp("checkout") / "burnish"
    shutil.copytree(
        ROOT,
        checkout,
        ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__"),
    )
    python("-m", "build", "--quiet", "--no-isolation", "--outdir", "out", cwd=checkout)
    (built,) = (checkout / "out").glob("*.whl")
    return built


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {PurePosixPath(name) for name in archive.namelist()}
    (info,) = {path.parts[0] for path in held} - {"burnish"}
    assert re.fullmatch(r"burnish-[\d.]+\.dist-info", info)
    assert PurePosixPath(info, "licenses", "LICENSE") in held
    files = {path for path in held if path.parts[0] == "burnish"}
    inside = (path for folder in package_folders() if folder != ROOT for path in folder.iterdir())
    expected = [*ROOT.glob("*.py"), ROOT / "py.typed", *(path for path in inside if path.is_file())]
    assert files == {PurePosixPath("burnish", path.relative_to(ROOT)) for path in expected}


def test_wheel_imports_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    options = ["--quiet", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    python("-m", "pip", "install", *options, str(wheel), cwd=tmp_path)
    program = (
        "import burnish; print(*burnish.__path__); [getattr(burnish, n) for n in dir(burnish)]"
    )
    assert Path(python("-c", program, cwd=tmp_path, PYTHONPATH=str(site)).strip()).parent == site
    assert {path.name for path in (site / "bin").iterdir()} == set(PYPROJECT["project"]["scripts"])
