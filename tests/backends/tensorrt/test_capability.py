# SPDX-License-Identifier: Apache-2.0
"""Targets of TensorRT: names, compute capabilities, what their parser takes."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from burnish.backends.int8 import ONNX_RUNTIME, TENSORRT
from burnish.backends.target import MICROSOFT, Target
from burnish.backends.tensorrt import capability, module
from burnish.errors import InputError, MissingExtraError

pytest.importorskip("tensorrt_rtx")

RTX = "tensorrt-rtx:sm89,sm120"


def test_a_target_names_what_to_build_for() -> None:
    target = Target.parse(f" {RTX.upper()} ")
    assert target.name == RTX
    assert target.provider == "NvTensorRTRTXExecutionProvider"
    assert target.isa == {"sm89", "sm120"}
    assert target.int8 == TENSORRT
    assert Target.parse("cpu").int8 == ONNX_RUNTIME


def test_without_a_list_one_engine_serves_all() -> None:
    assert Target.parse("tensorrt-rtx").isa == frozenset()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensorrt-rtx:sm98", r"no compute capability 'sm98'; did you mean 'sm89'\? known: sm75"),
        ("tensorrt-rtx:sm89,", "no compute capability ''"),
        ("tensorrt:sm89", "unknown target"),
        ("tensorrt-rtc", "did you mean 'tensorrt-rtx'"),
    ],
)
def test_a_wrong_one_is_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Target.parse(text)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.MODULES, "tensorrt", "tensorrt_that_is_not_there")
    module.load.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pip install 'burnish\[tensorrt\]'"):
        Target.parse("tensorrt")


@pytest.mark.parametrize(
    ("op_type", "domain", "dtype", "expected"),
    [
        ("Conv", "", ir.DataType.FLOAT16, True),
        ("Conv", "", None, True),
        ("Conv", "", ir.DataType.DOUBLE, False),
        ("Attention", "", ir.DataType.FLOAT, True),
        ("Gather", "", ir.DataType.INT8, False),
        ("DequantizeLinear", "", ir.DataType.INT8, True),
        ("MatMulInteger", "", None, False),
        ("DynamicQuantizeLinear", "", None, False),
        ("Attention", MICROSOFT, None, False),
    ],
)
def test_the_parser_is_asked(
    op_type: str, domain: str, dtype: ir.DataType | None, expected: bool
) -> None:
    target = Target.parse("tensorrt-rtx:sm89")
    assert target.runs(op_type, domain, opset=23, dtype=dtype) is expected
    assert not target.fuses("FusedGelu")


def test_capabilities_are_those_of_the_module() -> None:
    assert {"sm75", "sm86", "sm89", "sm120"} <= set(capability.known("tensorrt-rtx"))
