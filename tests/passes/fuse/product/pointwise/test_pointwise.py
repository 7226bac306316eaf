# SPDX-License-Identifier: Apache-2.0
"""The group runs last, once, and keeps the numbers of any chain.

Numbers are compared with the runtime's own optimizations off, within `numeric.TOLERANCES`: relative
1e-4 for float32.
"""

from __future__ import annotations

import random

import pytest

from burnish.passes.fuse.product.pointwise.pointwise import Pointwise
from burnish.passes.pipeline import Pipeline
from burnish.testing import rewritten, run_pass
from tests.passes.fuse.product.pointwise.conftest import CONSTANTS, EAGER, MLP, Freeze, counts


def test_once_is_enough(freeze: Freeze) -> None:
    model = freeze(f"g (float[B,S,8] x, {CONSTANTS}) => (float[B,S,8] y) {{ {MLP} }}", opset=21)
    run_pass(Pointwise(), model, target=EAGER)
    once = [node.op_type for node in model.graph]
    run_pass(Pointwise(), model, target=EAGER)
    assert [node.op_type for node in model.graph] == once


def test_waits_for_passes_that_change_weights() -> None:
    names = [item.name for item in Pipeline.parse("fuse,prune,quant").expand().passes]
    assert names.index("products-to-convs") > names.index("quant-tables")
    assert names.count("products-to-convs") == 1
    alone = [item.name for item in Pipeline.parse("fuse,cleanup").expand().passes]
    assert "dedup" in alone[alone.index("products-to-convs") :]


@pytest.mark.parametrize("seed", range(40))
def test_random_chains_keep_their_numbers(freeze: Freeze, seed: int) -> None:
    """Products, biases, functions, gates and sums that others read, in any order."""
    rng = random.Random(seed)
    rank = rng.choice(["float[B,S,8]", "float[2,3,5,8]", "float[1,8]"])
    lines, made = list[str](), [("x", 8)]
    for index in range(rng.randint(3, 9)):
        (value, width), name = rng.choice(made[-2:]), f"t{index}"
        peers = [other for other, size in made if size == width]
        kinds = ["product", "product", "function", "bias", "join"]
        match rng.choice(kinds):
            case "product":
                lines.append(f"{name} = MatMul({value}, {'w' if width == 8 else 'u'})")
                width = 20 - width
            case "function":
                lines.append(f"{name} = {rng.choice(['Relu', 'Gelu', 'Tanh', 'Erf'])}({value})")
            case "bias":
                lines.append(f"{name} = Add({value}, {'b' if width == 12 else 'd'})")
            case "join":
                join = rng.choice(["Mul", "Add"])
                lines.append(f"{name} = {join}({value}, {rng.choice(peers)})")
        made.append((name, width))
    shape = rank.replace("8]", "N]")
    outputs = f"{shape} {made[-1][0]}, {shape} {rng.choice(made[1:-1])[0]}"
    weights = "float[8,12] w, float[12,8] u, float[12] b, float[8] d"
    before = freeze(f"g ({rank} x, {weights}) => ({outputs}) {{ {'  '.join(lines)} }}", opset=21)
    after = rewritten(Pointwise(), before, target=EAGER)
    assert counts(after)["MatMul"] == 0
