# SPDX-License-Identifier: Apache-2.0
"""`measured.json` of an artefact: figures, and the hardware they were measured on.

It stands beside the manifest, which is the same for the same build. Figures may be added whenever
they are measured, on whichever machine; each entry names the manifest that it speaks of.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish.backends.artifact.manifest import MANIFEST, MEASURED
from burnish.errors import InputError
from burnish.files import write_aside


def hardware() -> dict[str, Any]:
    """Return what figures depend on, and nothing that names this one machine."""
    from burnish.backends.answers import cpu_name
    from burnish.backends.isa import detect_isa

    return {
        "processor": cpu_name(),
        "cores": os.cpu_count() or 1,
        "isa": sorted(detect_isa()),
        "gpus": _gpus(),
    }


def _gpus() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def record(folder: Path, what: str, figures: Mapping[str, Any]) -> None:
    """Add an entry.

    Args:
        folder: The artefact.
        what: What was measured: ``bench``, ``tune-session``.
        figures: Plain data.

    Raises:
        InputError: the artefact cannot be written to, or what is there is malformed.
    """
    from burnish.api import versions

    entry = {
        "what": what,
        "manifest": _digest(folder),
        "hardware": hardware(),
        "versions": versions(),
        "figures": dict(figures),
    }
    text = json.dumps({"entries": [*entries(folder), entry]}, indent=2)
    with write_aside(folder / MEASURED) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def entries(folder: Path) -> list[dict[str, Any]]:
    """Read what was measured of the artefact as it is: figures of another build are left out.

    Raises:
        InputError: the file is malformed.
    """
    path = folder / MEASURED
    if not path.is_file():
        return []
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["entries"]
        return [entry for entry in found if entry["manifest"] == _digest(folder)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is malformed: {error}", hint="delete it") from error


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
