# SPDX-License-Identifier: Apache-2.0
"""The classifier of orientation tells upright lines from turned ones."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.backends import onnxruntime
from burnish.tools import zoo
from burnish.tools.zoo.metric import Arrays


@pytest.mark.zoo
def test_every_other_line_is_turned() -> None:
    first, second = zoo.feeds("ppocrv2-cls", 2, 0)
    assert first["x"].shape == second["x"].shape == (1, 3, 48, 192)
    assert np.abs(first["x"]).max() <= 1.0


@pytest.mark.zoo
def test_the_model_finds_most_orientations_and_a_constant_half_of_them() -> None:
    accuracy = zoo.metric("ppocrv2-cls")
    with onnxruntime.session(zoo.fetch("ppocrv2-cls"), optimize="all") as session:
        assert 0.82 <= accuracy.evaluate(session.run, limit=100) <= 0.98  # measured 0.91

    def upright(feeds: Arrays) -> Arrays:
        return {"scores": np.array([[1.0, 0.0]], np.float32)}

    assert accuracy.evaluate(upright, limit=10) == 0.5
