# SPDX-License-Identifier: Apache-2.0
"""The models that come quantized, against themselves."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.backends import onnxruntime
from burnish.tools import zoo
from burnish.tools.zoo.metric import Arrays

pytestmark = pytest.mark.zoo


@pytest.mark.parametrize(
    "name", ["quantized-distilbert", "quantized-t5-encoder", "quantized-t5-decoder"]
)
def test_likeness_is_full_with_itself_and_low_with_another(name: str) -> None:
    metric = zoo.metric(name)
    with onnxruntime.session(zoo.fetch(name)) as model:
        assert metric.evaluate(model.run, limit=5) == pytest.approx(1.0, abs=1e-6)
        rng = np.random.default_rng(0)

        def random(feeds: Arrays) -> Arrays:
            return {
                k: np.asarray(rng.standard_normal(v.shape)) for k, v in model.run(feeds).items()
            }

        assert metric.evaluate(random, limit=5) < 0.1
        (feed,) = zoo.feeds(name, 1)
        model.run(feed)
