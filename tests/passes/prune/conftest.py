# SPDX-License-Identifier: Apache-2.0
"""Models with random weights, and the proof that shrinking equals masking."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import pytest

from burnish.backends import numeric, onnxruntime
from burnish.backends.feeds import random_feeds
from burnish.passes.prune.coupling import couplings_of
from burnish.passes.prune.cut import Cut
from burnish.passes.prune.units import Units
from burnish.passes.shapes import infer_shapes
from burnish.passes.verify import verify
from burnish.testing import parse


def _weighted(text: str, seed: int = 0) -> ir.Model:
    """Read a model; its inputs whose names start with `w` become initializers of random numbers."""
    model, rng = parse(text), np.random.default_rng(seed)
    for value in [*model.graph.inputs]:
        assert value.name is not None
        if value.name.startswith("w"):
            assert value.shape is not None
            shape = value.shape.numpy()
            array = rng.standard_normal(shape).astype(np.float32) / max(1, shape[-1]) ** 0.5
            array = np.abs(array) + 0.5 if value.name.startswith("w_positive") else array
            model.graph.inputs.remove(value)
            value.const_value = ir.tensor(array, name=value.name)
            model.graph.register_initializer(value)
    return model


def _units(model: ir.Model) -> Units:
    infer_shapes(model)
    return Units(couplings_of(model))


def _proof(
    model: ir.Model,
    *,
    share: float = 0.4,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
) -> int:
    """Assert that the shrunk model computes what the masked one does; returns units removed."""
    rng = np.random.default_rng(seed)
    variants: list[ir.Model] = []
    removed = np.zeros(0, np.int64)
    for how in ("apply", "mask"):
        variant = model.clone()
        units = _units(variant)
        if how == "apply":
            chosen = [
                rng.permutation(group.units)[: max(1, int(share * len(group.units)))]
                for group in units.groups
                if len(group.units) > 1
            ]
            removed = np.concatenate([removed, *chosen])
        getattr(Cut(units, removed), how)(variant)
        assert verify(variant) == []
        variants.append(variant)
    shrunk, masked = variants
    if removed.size:
        assert _parameters(shrunk) < _parameters(masked)
    with onnxruntime.session(shrunk) as small, onnxruntime.session(masked) as large:
        feeds = random_feeds(small, seed, dims)
        difference = numeric.compare_outputs(large.run(feeds), small.run(feeds))
    assert difference.ok, str(difference)
    return int(removed.size)


def _parameters(model: ir.Model) -> int:
    return sum(
        value.const_value.size
        for value in model.graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT
    )


@pytest.fixture
def weighted() -> Callable[..., ir.Model]:
    return _weighted


@pytest.fixture
def units_of() -> Callable[[ir.Model], Units]:
    return _units


@pytest.fixture
def proof() -> Callable[..., int]:
    return _proof
