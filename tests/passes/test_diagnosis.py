# SPDX-License-Identifier: Apache-2.0
"""An internal error is bad input where the model is, and only there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import burnish
from burnish.errors import BudgetError, InputError
from burnish.passes.diagnosis import blaming_input, fault
from burnish.testing import parse

GOOD = "g (float[2,3] x) => (float[3,2] y) { y = Transpose <perm = [1, 0]> (x) }"
BAD = "g (float[2,3] x) => (float[3,2] y) { t = Transpose <perm = [0, 0]> (x)  y = Relu(t) }"


@contextmanager
def blamed(text: str) -> Iterator[None]:
    with blaming_input(lambda: parse(text)):
        yield


def test_only_a_malformed_model_is_blamed() -> None:
    with pytest.raises(InputError, match=r"the model is malformed: .*perm"), blamed(BAD):
        raise StopIteration
    with pytest.raises(StopIteration), blamed(GOOD):
        raise StopIteration


def test_an_error_for_users_stays_what_it_is() -> None:
    with pytest.raises(BudgetError), blamed(BAD):
        raise BudgetError("missed")


def test_a_model_that_cannot_be_loaded_again_hides_nothing() -> None:
    with pytest.raises(StopIteration), blaming_input(lambda: parse("")):
        raise StopIteration


def test_faults() -> None:
    assert fault(parse(GOOD)) is None
    malformed = parse("g (float[2,3] x) => (float[2,3] y) { y = Frobnicate(x) }")
    assert "has no such operator" in (fault(malformed) or "")


def test_large_weights_cut_short_are_bad_input(tmp_path: Path) -> None:
    """Their size is not looked at beforehand."""
    model = ir.to_proto(
        parse("g (float[2,1024] x) => (float[2,512] y) <float[1024,512] w> { y = MatMul(x, w) }")
    )
    weights = np.ones((1024, 512), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    model.graph.initializer[-1].raw_data = weights.tobytes()[:-4]
    with pytest.raises(InputError, match="'w' holds 2097148 bytes"):
        burnish.optimize(model, "fuse,quant", output=tmp_path / "o.onnx", measure=False)
    assert not list(tmp_path.iterdir())


def test_a_transposition_without_sense_is_bad_input() -> None:
    with pytest.raises(InputError, match="the model is malformed"):
        burnish.optimize(parse(BAD), "fuse", verify="off")
