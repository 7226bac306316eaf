# SPDX-License-Identifier: Apache-2.0
"""An upgraded model computes the same, and loses nothing else either."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.loader
import onnx_ir as ir
import pytest

from burnish.backends import onnxruntime
from burnish.backends.feeds import random_feeds
from burnish.backends.numeric import compare_outputs
from burnish.backends.target import Target
from burnish.errors import BurnishError, InputError
from burnish.frontends import load
from burnish.passes.context import PassContext
from burnish.passes.conversion import CannotUpgrade
from burnish.passes.instrument import Event, Instrument
from burnish.passes.upgrade import AUTO, Upgrade, upgrade
from burnish.testing import parse, run_pass

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


def model(opset: int, text: str) -> ir.Model:
    return load(f'<ir_version: 8, opset_import: ["": {opset}, "f": 1]> {text}').model


def check(opset: int, text: str, to: int = 21) -> ir.Model:
    """Upgrade a model, and compare it with itself bit by bit on random inputs."""
    before, after = model(opset, text), model(opset, text)
    upgrade(after, to)
    assert after.opset_imports[""] == to
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    with onnxruntime.session(before) as old, onnxruntime.session(after) as new:
        feeds = random_feeds(old, seed=0)
        difference = compare_outputs(old.run(feeds), new.run(feeds), rtol=0, atol=0)
    assert difference.ok, difference
    return after


X = "float[2,3,4] x"
IMAGE = "float[1,3,8,8] x"

# Each operator whose form or meaning changed between opset 7 and 21, at opsets before the change.
CASES = {
    "Softmax, default axis": (12, f"g ({X}) => (float[2,3,4] y) {{ y = Softmax(x) }}"),
    "Softmax, first axis": (9, f"g ({X}) => (float[2,3,4] y) {{ y = Softmax<axis=0>(x) }}"),
    "Softmax, last axis": (11, f"g ({X}) => (float[2,3,4] y) {{ y = Softmax<axis=2>(x) }}"),
    "Softmax, negative axis": (11, f"g ({X}) => (float[2,3,4] y) {{ y = Softmax<axis=-2>(x) }}"),
    "Softmax, matrix": (7, "g (float[N,M] x) => (float[N,M] y) { y = Softmax(x) }"),
    "LogSoftmax": (12, f"g ({X}) => (float[2,3,4] y) {{ y = LogSoftmax<axis=1>(x) }}"),
    "Hardmax, last axis": (12, f"g ({X}) => (float[2,3,4] y) {{ y = Hardmax<axis=2>(x) }}"),
    "Softmax, sizes of 1": (9, "g (float[N,3,1,1] x) => (float[N,3,1,1] y) { y = Softmax(x) }"),
    "Softmax, all of 1": (9, "g (float[N,1,1] x) => (float[N,1,1] y) { y = Softmax(x) }"),
    "Hardmax, sizes of 1": (12, "g (float[2,3,1] x) => (float[2,3,1] y) { y = Hardmax(x) }"),
    "Squeeze": (12, "g (float[2,1,3,1] x) => (float[2,3,1] y) { y = Squeeze<axes=[1]>(x) }"),
    "Squeeze, all": (8, "g (float[2,1,3,1] x) => (float[2,3] y) { y = Squeeze(x) }"),
    "Unsqueeze": (11, f"g ({X}) => (float[2,1,3,4,1] y) {{ y = Unsqueeze<axes=[1,4]>(x) }}"),
    "Split": (
        12,
        f"g ({X}) => (float[2,1,4] y, float[2,2,4] z) {{ y, z = Split<axis=1, split=[1,2]>(x) }}",
    ),
    "Split, evenly": (
        12,
        f"g ({X}) => (float[2,3,2] y, float[2,3,2] z) {{ y, z = Split<axis=2>(x) }}",
    ),
    "Split, evenly, 17": (
        17,
        f"g ({X}) => (float[2,3,2] y, float[2,3,2] z) {{ y, z = Split<axis=2>(x) }}",
    ),
    "Slice": (
        9,
        f"""g ({X}) => (float[2,1,2] y)
            {{ y = Slice<axes=[1,2], starts=[-2,1], ends=[2,3]>(x) }}""",
    ),
    "TopK": (
        9,
        f"g ({X}) => (float[2,3,2] y, int64[2,3,2] i) {{ y, i = TopK<k=2, axis=2>(x) }}",
    ),
    "Clip": (10, f"g ({X}) => (float[2,3,4] y) {{ y = Clip<min=0.25, max=0.5>(x) }}"),
    "Clip, below": (7, f"g ({X}) => (float[2,3,4] y) {{ y = Clip<min=0.25>(x) }}"),
    "Clip, above": (7, f"g ({X}) => (float[2,3,4] y) {{ y = Clip<max=0.5>(x) }}"),
    "Clip, nothing": (7, f"g ({X}) => (float[2,3,4] y) {{ y = Clip(x) }}"),
    "Pad": (
        10,
        "g (float[2,3] x) => (float[2,7] y) { y = Pad<pads=[0,1,0,3], value=1.5>(x) }",
    ),
    "Pad, reflect": (
        7,
        'g (float[2,3] x) => (float[2,5] y) { y = Pad<mode="reflect", pads=[0,1,0,1]>(x) }',
    ),
    "Scatter": (
        9,
        """g (float[3,3] x, float[1,3] u) => (float[3,3] y) {
            i = Constant<value = int64[1,3] {0,2,1}>()
            y = Scatter<axis=0>(x, i, u)
        }""",
    ),
    "Dropout": (11, f"g ({X}) => (float[2,3,4] y) {{ y = Dropout<ratio=0.3>(x) }}"),
    "Dropout, mask not used": (9, f"g ({X}) => (float[2,3,4] y) {{ y, m = Dropout(x) }}"),
    "BatchNormalization": (
        8,
        f"""g ({IMAGE}) => (float[1,3,8,8] y) <float[3] s = {{1,2,3}}, float[3] v = {{4,5,6}}>
            {{ y = BatchNormalization<spatial=1>(x, s, s, s, v) }}""",
    ),
    "Upsample, attribute": (
        8,
        f"""g ({IMAGE}) => (float[1,3,16,24] y)
            {{ y = Upsample<scales=[1.0,1.0,2.0,3.0]>(x) }}""",
    ),
    "Upsample, nearest": (
        9,
        f"""g ({IMAGE}) => (float[1,3,12,20] y) <float[4] s = {{1,1,1.5,2.5}}>
            {{ y = Upsample(x, s) }}""",
    ),
    "Upsample, linear": (
        9,
        f"""g ({IMAGE}) => (float[1,3,16,20] y) <float[4] s = {{1,1,2,2.5}}>
            {{ y = Upsample<mode="linear">(x, s) }}""",
    ),
    "Resize, enlarging": (
        10,
        f"""g ({IMAGE}) => (float[1,3,18,20] y) <float[4] s = {{1,1,2.25,2.5}}>
            {{ y = Resize(x, s) }}""",
    ),
    "Resize, shrinking": (
        10,
        f"""g ({IMAGE}) => (float[1,3,4,5] y) <float[4] s = {{1,1,0.6,0.7}}>
            {{ y = Resize(x, s) }}""",
    ),
    "Resize, linear": (
        10,
        f"""g ({IMAGE}) => (float[1,3,4,20] y) <float[4] s = {{1,1,0.6,2.5}}>
            {{ y = Resize<mode="linear">(x, s) }}""",
    ),
    "ReduceSum": (12, f"g ({X}) => (float[2,1,4] y) {{ y = ReduceSum<axes=[1]>(x) }}"),
    "ReduceSum, all": (11, f"g ({X}) => (float y) {{ y = ReduceSum<keepdims=0>(x) }}"),
    "DFT": (
        17,
        f"g ({X.replace('4', '2')}) => (float[2,3,2] y) {{ y = DFT<axis=1>(x) }}",
    ),
    "DFT, default axis": (17, "g (float[2,3,4,2] x) => (float[2,3,4,2] y) { y = DFT(x) }"),
    "GridSample": (
        16,
        f"""g ({IMAGE}, float[1,4,5,2] p) => (float[1,3,4,5] y)
            {{ y = GridSample<mode="bilinear">(x, p) }}""",
    ),
    "GridSample, cubic": (
        16,
        f"""g ({IMAGE}, float[1,4,5,2] p) => (float[1,3,4,5] y)
            {{ y = GridSample<mode="bicubic">(x, p) }}""",
    ),
    "RoiAlign": (
        15,
        f"""g ({IMAGE}) => (float[1,3,2,2] y) <float[1,4] r = {{0.5,1,6,7}}, int64[1] b = {{0}}>
            {{ y = RoiAlign<output_height=2, output_width=2>(x, r, b) }}""",
    ),
    "LSTM": (
        13,
        """g (float[5,1,3] x, float[1,8,3] w, float[1,8,2] r) => (float[5,1,1,2] y)
            { y = LSTM<hidden_size=2>(x, w, r) }""",
    ),
    "LpPool": (17, f"g ({IMAGE}) => (float[1,3,6,6] y) {{ y = LpPool<kernel_shape=[3,3]>(x) }}"),
    "OneHot": (
        9,
        """g () => (float[3,4] y) <int64[3] i = {0,3,2}, int64[1] d = {4}, float[2] v = {5,7}>
            { y = OneHot(i, d, v) }""",
    ),
}
CASES |= {
    f"{op}": (17, f"g ({X}) => (float[2,3] y) {{ y = {op}<axes=[2], keepdims=0>(x) }}")
    for op in (
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSumSquare",
    )
}


@pytest.mark.parametrize("case", CASES)
def test_same_numbers(case: str) -> None:
    check(*CASES[case])


@pytest.mark.parametrize("to", [13, 18, 26])
def test_other_opsets(to: int) -> None:
    text = f"g ({X}) => (float[2,3] y) {{ t = Softmax(x) y = ReduceMean<axes=[2], keepdims=0>(t) }}"
    check(11, text, to)


@pytest.mark.parametrize(
    ("dims", "axis", "then"),
    [
        ("N,1000", 1, -1),
        ("N,1000,1,1", 1, 1),
        ("N,1,8", -2, -1),
        ("N,1,1", 1, -1),
        ("N,1,M", 0, None),
        ("2,3,4", 1, None),
    ],
)
def test_softmax_over_one_axis_stays_one_node(dims: str, axis: int, then: int | None) -> None:
    after = model(9, f"g (float[{dims}] x) => (float[{dims}] y) {{ y = Softmax<axis={axis}>(x) }}")
    upgrade(after, 21)
    if then is None:
        assert "Flatten" in {node.op_type for node in after.graph}
    else:
        (node,) = after.graph
        assert (node.op_type, node.attributes["axis"].as_int()) == ("Softmax", then)


def test_axis_of_unknown_rank() -> None:
    text = "g (float[N,M] x, int64[K] s) => (float[A,B,C] y) { t = Reshape(x, s) y = Softmax(t) }"
    before, after = model(12, text), model(12, text)
    upgrade(after, 21)
    feeds = {"x": np.random.default_rng(0).random((3, 8), np.float32)}
    feeds |= {"s": np.array([2, 3, 4])}
    with onnxruntime.session(before) as old, onnxruntime.session(after) as new:
        np.testing.assert_array_equal(old.run(feeds)["y"], new.run(feeds)["y"])


REFUSED = {
    "Hardmax": (
        (12, f"g ({X}) => (float[2,3,4] y) {{ y = Hardmax(x) }}"),
        "it is over several axes at once",
    ),
    "GroupNormalization": (
        (
            18,
            """g (float[1,4,8,8] x, float[2] s, float[2] b) => (float[1,4,8,8] y)
            { y = GroupNormalization<num_groups=2>(x, s, b) }""",
        ),
        "scale and bias are per group",
    ),
    "Resize, scales unknown": (
        (10, f"g ({IMAGE}, float[4] s) => (float[A,B,C,D] y) {{ y = Resize(x, s) }}"),
        "scales are not known",
    ),
    "Resize, both ways": (
        (
            10,
            f"""g ({IMAGE}) => (float[1,3,4,20] y) <float[4] s = {{1,1,0.5,2.5}}>
            {{ y = Resize(x, s) }}""",
        ),
        "partly below and partly above 1",
    ),
    "Dropout, mask used": (
        (9, f"g ({X}) => (float[2,3,4] y, float[2,3,4] m) {{ y, m = Dropout(x) }}"),
        "its mask is boolean",
    ),
    "no such operator": (
        (12, f"g ({X}) => (float[2,3,4] y) {{ y = HardSwish(x) }}"),
        "opset 12 has no such operator",
    ),
    "opset 6": (
        (6, f"g ({X}) => (float[2,3,4] y) {{ y = Add(x, x) }}"),
        "opset 6 is older than 7",
    ),
    "attributes of a function": (
        (
            12,
            f"""g ({X}) => (float[2,3,4] y) {{ y = f.F<axis=1>(x) }}
            <domain: "f", opset_import: ["": 12]> F <axis> (x) => (y)
            {{ y = Softmax<axis: int = @axis>(x) }}""",
        ),
        "it takes attributes of the function it is in",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_unchanged(case: str) -> None:
    (opset, text), reason = REFUSED[case]
    before = model(opset, text)
    serialized = ir.to_proto(before).SerializeToString(deterministic=True)
    with pytest.raises(CannotUpgrade, match=reason):
        upgrade(before, 21)
    assert before.opset_imports[""] == opset
    again = onnx.ModelProto.FromString(serialized)
    now = ir.to_proto(before)
    assert [str(node) for node in now.graph.node] == [str(node) for node in again.graph.node]


# --- what else must survive ------------------------------------------------------------------


def test_an_input_left_out_in_words_is_left_out() -> None:
    """The version converter counts inputs, empty ones too."""
    after = check(
        13, 'g (float[2,6] x) => (float[2,3] y, float[2,3] z) {y, z = Split<axis=1>(x, "")}'
    )
    (split,) = after.graph
    assert split.attributes.get_int("num_outputs") == 2


def test_subgraphs() -> None:
    after = check(
        11,
        f"""g ({X}, bool c) => (float[2,3,4] y) {{
            s = Neg(x)
            y = If(c) <
                then_branch = a () => (float[2,3,4] u) {{ u = Softmax(s) }},
                else_branch = b () => (float[2,3,4] v) {{
                    n = Constant<value = int64 {{2}}>()
                    k = Constant<value = bool {{1}}>()
                    v = Loop(n, k, s) <body = l (int64 i, bool d, float[2,3,4] t)
                        => (bool e, float[2,3,4] w) {{
                            e = Identity(d)
                            w = LogSoftmax<axis=0>(t)
                        }}>
                }}
            >
        }}""",
    )
    assert {"Flatten", "Reshape"} <= {node.op_type for node in after.graph.all_nodes()}
    assert {node.op_type for node in after.graph} == {"Neg", "If"}


def test_functions() -> None:
    after = check(
        12,
        f"""g ({X}) => (float[2,4] y) {{ y = f.F(x) }}
        <domain: "f", opset_import: ["": 12]> F (x) => (y)
        {{ t = Softmax(x) y = ReduceSum<axes=[1], keepdims=0>(t) }}""",
    )
    (function,) = after.functions.values()
    assert function.opset_imports[""] == 21


def test_other_domains() -> None:
    text = f"g ({X}) => (float[2,3,4] y) {{ t = com.microsoft.Gelu(x) y = Softmax(t) }}"
    before = model(12, text)
    upgrade(before, 21)
    assert before.opset_imports == {"": 21, "f": 1, "com.microsoft": 1}
    assert before.graph[0].op_type == "Gelu"


def test_names_metadata_and_docs() -> None:
    before = model(12, f"g ({X}) => (float[2,3,4] y) {{ [s] t = Softmax(x) [n] y = Neg(t) }}")
    before.metadata_props["author"] = "someone"
    before.graph.metadata_props["k"] = "someone"
    before.doc_string, before.graph.doc_string = "model", "graph"
    node, value = before.graph[0], before.graph[0].outputs[0]
    node.doc_string, node.metadata_props["layer"] = "the softmax", "7"
    value.doc_string, value.metadata_props["unit"] = "a share", "1"
    upgrade(before, 21)
    assert before.metadata_props == {"author": "someone"}
    assert before.graph.metadata_props == {"k": "someone"}
    softmax = next(n for n in before.graph if n.op_type == "Softmax")
    assert (softmax.name, softmax.doc_string) == ("s", "the softmax")
    assert all(n.metadata_props["layer"] == "7" for n in before.graph if n.name != "n")
    (t,) = (v for n in before.graph for v in n.outputs if v.name == "t")
    assert (t.doc_string, t.metadata_props["unit"]) == ("a share", "1")
    assert (before.doc_string, before.graph.doc_string) == ("model", "graph")
    assert before.graph[-1].name == "n"


def test_nodes_that_stay_the_same_are_not_touched() -> None:
    before = model(
        12, f"g ({X}) => (float[2,3,4] y) {{ a = Relu(x) b = Softmax(a) y = Add(a, b) }}"
    )
    relu, add = before.graph[0], before.graph[2]
    upgrade(before, 21)
    assert before.graph[0] is relu
    assert before.graph[-1] is add


def test_weights_are_not_read() -> None:
    def unreadable() -> ir.TensorProtocol:
        raise AssertionError("a weight was read")

    text = "g (float[N,4] x) => (float[N,4] y) <float[1] w = {0}> { t = Add(x, w) y = Softmax(t) }"
    before = model(12, text)
    lazy = ir.LazyTensor(unreadable, ir.DataType.FLOAT, ir.Shape([1]), name="w")
    before.graph.initializers["w"].const_value = lazy
    upgrade(before, 21)
    assert before.graph.initializers["w"].const_value is lazy


# --- the pass --------------------------------------------------------------------------------

SOFTMAX = f"g ({X}) => (float[2,3,4] y) {{ y = Softmax(x) }}"


def context(**fields: Any) -> PassContext:
    return PassContext(dataclasses.replace(Target.parse("cpu"), **fields))


def test_auto_is_capped_by_the_target() -> None:
    for max_opset, expected in ((26, 21), (17, 17)):
        subject = model(12, SOFTMAX)
        assert Upgrade().run(subject, context(max_opset=max_opset)).changed
        assert subject.opset_imports[""] == expected


def test_one_rewrite_for_the_whole_model() -> None:
    result = Upgrade(opset=13).run(model(12, SOFTMAX), context())
    assert result.model.opset_imports[""] == 13
    assert {name: rule.rewrites for name, rule in result.report.rules.items()} == {
        "upgrade-opset": 1
    }


def test_never_lowers() -> None:
    subject = model(22, SOFTMAX)
    assert not Upgrade().run(subject, context()).changed
    assert not Upgrade(opset=13).run(subject, context()).changed
    assert subject.opset_imports[""] == 22


def test_twice_is_once() -> None:
    subject = model(12, SOFTMAX)
    Upgrade().run(subject, context())
    once = ir.to_proto(subject).SerializeToString(deterministic=True)
    assert not Upgrade().run(subject, context()).changed
    assert ir.to_proto(subject).SerializeToString(deterministic=True) == once


def test_a_refusal_is_reported() -> None:
    (opset, text), reason = REFUSED["Hardmax"]
    ctx = context()
    result = Upgrade().run(model(opset, text), ctx)
    assert not result.changed
    (refusal,) = result.report.rules["upgrade-opset"].refusals
    assert reason in refusal
    assert ctx.warnings == [f"the model stays at opset 12: {refusal}"]


def test_a_rewrite_held_back_changes_nothing() -> None:
    class HoldBack(Instrument):
        def should_run(self, event: Event) -> bool:
            return event.kind != "rewrite"

    ctx = context()
    ctx.instruments = [HoldBack()]
    subject = model(12, SOFTMAX)
    assert not Upgrade().run(subject, ctx).changed
    assert (subject.opset_imports[""], len(subject.graph)) == (12, 1)


def test_an_opset_the_target_does_not_run() -> None:
    with pytest.raises(InputError, match="opset 24 is newer than 23"):
        Upgrade(opset=24).run(model(12, SOFTMAX), context(max_opset=23))


# --- real models, and every operator ---------------------------------------------------------


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_classic_models(path: Path) -> None:
    """Nine networks at opset 9, whose weights are constant fills."""
    before, after = load(path).model, load(path).model
    upgrade(after, 21)
    with onnxruntime.session(before) as old, onnxruntime.session(after) as new:
        feeds = random_feeds(old, seed=0)
        difference = compare_outputs(old.run(feeds), new.run(feeds), rtol=0, atol=0)
    assert difference.ok, difference


def _since(name: str) -> list[int]:
    return sorted(
        schema.since_version
        for schema in onnx.defs.get_all_schemas_with_history()
        if (schema.name, schema.domain) == (name, "")
    )


def _fits(node: onnx.NodeProto, opset: int) -> bool:
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    return (
        all(attribute.name in schema.attributes for attribute in node.attribute)
        and schema.min_input <= len(node.input) <= schema.max_input
        and len(node.output) <= schema.max_output
    )


def _as_if(case: onnx.ModelProto, opset: int) -> ir.Model:
    proto = onnx.ModelProto()
    proto.CopyFrom(case)
    del proto.opset_import[:]
    proto.opset_import.add(version=opset)
    return load(proto).model


@pytest.mark.slow
def test_operator_cases_at_every_opset_they_fit() -> None:
    """What a node means at an old opset, by the runtime's kernel for it, it means upgraded.

    The operator cases of the onnx package, each declared to be of the opsets at which its operator
    changed and which its form fits: what a case was made to show does not matter here.
    """
    random = ("Bernoulli", "Multinomial", "Random")
    outcomes: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for case in onnx.backend.test.loader.load_model_tests(kind="node"):
        assert case.data_sets
        proto = case.model or onnx.load(Path(case.model_dir or "", "model.onnx"))
        (node, *others), (inputs, _) = proto.graph.node, case.data_sets[0]
        if others or node.domain or node.op_type.startswith(random):
            continue
        if not all(isinstance(array, np.ndarray) for array in inputs):
            continue
        feeds = dict(zip((value.name for value in proto.graph.input), inputs, strict=True))
        since = _since(node.op_type)
        versions = {max(version, 7) for version in since} | {version - 1 for version in since[1:]}
        for opset in versions & set(range(max(since[0], 7), 21)):
            if not _fits(node, opset):
                continue
            try:
                with onnxruntime.session(_as_if(proto, opset)) as session:
                    expected = session.run(feeds)
            except BurnishError:
                outcomes["the runtime does not run the original"] += 1
                continue
            upgraded = _as_if(proto, opset)
            try:
                upgrade(upgraded, 21)
            except CannotUpgrade:
                refused[node.op_type] += 1
                continue
            with onnxruntime.session(upgraded) as session:
                found = session.run(feeds)
            if any(isinstance(array, list) for array in expected.values()):
                continue
            # Not bit by bit: the runtime has other kernels for some old operators.
            difference = compare_outputs(expected, found)
            assert difference.ok, f"{case.name} at opset {opset}: {difference}"
            outcomes["same"] += 1
    assert set(refused) == {"Hardmax", "Scan", "Upsample"}
    assert outcomes["same"] > 2500


def test_auto_stays_below_a_kernel_that_is_slower() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 11]> g (float[1,2,8,8] x) => (float[1,2,7,7] y) '
        "{ y = AveragePool<kernel_shape = [2, 2]>(x) }"
    )
    model = parse(text)
    run_pass(Upgrade(), model)
    assert model.opset_imports[""] == 18
    indifferent = dataclasses.replace(Target.parse("cpu"), preferences=())
    model = parse(text)
    run_pass(Upgrade(), model, target=indifferent)
    assert model.opset_imports[""] == AUTO


def test_what_the_target_would_run_no_longer_stays() -> None:
    """ONNX Runtime takes the function of Softplus at opset 18 only, and has no double kernel."""
    before = model(18, "g (double[4] x) => (double[4] y) { y = Softplus(x) }")
    ctx = run_pass(Upgrade(), before)
    assert before.opset_imports[""] == 18
    assert "does not run Softplus of double at 21" in ctx.warnings[0]
    with onnxruntime.session(before) as session:
        session.run(random_feeds(session, seed=0))
