# SPDX-License-Identifier: Apache-2.0
"""Libraries of plugins that cannot be loaded: one line each, and nothing is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import burnish
from burnish.backends.artifact.folder import Plan
from burnish.errors import InputError

pytest.importorskip("tensorrt_rtx")


def refused(made: Any, folder: Path, plugins: str) -> str:
    """What a build with these plugins says."""
    model = made("g (float[2,4] x) => (float[2,4] y) { y = Relu(x) }")
    plan = Plan(folder / "a", options={"plugins": plugins})
    with pytest.raises(InputError) as caught:
        burnish.optimize(model, "fuse", target="tensorrt-rtx:sm89", artifact=plan)
    assert not (folder / "a").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "libmine.so"
    assert refused(made, tmp_path, f"{path}") == (
        f"there is no library of plugins at {path}; check plugins="
    )


def test_not_a_library(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "libmine.so"
    path.write_text("no library", encoding="utf-8")
    text = refused(made, tmp_path, str(path))
    assert text.startswith(f"{path} holds no plugins that TensorRT can load: {path}: ")
    assert text.endswith("; check plugins=")  # in between, the words of the system


def test_a_library_without_plugins(made: Any, tmp_path: Path) -> None:
    import onnxruntime

    path = next(Path(onnxruntime.__file__).parent.glob("capi/onnxruntime_pybind11_state*"))
    text = refused(made, tmp_path, str(path))
    assert text == (
        f"{path} holds no plugins that TensorRT can load: it is a library without any; "
        "check plugins="
    )
