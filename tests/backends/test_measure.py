# SPDX-License-Identifier: Apache-2.0
"""Timing that tells variants apart when they differ and admits it when they do not."""

from __future__ import annotations

import functools
import itertools
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from burnish.backends.measure import (
    BATCH,
    EXTENT,
    PIXELS,
    TOKENS,
    _student,
    compare,
    compare_loads,
    inference_memory,
    peak_memory,
    random_feeds,
    random_run,
    summarize,
    symbol_sizes,
)
from burnish.backends.onnxfile import save
from burnish.backends.onnxruntime import TensorSpec, session
from burnish.errors import BurnishError, InputError

HEAD = '<ir_version: 10, opset_import: ["": 20]>'


def parse(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f"{HEAD} {text}"))


class Sleeper:
    """A variant that takes a given time and writes down that it ran."""

    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        self.name, self.seconds, self.log = name, seconds, log

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        self.log.append(self.name)
        time.sleep(self.seconds)
        return {}


# --- time --------------------------------------------------------------------------------------


def test_two_variants_take_turns_in_both_orders() -> None:
    log: list[str] = []
    variants = {name: Sleeper(name, 0, log) for name in "AB"}
    result = compare(variants, {}, repeats=3, warmup=1)
    assert "".join(log) == "AB" + "AB" + "BA" + "AB"
    assert result.rounds == 3
    assert [timing.name for timing in result.timings] == ["A", "B"]


def test_none_of_several_variants_has_warm_caches_more_often_than_others() -> None:
    log: list[str] = []
    names = "ABCD"
    compare({name: Sleeper(name, 0, log) for name in names}, {}, repeats=400, warmup=0)
    rounds = ["".join(log[i : i + 4]) for i in range(0, len(log), 4)]
    assert all(sorted(each) == sorted(names) for each in rounds)
    follows = Counter(itertools.pairwise(log))
    assert not any(follows[name, name] for name in names)
    # 12 pairs, each 133 times: within four standard deviations.
    assert all(90 < follows[pair] < 180 for pair in itertools.permutations(names, 2))


def test_the_budget_ends_the_rounds() -> None:
    log: list[str] = []
    result = compare({"A": Sleeper("A", 0.02, log)}, {}, repeats=1000, warmup=0, budget=0.1)
    assert 1 <= result.rounds <= 6
    assert compare({"A": Sleeper("A", 0, log)}, {}, repeats=9, budget=0).rounds == 1


def test_nothing_to_measure_is_bad_input() -> None:
    with pytest.raises(InputError, match="nothing to measure"):
        compare({}, {})
    with pytest.raises(InputError, match="at least 1 repeat"):
        compare({"A": Sleeper("A", 0, [])}, {}, repeats=0)


def test_real_models_that_differ_are_told_apart() -> None:
    nodes = " ".join(f"t{i + 1} = MatMul(t{i}, t0)" for i in range(6))
    model = "g (float[192,192] t0) => (float[192,192] y) {{ {} y = Neg(t{}) }}"
    short = session(parse(model.format("t1 = MatMul(t0, t0)", 1)))
    long = session(parse(model.format(nodes, 6)))
    feeds = random_feeds(short)
    result = compare({"long": long, "short": short}, feeds, repeats=20)
    timing = result["short"]
    assert timing.verdict == "faster"
    assert 2 < timing.low < timing.speedup < timing.high < 20  # six products against one
    assert timing.p10 <= timing.median <= timing.p90
    assert "faster" in str(result)
    assert compare({"short": short, "long": long}, feeds, repeats=20)["long"].verdict == "slower"


def test_each_variant_can_have_its_own_inputs() -> None:
    one = session(parse("g (float[2] x) => (float[2] y) { y = Neg(x) }"))
    other = session(parse("g (double[3] z) => (double[3] y) { y = Neg(z) }"))
    feeds = {"one": random_feeds(one), "other": random_feeds(other)}
    assert compare({"one": one, "other": other}, feeds, repeats=2).rounds == 2


def rounds(rng: np.random.Generator, ratio: float, noise: float, n: int = 40) -> Any:
    """Two variants whose rounds share a drift far larger than their own noise."""
    drift = np.exp(rng.normal(0, 0.3, n))
    own = np.exp(rng.normal(0, noise, (2, n)))
    return summarize({"a": drift * own[0], "b": drift * own[1] / ratio})


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = sum(
        timing.low <= 1.2 <= timing.high
        for timing in (rounds(rng, 1.2, 0.05)["b"] for _ in range(200))
    )
    assert held >= 180  # of 95 %; a median of 40 is discrete, and errs on the wide side


def test_equals_are_not_told_apart() -> None:
    rng = np.random.default_rng(1)
    verdicts = [rounds(rng, 1.0, 0.05)["b"].verdict for _ in range(200)]
    assert verdicts.count("same") >= 190
    assert "cannot be told apart" in str(rounds(rng, 1.0, 0.05)["b"])


def test_a_difference_below_the_resolution_is_not_claimed() -> None:
    timing = rounds(np.random.default_rng(2), 1.005, 1e-5)["b"]
    assert timing.verdict == "same"


def test_few_rounds_say_nothing() -> None:
    timing = summarize({"a": np.full(3, 2.0), "b": np.full(3, 1.0)})["b"]
    assert timing.speedup == 2
    assert timing.verdict == "same"


def test_the_baseline_is_the_same_as_itself() -> None:
    result = rounds(np.random.default_rng(3), 2, 0.1)
    assert (result["a"].low, result["a"].high, result["a"].verdict) == (1, 1, "same")
    with pytest.raises(KeyError):
        result["c"]


class Loaded(Sleeper):
    """A variant that is slower or faster for as long as it is loaded."""

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *error: object) -> None:
        self.log.append("closed")


def test_an_interval_over_loads_covers_what_differs_between_loads() -> None:
    # Within a load, rounds agree to a percent; loads differ by a tenth.
    rng = np.random.default_rng(0)
    log: list[str] = []
    scales = iter(rng.uniform(0.95, 1.05, 32))
    variants = {
        name: lambda name=name, ms=ms: Loaded(name, 1e-3 * ms * next(scales), log)
        for name, ms in (("A", 4.0), ("B", 2.0))
    }
    found = compare_loads(variants, {}, loads=6, repeats=18, warmup=1)
    assert (found.rounds, found.loads) == (18, 6)
    assert log.count("closed") == 12
    timing = found["B"]
    assert timing.low < 2 < timing.high
    assert timing.verdict == "faster"
    assert timing.high / timing.low > 1.02
    assert found["A"].low == found["A"].high == found["A"].speedup == 1.0
    with pytest.raises(InputError, match="at least 1 repeat and 2 loads"):
        compare_loads(variants, {}, loads=1)


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706), (4, 2.776), (7, 2.365), (30, 2.042)]
)
def test_students_t(freedom: int, expected: float) -> None:
    assert _student(freedom) == pytest.approx(expected, rel=3e-3)


# --- inputs ------------------------------------------------------------------------------------

TYPES = """g (float[batch,3,H,W] image, int64[batch,seq] input_ids, int64[batch,seq] attention_mask,
    int32[2] i, uint8[9,9] pixels, int8[99] q, bool[64] flags, float16[2] half, bfloat16[2] brain,
    double[2] d, float scalar, float[2,?] unknown)
    => (float[batch,3,H,W] y) { y = Neg(image) }"""


@pytest.mark.parametrize("loaded", [False, True])
def test_feeds_fit_the_model(loaded: bool) -> None:
    model = parse(TYPES)
    source = session(model) if loaded else model
    feeds = random_feeds(source)
    assert feeds["image"].shape == (BATCH, 3, EXTENT, EXTENT)
    assert feeds["input_ids"].shape == (BATCH, EXTENT)
    assert feeds["scalar"].shape == ()
    assert feeds["unknown"].shape == (2, EXTENT)
    assert set(np.unique(feeds["input_ids"])) == {0, 1}
    assert feeds["attention_mask"].all()
    assert feeds["pixels"].max() > 200
    assert feeds["q"].min() < -64
    assert 0 < feeds["flags"].sum() < 64
    assert session(model).run(feeds)["y"].shape == feeds["image"].shape


def test_strings_are_words() -> None:
    model = parse("g (string[4,N] words) => (string[4,N] y) { y = Identity(words) }")
    assert session(model).run(random_feeds(model))["y"].shape == (4, EXTENT)


def test_feeds_follow_the_seed() -> None:
    model = parse(TYPES)
    one, same, other = random_feeds(model, 1), random_feeds(model, 1), random_feeds(model, 2)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["image"], other["image"])


def test_sizes_and_ranges_can_be_given() -> None:
    feeds = random_feeds(
        parse(TYPES), dims={"batch": 4, "seq": 7}, ranges={"input_ids": (5, 9), "image": (0, 0.5)}
    )
    assert feeds["image"].shape[0] == 4
    assert feeds["input_ids"].shape == (4, 7)
    assert set(np.unique(feeds["input_ids"])) == {5, 6, 7, 8, 9}
    assert 0 <= feeds["image"].min() < feeds["image"].max() < 0.5


def test_a_symbol_is_one_size_wherever_it_stands() -> None:
    feeds = random_feeds(parse("g (float[3,N] x, float[N] z) => (float[3,N] y) { y = Add(x, z) }"))
    assert feeds["x"].shape[1] == feeds["z"].shape[0] == BATCH


def test_sizes_without_a_name_are_called_as_on_import() -> None:
    assert random_feeds(parse(TYPES), dims={"unknown_dim_1": 5})["unknown"].shape == (2, 5)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("g (float[N,M] x) => (float[N,M] y) { y = Neg(x) }", {"N": 1, "M": 32}),
        ("g (float[A,B] x, float[C,D] z) => (float[E,F] y) { y = MatMul(x, z) }", 32),
        ("g (float[1,N] x, float[1,M] z) => (float[1,M] y) { s = Shape(x) y = Expand(z, s) }", 32),
        (
            "g (float[A,B] x) => (float[A,C] y) <int64[4] pads = {0, 99, 0, 0}>"
            '{ y = Pad<mode="reflect">(x, pads) }',
            {"A": 1, "B": 128},
        ),
        (
            "g (float[N,7] x, float[M,7] z, int64[M,A] i) => (float[N,7] y)"
            "{ g = GatherND<batch_dims=1>(x, i)  s = Unsqueeze(g, one) y = Add(x, s) }".replace(
                "=> (float[N,7] y)", "=> (float[N,7] y) <int64[1] one = {1}>"
            ),
            1,
        ),
    ],
)
def test_a_model_is_run_at_the_first_sizes_it_runs_at(
    text: str, sizes: int | dict[str, int]
) -> None:
    found = random_run(session(parse(text)))
    wanted = sizes if isinstance(sizes, dict) else dict.fromkeys(found.sizes, sizes)
    assert found.sizes == wanted
    assert all(array.ndim for array in found.outputs.values())


def test_a_model_that_runs_at_no_size_says_why_at_the_usual_ones() -> None:
    text = "g (float[N,M] x, float[7,5] z) => (float[N,5] y) { y = MatMul(x, z) }"
    with pytest.raises(BurnishError, match="MatMul dimension mismatch"):
        random_run(session(parse(text)))
    assert random_run(session(parse(text)), dims={"M": 7}).sizes == {"N": 1, "M": 7}
    with pytest.raises(InputError, match="no input has a dimension 'K'"):
        random_run(session(parse(text)), dims={"K": 7})


def test_weights_listed_as_inputs_are_not_fed() -> None:
    model = parse("g (float[2] x, float[2] w) => (float[2] y) { y = Add(x, w) }")
    value = model.graph.inputs[1]
    value.const_value = ir.tensor(np.ones(2, np.float32), name="w")
    model.graph.register_initializer(value)
    assert list(random_feeds(model)) == ["x"]


def test_wrong_sizes_and_strange_inputs_are_named() -> None:
    with pytest.raises(InputError, match=r"no input has a dimension 'bacth'.*batch, H, W, seq"):
        random_feeds(parse(TYPES), dims={"bacth": 2})
    sequence = parse("g (seq(float[2]) s) => (int64 n) { n = SequenceLength(s) }")
    for source in (sequence, session(sequence)):
        with pytest.raises(InputError, match="'s' is not a tensor"):
            random_feeds(source)


# --- memory ------------------------------------------------------------------------------------

MB = 2**20


def test_peak_memory_of_a_command_is_its_own() -> None:
    ballast = np.ones(40 * MB)  # 320 MB here must not show there
    small, large = (
        peak_memory([sys.executable, "-c", f"x = b'x' * {size * MB}"]) for size in (1, 101)
    )
    assert small < ballast.nbytes / 4
    assert 95 * MB < large - small < 105 * MB


def test_peak_memory_of_a_function_is_its_own() -> None:
    ballast = np.ones(40 * MB)
    small, large = (peak_memory(functools.partial(np.ones, size * MB)) for size in (1, 14))
    assert small < ballast.nbytes / 4
    assert 99 * MB < large - small < 109 * MB  # 13 * 8


def test_what_the_work_prints_does_not_matter(capfd: pytest.CaptureFixture[str]) -> None:
    assert peak_memory(functools.partial(print, "hello")) > MB
    assert peak_memory(["echo", "12"]) > MB
    assert "12" not in capfd.readouterr().out


def test_work_that_fails_is_an_error_with_its_reason() -> None:
    with pytest.raises(BurnishError, match=r"exit 3\): no error output"):
        peak_memory([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(BurnishError, match="ValueError: could not convert"):
        peak_memory(functools.partial(float, "x"))
    with pytest.raises(BurnishError, match="FileNotFoundError"):
        peak_memory(["no-such-command-anywhere"])


def test_memory_of_a_model_grows_with_its_weights(tmp_path: Path) -> None:
    added = []
    for rows in (1000, 30_000):
        model = parse(f"g (float[n,256] x, float[{rows},256] w) => (float[m,256] y) "
                      "{ y = Concat<axis=0>(x, w) }")  # fmt: skip
        value = model.graph.inputs.pop()
        value.const_value = ir.tensor(np.ones((rows, 256), np.float32), name="w")
        model.graph.register_initializer(value)
        path = tmp_path / f"{rows}.onnx"
        save(model, path)
        added.append(inference_memory(path, dims={"n": 2}).added)
    assert added[1] - added[0] > 29_000 * 1024  # the weight and its copy in the output
    with pytest.raises(BurnishError, match=r"none\.onnx: no such file"):
        inference_memory(tmp_path / "none.onnx")


def test_typical_sizes_are_those_of_images_and_texts() -> None:
    image = TensorSpec("image", ir.DataType.FLOAT, ("N", 3, "H", 48))
    text = TensorSpec("ids", ir.DataType.INT64, ("N", "S"))
    assert symbol_sizes([image, text], {}, typical=True) == {"N": BATCH, "H": PIXELS, "S": TOKENS}
    assert symbol_sizes([image, text], {"S": 7}) == {"N": BATCH, "H": EXTENT, "S": 7}
