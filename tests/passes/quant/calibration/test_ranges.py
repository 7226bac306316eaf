# SPDX-License-Identifier: Apache-2.0
"""Ranges: the same bytes twice, both forms read back, bad files in one line, halves equal whole."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.errors import InputError
from burnish.passes.calibration import CalibrationSource
from burnish.passes.quant.calibration.observers import METHODS, MinMax, Percentile, Range
from burnish.passes.quant.calibration.ranges import Observed, Ranges, calibrate
from burnish.passes.quant.int8.static import QuantStatic
from burnish.testing import parse, run_pass, structural_difference

Build = Callable[..., ir.Model]
Samples = Callable[..., CalibrationSource]

MODEL = """g (float[N,3] x) => (float[N,3] y) {
    two = Constant <value_float = 2.0> ()
    double = Mul(x, two)
    y = Neg(double)
}"""


def source(model: ir.Model, seeds: Any = range(6)) -> CalibrationSource:
    feeds = [
        {"x": np.random.default_rng(seed).normal(0, 1 + seed, (5, 3)).astype(np.float32)}
        for seed in seeds
    ]
    return CalibrationSource.from_iterable(lambda: feeds, model.graph.inputs)


@pytest.mark.parametrize("method", METHODS)
def test_two_runs_give_the_same_bytes(method: str) -> None:
    model = parse(MODEL)
    texts = {
        calibrate(
            model, ["x", "double", "y"], source(model), METHODS[method], means=["x"]
        ).to_json()
        for _ in range(2)
    }
    assert len(texts) == 1


@pytest.mark.parametrize("method", METHODS)
def test_halves_merged_have_the_ranges_of_one_run(method: str) -> None:
    from burnish.passes.quant.calibration.collect import collect

    model = parse(MODEL)
    whole = calibrate(model, ["double", "y"], source(model), METHODS[method])
    halves = []
    for seeds in (range(2), range(2, 6)):
        observers = {name: [METHODS[method]()] for name in ("double", "y")}
        collect(model, observers, source(model, seeds))
        halves.append(observers)
    for name, observed in whole.values.items():
        (first,), (second,) = halves[0][name], halves[1][name]
        first.merge(second)
        assert first.range() == observed.range


def test_what_is_observed() -> None:
    model = parse(MODEL)
    found = calibrate(model, ["x", "y"], source(model), MinMax, method="minmax", means=["x"])
    data = np.concatenate([feeds["x"] for feeds in source(model)])
    assert found.values["x"].range == Range(float(data.min()), float(data.max()))
    assert found.values["y"].range == Range(-2 * float(data.max()), -2 * float(data.min()))
    assert found.values["y"].mean is None
    assert found.values["x"].mean == pytest.approx(data.mean(axis=0).tolist(), rel=1e-6)
    assert (found.samples, found.digest, found.method) == (6, source(model).digest, "minmax")


numbers = st.floats(-1e30, 1e30)
intervals = st.tuples(numbers, numbers).map(lambda pair: Range(min(pair), max(pair)))
observed = st.builds(
    Observed,
    intervals,
    intervals,
    st.integers(0, 9),
    st.none() | st.lists(numbers, min_size=1, max_size=3).map(tuple),
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(st.dictionaries(names, observed, max_size=4))
def test_json_reads_back(values: dict[str, Observed]) -> None:
    ranges = Ranges(values, "percentile 99.99", 64, "abc")
    assert Ranges.from_json(ranges.to_json()) == ranges
    assert list(Ranges.from_json(ranges.to_json()).values) == list(values)


def test_adequacy_reads_back(tmp_path: Path) -> None:
    model = parse(MODEL)
    found = calibrate(model, ["x", "y"], source(model), Percentile)
    found.save(tmp_path / "r.json")
    again = Ranges.load(tmp_path / "r.json")
    assert again.adequacy == found.adequacy is not None
    assert json.loads((tmp_path / "r.json").read_text())["adequacy"]["samples"] == 6


def test_a_cache_of_tensorrt(tmp_path: Path) -> None:
    # The bits of 1/127 and of 0.02, as TensorRT writes them.
    text = "TRT-8503-EntropyCalibration2\nimages: 3c010204\n/conv: 1/out_0: 3ca3d70a\n\n"
    (tmp_path / "calib.cache").write_text(text)
    found = Ranges.load(tmp_path / "calib.cache")
    assert found.values["images"].range.high == pytest.approx(1.0, rel=1e-6)
    assert found.values["images"].range.low == -found.values["images"].range.high
    assert found.values["/conv: 1/out_0"].range.high == pytest.approx(127 * 0.02, rel=1e-6)
    found.save(tmp_path / "again.cache")
    written = (tmp_path / "again.cache").read_text().splitlines()
    assert written[0].startswith("TRT-")
    assert written[1:] == ["images: 3c010204", "/conv: 1/out_0: 3ca3d70a"]


def test_the_larger_magnitude_goes_into_a_cache() -> None:
    text = Ranges({"x": Observed(Range(-6.35, 1.0), Range(-7, 1))}).to_cache()
    bits = bytes.fromhex(text.splitlines()[1].removeprefix("x: "))
    assert struct.unpack(">f", bits)[0] == np.float32(0.05)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hello", "is no file of ranges"),
        ("[1]", "is no file of ranges"),
        ("{}", "it does not say so"),
        ('{"burnish": "ranges", "version": 9}', "version 9, not 1"),
        ("TRT-8503-x\nimages = 3\n", "line 2 is not `name: hexadecimal`"),
        ("TRT-8503-x\nimages: 7f800000\n", "line 2 holds the scale inf"),
        ("TRT-8503-x\nimages: bc010204\n", "line 2 holds the scale -0.00"),
        (Ranges({"x": Observed(Range(2, 1), Range(2, 1))}).to_json(), "the range of 'x' is"),
    ],
)
def test_files_that_are_none(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=reason) as caught:
        Ranges.load(tmp_path / "r.json")
    assert "\n" not in str(caught.value)
    assert "r.json" in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        Ranges.load(tmp_path / "r.json")
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"is no file of ranges"):
        Ranges.load(tmp_path / "r.json")


def test_what_a_user_should_know() -> None:
    model = parse(MODEL)
    one = calibrate(model, ["x"], source(model, [0]), MinMax)
    assert one.warnings() == [
        "there is one calibration sample: nothing says that ranges suit others"
    ]
    few = calibrate(model, ["x", "double"], source(model), Percentile)
    assert len(few.warnings()) == 1
    assert few.warnings()[0].startswith(
        "the calibration set is too small or too uneven: 6 samples: 2 of 2 ranges differ"
    )
    feeds = [{"x": np.full((5, 3), 2.0, np.float32)}] * 2
    same = CalibrationSource.from_iterable(lambda: feeds, model.graph.inputs)
    assert calibrate(model, ["x", "y"], same, MinMax).warnings() == [
        "one number only on the calibration data: 'x' and 1 more values"
    ]
    log = parse("g (float[N,3] x) => (float[N,3] y) { t = Log(x) y = Neg(t) }")
    assert calibrate(log, ["x", "t"], source(log), MinMax).warnings() == [
        "NaN or infinity on the calibration data: 't'"
    ]


# --- in the pass ---------------------------------------------------------------------------------

CONV = """g (float[N,32,6,6] x) => (float[N,16,6,6] y) {
    c = Conv(x, w, b)
    r = Relu(c)
    y = Softplus(r)
}"""


def test_ranges_from_a_file_are_as_good_as_samples(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    weights = {"w": (16, 32, 1, 1), "b": (16,)}
    direct, by_file = build(CONV, **weights), build(CONV, **weights)
    calibration = samples(direct, 4, 32, 6, 6, count=32)
    run_pass(QuantStatic(), direct, calibration=calibration)
    found = calibrate(by_file, ["x", "c", "r"], calibration, Percentile, means=["x"])
    found.save(tmp_path / "r.json")
    ctx = run_pass(QuantStatic(ranges=str(tmp_path / "r.json")), by_file)
    assert ctx.warnings == []
    assert structural_difference(direct, by_file) is None
    left, right = (ir.to_proto(model).SerializeToString() for model in (direct, by_file))
    assert left == right


def test_what_a_file_lacks_stays_float_or_is_calibrated(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    weights = {"w": (16, 32, 1, 1), "b": (16,)}
    Ranges({"x": Observed(Range(-3, 3), Range(-4, 4))}).save(tmp_path / "r.json")
    path = str(tmp_path / "r.json")
    model = build(CONV, **weights)
    ctx = run_pass(QuantStatic(ranges=path), model)
    assert ctx.warnings == [
        f"{path} has no range of 1 of 2 values, such as 'r': what takes or gives them stays float"
    ]
    assert not any(node.op_type == "QuantizeLinear" for node in model.graph)
    ctx = run_pass(
        QuantStatic(ranges=path), model, calibration=samples(model, 4, 32, 6, 6, count=32)
    )
    assert ctx.warnings == []
    scale = model.graph.initializers["x_scale"].const_value
    assert scale is not None
    assert float(scale.numpy()) == pytest.approx(6 / 255)


def test_the_report_says_how_good_the_calibration_is(build: Build, samples: Samples) -> None:
    model = build(CONV, w=(16, 32, 1, 1), b=(16,))
    ctx = run_pass(QuantStatic(), model, calibration=samples(model, 4, 32, 6, 6, count=32))
    (report,) = ctx.reports
    found = report.details["calibration"]
    assert (found["method"], found["samples"], found["values"]) == ("percentile", 32, 2)
    assert found["adequacy"]["enough"] is True


def test_a_missing_file_is_an_error_and_changes_nothing(build: Build, tmp_path: Path) -> None:
    model = build(CONV, w=(16, 32, 1, 1), b=(16,))
    before = model.clone()
    with pytest.raises(InputError, match="cannot be read"):
        run_pass(QuantStatic(ranges=str(tmp_path / "none.json")), model)
    assert structural_difference(before, model) is None
