# SPDX-License-Identifier: Apache-2.0
"""Activations written out in small operators become one operator, where the target has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.passes.fuse.activation.gelu import gelu, gelu_tanh
from burnish.passes.fuse.activation.hard_sigmoid import (
    clip,
    hard_sigmoid,
    hard_sigmoid_gate,
    hard_swish,
)
from burnish.passes.fuse.activation.prelu import prelu, prelu_to_leaky_relu
from burnish.passes.fuse.activation.silu import mish, quick_gelu, silu
from burnish.passes.rule import Rule, RulePass


@dataclass(frozen=True)
class FuseActivation(RulePass):
    """Fuse Gelu, SiLU, HardSigmoid, HardSwish, Mish, PRelu and Clip where they are spelled out."""

    name: ClassVar[str] = "fuse-activation"
    rules: ClassVar[tuple[Rule, ...]] = (
        clip,
        hard_sigmoid_gate,
        hard_sigmoid,
        hard_swish,
        gelu,
        gelu_tanh,
        silu,
        quick_gelu,
        mish,
        prelu,
        prelu_to_leaky_relu,
    )
