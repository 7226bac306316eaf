# SPDX-License-Identifier: Apache-2.0
"""Engines of real models, built here for two kinds of GPU, and read back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import burnish
from burnish.backends.artifact.folder import Plan
from burnish.backends.artifact.manifest import read as read_manifest
from burnish.backends.tensorrt.parse import UnsupportedError
from burnish.backends.tensorrt.plan import Structure, read
from burnish.tools import zoo

pytest.importorskip("tensorrt_rtx")
pytestmark = pytest.mark.zoo

TARGET = "tensorrt-rtx:sm89,sm120"


def built(
    name: str, passes: str, folder: Path, *shapes: str, max_error: float, **given: Any
) -> list[Structure]:
    """Optimize a model of the zoo, build its engines, and read both back."""
    if "quant" in passes:
        given["calibration"] = lambda: zoo.feeds(name, 8)
    burnish.optimize(
        zoo.fetch(name),
        passes,
        target=TARGET,
        artifact=Plan(folder / "a", ranges=shapes),
        max_error=max_error,
        **given,
    )
    manifest = read_manifest(folder / "a")
    engines = [read(folder / "a" / f"{device}.engine") for device in ("sm89", "sm120")]
    assert [engine.devices for engine in engines] == [("sm89",), ("sm120",)]
    for engine, about in zip(engines, manifest.details["engines"].values(), strict=True):
        assert engine.summary() == about["structure"]
        assert engine.kernels
    return engines


def test_minilm_float16(tmp_path: Path) -> None:
    shapes = "batch=1:1:8,sequence=1:128:512"
    for engine in built("minilm-l6-dynamo", "fuse,float16", tmp_path, shapes, max_error=0.005):
        products = engine.summary()["products"]
        assert set(products) == {"half"}
        # Six layers: queries, keys and values in one product, and attention in one kernel.
        assert sum(kernel.kind == "attention" for kernel in engine.kernels) == 6
        merged = [k for k in engine.kernels if k.kind == "product" and k.name.count("+") == 2]
        assert len(merged) == 6
    assert (tmp_path / "a" / "sm89.engine").stat().st_size < 60e6


def test_minilm_int8(tmp_path: Path) -> None:
    passes = "fuse,quant{calibrate=minmax},float16"
    shapes = "batch=1:1:8,sequence=1:128:512"
    for engine in built("minilm-l6-dynamo", passes, tmp_path, shapes, max_error=0.3):
        # Of each layer: queries, keys and values in one, the projection, and two of the network.
        assert engine.summary()["products"]["int8"] == 24
        assert sum(kernel.kind == "attention" for kernel in engine.kernels) == 6


@pytest.mark.parametrize("passes", ["fuse,float16", "fuse,quant,float16"])
def test_text_recognition_of_any_width(passes: str, tmp_path: Path) -> None:
    shapes = "x=1x3x48x32:1x3x48x320:8x3x48x1600"
    for engine in built("ppocrv6-rec", passes, tmp_path, shapes, max_error=0.4):
        products = engine.summary()["products"]
        kind = "int8" if "quant" in passes else "half"
        assert products[kind] >= 55
        assert products.get("float", 0) <= 2
    profile = read_manifest(tmp_path / "a").profiles[0]
    assert profile.inputs["x"].max == (8, 3, 48, 1600)


def test_text_detection_of_any_size(tmp_path: Path) -> None:
    shapes = "x=1x3x32x32:1x3x640x640:1x3x960x960"
    for engine in built("ppocrv6-det", "fuse,float16", tmp_path, shapes, max_error=0.05):
        assert engine.summary()["products"]["half"] >= 80


def test_efficientnet_int8(tmp_path: Path) -> None:
    for engine in built(
        "efficientnet-lite0", "fuse,quant", tmp_path, "batch=1:1:8", max_error=0.15
    ):
        # Each convolution, depthwise ones too, and the last product.
        assert engine.summary()["products"] == {"int8": 50}


def test_a_model_quantized_for_another_runtime_is_refused_by_node(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as caught:
        burnish.optimize(
            zoo.fetch("quantized-t5-encoder"),
            "fuse",
            target=TARGET,
            artifact=Plan(tmp_path / "a"),
            verify="off",
        )
    refused = Counter(node.op_type for node in caught.value.nodes)
    assert refused["MatMulInteger"] == 56
    assert refused.keys() == {"DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"}
    assert len(str(caught.value)) < 600
    assert all("quantize the float model" in node.remedy for node in caught.value.nodes)
    assert not (tmp_path / "a").exists()
