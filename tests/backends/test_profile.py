# SPDX-License-Identifier: Apache-2.0
"""Where the time of a run goes."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.backends.profile import NodeTime, by_operator, profile
from burnish.backends.settings import SessionSettings
from burnish.testing import parse


def test_nodes_and_operators() -> None:
    model = parse(
        "g (float[64,64] x) => (float[64,64] y) "
        "{ a = MatMul(x, x)  b = MatMul(a, x)  c = Relu(b)  y = Tanh(c) }"
    )
    for number, node in enumerate(model.graph):
        node.name = f"n{number}"
    settings = SessionSettings(optimize="off")
    nodes = profile(model, {"x": np.ones((64, 64), np.float32)}, settings=settings, runs=5)
    assert [(node.name, node.op_type) for node in nodes] == [
        ("n0", "MatMul"),
        ("n1", "MatMul"),
        ("n2", "Relu"),
        ("n3", "Tanh"),
    ]
    assert all(node.seconds > 0 and node.provider == "CPUExecutionProvider" for node in nodes)


def test_a_sum_by_operator() -> None:
    nodes = [NodeTime("a", "Relu", "", 1.0), NodeTime("b", "Conv", "", 2.0)]
    rows = by_operator([*nodes, NodeTime("c", "Relu", "", 5.0)])
    assert [(row.op_type, row.nodes, row.seconds) for row in rows] == [
        ("Relu", 2, 6.0),
        ("Conv", 1, 2.0),
    ]
    assert sum(row.share for row in rows) == pytest.approx(1.0)
