# SPDX-License-Identifier: Apache-2.0
"""Helpers to test passes and rules with: before and after side by side, and the same numbers.

before = parse("g (float[N,4] x, float[4,3] w, float[3] b) => (float[N,3] y) "
               "{ t = MatMul(x, w)  y = Add(t, b) }")
after = parse("g (float[N,4] x, float[4,3] w, float[3] b) => (float[N,3] y) "
              "{ y = Gemm(x, w, b) }")
assert_rewrites(matmul_add_to_gemm, before, after)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from burnish.backends.target import Target
from burnish.passes.base import Pass
from burnish.passes.constant import as_array
from burnish.passes.context import PassContext
from burnish.passes.instrument import BisectLimit, Disable
from burnish.passes.pipeline import Pipeline
from burnish.passes.rule import Rule, pass_of
from burnish.passes.verify import verify

if TYPE_CHECKING:
    from burnish.passes.calibration import CalibrationSource


def parse(text: str, opset: int = 21, /, **weights: np.ndarray) -> ir.Model:
    """Read ONNX's text form.

    Args:
        text: The model; a header with IR version 10 is added if there is none.
        opset: Version of the default operator set in that header.
        weights: Arrays of initializers, by name. The text uses the names, in subgraphs too, and
            need not declare them; what it declares among the inputs is one no longer.
    """
    if not text.lstrip().startswith("<"):
        text = f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}'
    proto = onnx.parser.parse_model(text)
    inputs = [value for value in proto.graph.input if value.name not in weights]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    for name, array in weights.items():
        proto.graph.initializer.append(ir.to_proto(ir.tensor(array, name=name)))
    return ir.from_proto(proto)


def run_pass(
    what: str | Pass | Rule | Pipeline,
    model: ir.Model,
    *,
    target: Target | None = None,
    calibration: CalibrationSource | None = None,
    disable: tuple[str, ...] = (),
    limit: int | None = None,
) -> PassContext:
    """Run a pass, a rule or pipeline text on `model`, in place, verifying it after each pass.

    Returns:
        The context, whose `reports` and `warnings` say what happened.
    """
    instruments = [Disable(disable)] if disable else []
    ctx = PassContext(
        target or Target.parse("cpu"),
        calibration,
        instruments=[*instruments, *([] if limit is None else [BisectLimit(limit)])],
    )
    pipeline = Pipeline.of(pass_of(what.name, what)() if isinstance(what, Rule) else what)
    for item in pipeline.expand().passes:
        result = item.run(model, ctx)
        if result.model is not model:
            raise AssertionError(f"{item} returned a new model; use item.run(model, ctx) itself")
        problems = verify(model)
        assert not problems, f"after {item}: " + "; ".join(problems)
    return ctx


def rewrites(ctx: PassContext) -> dict[str, int]:
    """Return rule name -> number of rewrites done, over all passes of a context."""
    counts: dict[str, int] = {}
    pending = list(ctx.reports)
    while pending:
        report = pending.pop()
        pending += report.members
        for name, entry in report.rules.items():
            if entry.rewrites:
                counts[name] = counts.get(name, 0) + entry.rewrites
    return counts


def refusals(ctx: PassContext) -> dict[str, dict[str, int]]:
    """Return rule name -> reason -> count, over all passes of a context."""
    found: dict[str, dict[str, int]] = {}
    pending = list(ctx.reports)
    while pending:
        report = pending.pop()
        pending += report.members
        for name, entry in report.rules.items():
            for reason, count in entry.refusals.items():
                reasons = found.setdefault(name, {})
                reasons[reason] = reasons.get(reason, 0) + count
    return found


def assert_rewrites(
    what: str | Pass | Rule,
    before: ir.Model,
    after: ir.Model,
    *,
    target: Target | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Assert that a rule or pass turns `before` into `after`, and that both compute the same.

    Structure is compared up to names and order; numbers with the runtime's own optimizations off.
    """
    original = before.clone()
    run_pass(what, before, target=target)
    difference = structural_difference(before, after)
    assert difference is None, f"{difference}\ngot:\n{ir.to_onnx_text(before)}"
    assert_same_outputs(original, before, feeds=feeds)


def assert_becomes(
    what: str | Pass | Rule,
    model: ir.Model,
    operators: Sequence[str],
    *,
    target: Target | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Assert that a rule or pass leaves these operators in the main graph, and the same outputs.

    Args:
        what: The rule or pass; edits `model`.
        model: The model.
        operators: The operators that are left, in the order of the graph.
        target: What the pass is told to optimize for.
        feeds: Inputs to compare the outputs on; random ones by default.
    """
    original = model.clone()
    run_pass(what, model, target=target)
    found = [node.op_type for node in model.graph]
    assert found == list(operators), f"{found}\ngot:\n{ir.to_onnx_text(model)}"
    assert_same_outputs(original, model, feeds=feeds)


def rewritten(
    what: str | Pass | Rule, model: ir.Model, *, target: Target | None = None
) -> ir.Model:
    """Return what a rule or pass makes of a model, having compared the outputs of both.

    The model itself stays as it is.
    """
    after = model.clone()
    run_pass(what, after, target=target)
    assert_same_outputs(model, after)
    return after


def assert_refuses(
    what: str | Pass | Rule, before: ir.Model, reason: str, *, target: Target | None = None
) -> None:
    """Assert that a rule or pass leaves `before` as it is and gives `reason` (part of it)."""
    original = before.clone()
    ctx = run_pass(what, before, target=target)
    difference = structural_difference(original, before)
    assert difference is None, f"the model changed: {difference}"
    reasons = [text for entry in refusals(ctx).values() for text in entry]
    assert any(reason in text for text in reasons), f"{reason!r} is not among {reasons}"


def assert_same_outputs(
    before: ir.Model, after: ir.Model, *, feeds: Mapping[str, np.ndarray] | None = None
) -> None:
    """Assert that two models give the same outputs, within the tolerance of each dtype."""
    from burnish.backends import numeric, onnxruntime
    from burnish.backends.feeds import random_feeds

    with onnxruntime.session(before) as old, onnxruntime.session(after) as new:
        given = dict(feeds) if feeds is not None else random_feeds(old, seed=0)
        difference = numeric.compare_outputs(old.run(given), new.run(given))
    assert difference.ok, str(difference)


def structural_difference(left: ir.Model, right: ir.Model) -> str | None:
    """Return the first difference between two models, up to names and order of nodes, or None."""
    return _graph_difference(left.graph, right.graph, {})


_Pairs = dict[ir.Value, ir.Value]


def _graph_difference(left: ir.Graph, right: ir.Graph, pairs: _Pairs) -> str | None:
    for kind, ours, theirs in (
        ("inputs", left.inputs, right.inputs),
        ("outputs", left.outputs, right.outputs),
    ):
        if len(ours) != len(theirs):
            return f"{len(ours)} {kind}, not {len(theirs)}"
    if len(left) != len(right):
        return f"{[n.op_type for n in left]} is not {[n.op_type for n in right]}"
    pairs.update(zip(left.inputs, right.inputs, strict=True))
    pending = list(zip(left.outputs, right.outputs, strict=True))
    while pending:
        value, other = pending.pop()
        if pairs.get(value) is other:
            continue
        if value in pairs:
            return f"{value.name} stands for both {pairs[value].name} and {other.name}"
        pairs[value] = other
        difference = _value_difference(value, other, pairs, pending)
        if difference is not None:
            return difference
    return None


def _value_difference(
    ours: ir.Value, theirs: ir.Value, pairs: _Pairs, pending: list[tuple[ir.Value, ir.Value]]
) -> str | None:
    mine, other = ours.producer(), theirs.producer()
    if mine is None or other is None or mine.op_type == "Constant":
        left, right = as_array(ours), as_array(theirs)
        if left is None or right is None:
            return f"{ours.name} is not {theirs.name}"
        same = left.dtype == right.dtype and left.shape == right.shape
        if same and left.dtype.kind in "fc":
            same = np.allclose(left, right, rtol=1e-5, atol=1e-7, equal_nan=True)
        elif same:
            same = bool((left == right).all())
        return None if same else f"constant {ours.name}: {left!r} is not {right!r}"
    if (mine.domain, mine.op_type) != (other.domain, other.op_type):
        return f"{ours.name} is made by {mine.op_type}, not {other.op_type}"
    if ours.index() != theirs.index() or len(mine.inputs) != len(other.inputs):
        return f"{mine.op_type} of {ours.name} has other inputs or outputs"
    for name in sorted(set(mine.attributes) | set(other.attributes)):
        difference = _attribute_difference(
            mine.attributes.get(name), other.attributes.get(name), pairs
        )
        if difference is not None:
            return f"{mine.op_type} of {ours.name}: {name}: {difference}"
    for left_input, right_input in zip(mine.inputs, other.inputs, strict=True):
        if left_input is None or right_input is None:
            if left_input is not right_input:
                return f"{mine.op_type} of {ours.name}: an input is missing on one side"
            continue
        pending.append((left_input, right_input))
    return None


def _attribute_difference(mine: Any, other: Any, pairs: _Pairs) -> str | None:
    if mine is None or other is None:
        return "only on one side"
    if mine.type != other.type:
        return f"{mine.type} is not {other.type}"
    if mine.type == ir.AttributeType.GRAPH:
        return _graph_difference(mine.as_graph(), other.as_graph(), pairs)
    if mine.type == ir.AttributeType.TENSOR:
        same = np.array_equal(mine.as_tensor().numpy(), other.as_tensor().numpy())
    elif mine.type == ir.AttributeType.FLOAT:
        same = bool(np.isclose(mine.value, other.value, rtol=1e-6))
    else:
        same = mine.value == other.value
    return None if same else f"{mine.value} is not {other.value}"
