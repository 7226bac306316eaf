# SPDX-License-Identifier: Apache-2.0
"""Pruning with calibration data: Wanda, SparseGPT, recovery, schedules and measured ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends import onnxruntime
from burnish.errors import InputError
from burnish.passes.calibration import CalibrationSource
from burnish.passes.context import PassContext
from burnish.passes.prune.pattern import conforms
from burnish.testing import refusals, rewrites, run_pass

Array = np.ndarray[Any, np.dtype[Any]]
Weighted = Callable[..., ir.Model]

# Relu gives means far from zero, and the first layer correlated channels.
NETWORK = """g (float[N,32] x, float[32,48] w1, float[48] w2, float[48,64] w3, float[16,64] w4,
                float[16] w5) => (float[N,16] y) {
    a = MatMul(x, w1)  b = Add(a, w2)  c = Relu(b)
    d = MatMul(c, w3)  e = Relu(d)
    y = Gemm <transB = 1> (e, w4, w5)
}"""
CONVOLUTIONS = """g (float[1,8,10,10] x, float[16,8,3,3] w1, float[16] w2, float[16,4,3,3] w3)
                  => (float[1,16,10,10] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, w2)  b = Relu(a)
    y = Conv <pads = [1, 1, 1, 1], group = 4> (b, w3)
}"""


def samples(model: ir.Model, count: int = 24, rows: int = 40, seed: int = 3) -> CalibrationSource:
    def give() -> Iterator[dict[str, Array]]:
        rng = np.random.default_rng(seed)
        shape = [rows if not isinstance(d, int) else d for d in model.graph.inputs[0].shape or ()]
        mix = np.random.default_rng(7).standard_normal((shape[-1], shape[-1]))
        for _ in range(count):
            array = rng.standard_normal(shape) @ mix
            array[..., ::3] *= 5
            yield {"x": array.astype(np.float32)}

    return CalibrationSource.from_iterable(give, model.graph.inputs)


def pruned(text: str, model: ir.Model) -> PassContext:
    return run_pass(text, model, calibration=samples(model))


def array_of(model: ir.Model, name: str) -> Array:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def error(model: ir.Model, original: ir.Model) -> float:
    """Relative RMS error on samples of another seed."""
    difference = size = 0.0
    with onnxruntime.session(model) as one, onnxruntime.session(original) as other:
        for feeds in samples(original, count=8, seed=11):
            wanted, found = other.run(feeds)["y"], one.run(feeds)["y"]
            difference += float(np.square(wanted - found, dtype=np.float64).sum())
            size += float(np.square(wanted, dtype=np.float64).sum())
    return float(np.sqrt(difference / size))


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt", "random"])
@pytest.mark.parametrize("recover", ["true", "false"])
@pytest.mark.parametrize("text", [NETWORK, CONVOLUTIONS])
def test_every_criterion_zeroes_the_share(
    weighted: Weighted, criterion: str, recover: str, text: str
) -> None:
    model = weighted(text)
    ctx = pruned(f"prune{{criterion={criterion} recover={recover} sparsity=0.5}}", model)
    details = ctx.reports[0].details
    assert len(details["weights"]) == (3 if text == NETWORK else 2)
    for each in details["weights"]:
        array = array_of(model, each["name"])
        assert each["zeros"] == (array == 0).sum() == array.size // 2
    assert details["sparsity"] == 0.5
    assert rewrites(ctx) == {f"prune-{criterion}": len(details["weights"])}


@pytest.mark.parametrize("text", [NETWORK, CONVOLUTIONS])
def test_what_looks_at_activations_loses_less_and_recovery_less_again(
    weighted: Weighted, text: str
) -> None:
    original = weighted(text)
    errors = {}
    for criterion in ("random", "magnitude", "wanda", "sparsegpt"):
        for recover in ("false", "true"):
            model = original.clone()
            pruned(f"prune{{criterion={criterion} recover={recover}}}", model)
            errors[criterion, recover] = error(model, original)
    for criterion in ("random", "magnitude", "wanda", "sparsegpt"):
        assert errors[criterion, "true"] < errors[criterion, "false"]
    assert errors["random", "false"] > errors["magnitude", "false"] > errors["sparsegpt", "false"]
    share = 0.7 if text == NETWORK else 0.95
    assert errors["sparsegpt", "true"] < share * errors["magnitude", "false"]


def test_wanda_takes_the_least_of_each_output(weighted: Weighted) -> None:
    """By its definition: |W| ||x||, compared within each output, over three quarters of samples."""
    from burnish.passes.reconstruct.observe import is_held_out

    model = weighted(NETWORK)
    before = array_of(model, "w1")
    pruned("prune{criterion=wanda recover=false sparsity=0.25}", model)
    fed = [feeds["x"] for n, feeds in enumerate(samples(model)) if not is_held_out(n)]
    norms = np.linalg.norm(np.concatenate(fed).astype(np.float64), axis=0)
    scores = np.abs(before.T) * norms
    gone = np.zeros(scores.shape, bool)
    np.put_along_axis(gone, np.argsort(scores, axis=1, kind="stable")[:, :8], True, axis=1)
    np.testing.assert_array_equal(array_of(model, "w1"), np.where(gone.T, 0, before))


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt", "random"])
@pytest.mark.parametrize(("kept", "of"), [(2, 4), (1, 4), (4, 8)])
def test_patterns_hold_along_what_is_summed_over(
    weighted: Weighted, criterion: str, kept: int, of: int
) -> None:
    text = f"prune{{criterion={criterion} pattern={kept}:{of}}}"
    model = weighted(NETWORK)
    pruned(text, model)
    for name, axis in (("w1", 0), ("w3", 0), ("w4", 1)):
        array = np.moveaxis(array_of(model, name), axis, -1)
        assert conforms(array, kept, of) == 1.0
        assert (array == 0).mean() == 1 - kept / of
    model = weighted(CONVOLUTIONS)
    ctx = pruned(text, model)
    array = np.moveaxis(array_of(model, "w1"), 1, -1)  # [K, C, R, S]: along C
    assert conforms(array, kept, of) == 1.0
    if of == 8:  # a group has four channels
        assert refusals(ctx)[f"prune-{criterion}"]["its inputs are no multiple of 8"] == 1
    else:
        assert conforms(np.moveaxis(array_of(model, "w3"), 1, -1), kept, of) == 1.0


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt", "random"])
def test_blocks(weighted: Weighted, criterion: str) -> None:
    model = weighted(NETWORK)
    pruned(f"prune{{criterion={criterion} pattern=block:4x2 sparsity=0.75}}", model)
    for name, matrix in (("w1", array_of(model, "w1").T), ("w4", array_of(model, "w4"))):
        outputs, inputs = matrix.shape
        tiles = (matrix == 0).reshape(outputs // 4, 4, inputs // 2, 2)
        assert np.array_equal(tiles.all(axis=(1, 3)), tiles.any(axis=(1, 3))), name
        assert (matrix == 0).mean() == 0.75


def test_weights_behind_views_are_fitted_in_place(weighted: Weighted) -> None:
    text = """g (float[N,32] x, float[48,32] w1, float[48,16] w3) => (float[N,16] y) {
        t = Transpose <perm = [1, 0]> (w1)  i = Identity(t)  a = MatMul(x, i)  b = Relu(a)
        c = Constant <value_float = 1.0> ()  d = Mul(b, c)
        y = Gemm <alpha = 0.5> (d, w3)
    }"""
    original = weighted(text)
    model = original.clone()
    ctx = pruned("prune{criterion=sparsegpt pattern=2:4}", model)
    assert conforms(array_of(model, "w1"), 2, 4) == 1.0
    assert conforms(array_of(model, "w3").T, 2, 4) == 1.0
    recovery = ctx.reports[0].details["recovery"]["total"]
    assert recovery["changed"] == 2
    plain = original.clone()
    run_pass("prune{pattern=2:4}", plain)
    assert error(model, original) < error(plain, original)


def test_shared_weights_are_fitted_to_all_that_use_them(weighted: Weighted) -> None:
    text = """g (float[N,32] x, float[32,32] w1) => (float[N,32] y) {
        a = MatMul(x, w1)  b = Relu(a)  y = MatMul(b, w1) }"""
    model = weighted(text)
    ctx = pruned("prune{criterion=sparsegpt}", model)
    assert rewrites(ctx) == {"prune-sparsegpt": 1}
    assert (array_of(model, "w1") == 0).mean() == 0.5


def test_weights_used_in_two_directions_have_no_pattern(weighted: Weighted) -> None:
    text = """g (float[N,32] x, float[32,32] w1) => (float[N,32] y) {
        a = MatMul(x, w1)  y = Gemm <transB = 1> (a, w1) }"""
    reason = {"shared by operators that sum over different axes": 1}
    for options in ("pattern=2:4", "criterion=wanda"):
        ctx = pruned(f"prune{{{options}}}", weighted(text))
        (found,) = refusals(ctx).values()
        assert found == reason
    ctx = pruned("prune{sparsity=0.5}", weighted(text))
    assert rewrites(ctx) == {"prune-magnitude": 1}


def test_what_cannot_be_observed_is_left_alone_by_what_needs_that(weighted: Weighted) -> None:
    text = """g (float[N,32] x, float16[32,32] w1) => (float[N,32] y) {
        a = Cast <to = 10> (x)  b = MatMul(a, w1)  y = Cast <to = 1> (b) }"""

    def model() -> ir.Model:
        made = weighted(text)
        value = made.graph.initializers["w1"]
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name="w1")
        value.dtype = ir.DataType.FLOAT16
        return made

    ctx = pruned("prune{criterion=wanda}", model())
    assert refusals(ctx) == {"prune-wanda": {"its weights are float16, not float32": 1}}
    assert any("nothing to prune" in line for line in ctx.warnings)
    assert rewrites(pruned("prune{pattern=2:4}", model())) == {"prune-magnitude": 1}


def test_held_back_weights_stay_as_they_are(weighted: Weighted) -> None:
    model = weighted(NETWORK)
    before = array_of(model, "w3")
    ctx = run_pass("prune{criterion=sparsegpt}", model, calibration=samples(model), limit=1)
    np.testing.assert_array_equal(array_of(model, "w3"), before)
    assert [each["zeros"] > 0 for each in ctx.reports[0].details["weights"]] == [True, False, False]


def test_steps_end_where_one_step_does_and_biases_move_once(weighted: Weighted) -> None:
    original = weighted(NETWORK)
    errors = {}
    for steps in (1, 3):
        model = original.clone()
        ctx = pruned(f"prune{{steps={steps} sparsity=0.6}}", model)
        assert all(abs(e["sparsity"] - 0.6) < 1e-3 for e in ctx.reports[0].details["weights"])
        assert rewrites(ctx) == {"prune-magnitude": 3 * steps}
        errors[steps] = error(model, original)
    # Layers are fed alike in each step, so that a bias moved twice would show.
    assert errors[3] < 1.1 * errors[1]


def test_steps_of_a_pattern_end_in_it(weighted: Weighted) -> None:
    model = weighted(NETWORK)
    pruned("prune{steps=2 pattern=1:4}", model)
    assert conforms(array_of(model, "w1").T, 1, 4) == 1.0


def test_ratios_follow_what_is_measured(weighted: Weighted) -> None:
    """A layer whose output hardly matters is pruned more."""
    text = """g (float[N,32] x, float[32,32] w1, float[32,32] w2, float[1] w3) => (float[N,32] y) {
        a = MatMul(x, w1)  b = MatMul(x, w2)  c = Mul(b, w3)  y = Add(a, c) }"""
    model = weighted(text)
    model.graph.initializers["w3"].const_value = ir.tensor(np.array([0.01], np.float32), name="w3")
    uniform = model.clone()
    original = model.clone()
    ctx = pruned("prune{scope=sensitivity recover=false}", model)
    details = ctx.reports[0].details
    first, second = details["weights"]
    assert second["sparsity"] > 0.9 > 0.2 > first["sparsity"]
    assert details["sparsity"] == pytest.approx(0.5, abs=1e-3)
    costs = details["sensitivity"]["w1"]
    assert list(costs) == ["0.25", "0.5", "0.7", "0.85", "1"]
    assert list(costs.values()) == sorted(costs.values())
    pruned("prune{recover=false}", uniform)
    assert error(model, original) < 0.5 * error(uniform, original)


def test_the_same_bytes_twice(weighted: Weighted) -> None:
    def made() -> bytes:
        model = weighted(NETWORK)
        pruned("prune{scope=sensitivity criterion=sparsegpt}", model)
        data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
        return data

    assert made() == made()


def test_random_depends_on_the_seed_alone(weighted: Weighted) -> None:
    from burnish.backends.target import Target
    from burnish.passes.prune import Prune

    found = []
    for seed in (0, 0, 1):
        model = weighted(NETWORK)
        Prune(criterion="random").run(model, PassContext(Target.parse("cpu"), seed=seed))
        found.append(array_of(model, "w1"))
    np.testing.assert_array_equal(found[0], found[1])
    assert ((found[0] == 0) != (found[2] == 0)).any()


def test_half_the_bytes_are_said_honestly(weighted: Weighted) -> None:
    sizes = pruned("prune{sparsity=0.5}", weighted(NETWORK)).reports[0].details["bytes"]
    elements = 32 * 48 + 48 * 64 + 16 * 64
    assert sizes["dense"] == 4 * elements
    assert sizes["sparse"] == sizes["dense"]  # twelve bytes an element: no gain yet
    assert sizes["bitmask"] == elements // 8 + 2 * elements
    sizes = pruned("prune{sparsity=0.75}", weighted(NETWORK)).reports[0].details["bytes"]
    assert sizes["sparse"] == 3 * elements


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune{criterion=wanda}", "prune{criterion=wanda} needs calibration data"),
        ("prune{criterion=sparsegpt}", "prune{criterion=sparsegpt} needs calibration data"),
        ("prune{scope=sensitivity}", "prune{scope=sensitivity} needs calibration data"),
        ("prune{steps=2}", "prune{steps=2} needs calibration data"),
    ],
)
def test_says_what_needs_calibration_data(weighted: Weighted, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        run_pass(text, weighted(NETWORK))
    assert str(caught.value) == f"{message}; give sample inputs with --calib"
