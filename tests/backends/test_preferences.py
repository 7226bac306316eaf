# SPDX-License-Identifier: Apache-2.0
"""The table of which fused operators pay."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from burnish.backends.preferences import PREFERENCES, Preference, find
from burnish.backends.target import Target

TABLE = (
    Preference("Attention", True, 1.1, frozenset({"FLOAT"})),
    Preference("Attention", False, 0.5),
)


def test_the_first_entry_that_covers_an_operator_counts() -> None:
    assert find(TABLE, "Attention", "FLOAT") is TABLE[0]
    assert find(TABLE, "Attention", "FLOAT16") is TABLE[1]
    assert find(TABLE, "Attention", None) is TABLE[1]
    assert find(TABLE, "RotaryEmbedding", "FLOAT") is None


def test_a_target_says_why_it_objects() -> None:
    target = dataclasses.replace(Target.parse("cpu"), preferences=TABLE)
    assert target.objection_to("Attention", ir.DataType.FLOAT) is None
    assert target.objection_to("RotaryEmbedding", ir.DataType.FLOAT) is None
    reason = "target cpu runs it no faster fused (0.50x)"
    assert target.objection_to("Attention", ir.DataType.FLOAT16) == reason


def test_what_is_preferred_was_measured_to_be_faster() -> None:
    for name, entries in PREFERENCES.items():
        for entry in entries:
            measured = entry.ratio is not None and entry.ratio > 1
            assert entry.prefer == measured or (name == "tensorrt" and not entry.prefer)
