# SPDX-License-Identifier: Apache-2.0
"""Inputs and outputs that stay where the model runs."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.backends.binding import Binding
from burnish.backends.onnxruntime import session
from burnish.backends.providers import Cuda
from burnish.errors import InputError
from burnish.testing import parse

_MODEL = (
    "g (float[N,4] x, float[4] s) => (float[N,4] y, float[N,4] z) { y = Mul(x, s)  z = Exp(y) }"
)


def feeds(scale: float) -> dict[str, np.ndarray]:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    return {"x": x, "s": np.full(4, scale, np.float32)}


def test_bound_runs_give_what_runs_do_and_inputs_can_be_set_anew() -> None:
    with session(parse(_MODEL)) as model:
        bound = Binding(model, feeds(0.5))
        for scale in (0.5, 0.25):
            bound.update({"s": feeds(scale)["s"]})
            bound.run()
            expected = model.run(feeds(scale))
            for name, array in bound.outputs().items():
                np.testing.assert_array_equal(array, expected[name])
        only = Binding(model, feeds(1.0), ["z"])
        only.run()
        assert list(only.outputs()) == ["z"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"s": None}, "input 's' is missing; inputs: x, s"),
        ({"x": None, "s": None}, "input 's' is missing"),
        ({"t": np.ones(1, np.float32)}, "input 't' is not one"),
    ],
)
def test_feeds_that_do_not_fit(changes: dict[str, np.ndarray | None], message: str) -> None:
    given = {k: v for k, v in {**feeds(1.0), **changes}.items() if v is not None}
    with session(parse(_MODEL)) as model, pytest.raises(InputError, match=message):
        Binding(model, given)


def test_updates_that_do_not_fit() -> None:
    with session(parse(_MODEL)) as model:
        bound = Binding(model, feeds(1.0))
        with pytest.raises(
            InputError, match=r"'s' was bound with shape \[4\]; this is float32 \[5\]"
        ):
            bound.update({"s": np.ones(5, np.float32)})
        with pytest.raises(InputError, match=r"this is float64 \[4\]; bind it anew"):
            bound.update({"s": np.ones(4)})
        with pytest.raises(InputError, match="input 'y' is not bound; bound: x, s"):
            bound.update({"y": np.ones(4)})


def test_a_device_that_is_not_there() -> None:
    with session(parse(_MODEL)) as model, pytest.raises(InputError, match="bound to abacus"):
        Binding(model, feeds(1.0), device="abacus")


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    with session(parse(_MODEL), providers=[Cuda()]) as model:
        bound = Binding(model, feeds(0.5), device="cuda")
        bound.run()
        for name, array in model.run(feeds(0.5)).items():
            np.testing.assert_allclose(bound.outputs()[name], array, rtol=1e-5)
