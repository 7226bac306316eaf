# SPDX-License-Identifier: Apache-2.0
"""What the target claims to run, held against what the runtime then loads."""

from __future__ import annotations

import dataclasses
from collections import Counter

import onnx
import onnx_ir as ir
import pytest

from burnish.backends.isa import features
from burnish.backends.kernels import Support, max_ir_version, max_opset
from burnish.backends.onnxruntime import session
from burnish.backends.target import MICROSOFT, Target
from burnish.errors import InputError

F = ir.DataType.FLOAT
F16 = ir.DataType.FLOAT16
BF16 = ir.DataType.BFLOAT16


@pytest.fixture(scope="module")
def cpu() -> Target:
    return Target.parse("cpu")


def loads(text: str) -> bool:
    """Whether the runtime takes a model in ONNX's text form."""
    try:
        session(bytes(onnx.parser.parse_model(text).SerializeToString())).close()
    except InputError:
        return False
    return True


def at_opset(opset: int, graph: str) -> str:
    """A model in ONNX's text form."""
    return f'<ir_version: 10, opset_import: ["" : {opset}]> {graph}'


def test_parse_names_the_machine(cpu: Target) -> None:
    assert (cpu.name, cpu.provider) == ("cpu", "CPUExecutionProvider")
    assert Target.parse(" CPU ") == cpu
    assert hash(cpu) == hash(Target.parse("cpu"))


@pytest.mark.parametrize(
    ("text", "hint"), [("cpuu", "did you mean 'cpu'"), ("quantum", "known: cpu")]
)
def test_parse_suggests_a_name(text: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        Target.parse(text)


@pytest.mark.parametrize(
    ("op_type", "opset", "dtype", "expected"),
    [
        ("Abs", 13, F, Support.KERNEL),
        ("Abs", 13, ir.DataType.INT8, Support.KERNEL),
        ("Abs", 13, None, Support.KERNEL),
        ("Abs", 5, F, Support.NONE),  # the kernels begin at opset 6
        ("Abs", 13, BF16, Support.NONE),
        ("Asin", 20, F, Support.KERNEL),
        ("Asin", 20, F16, Support.CAST),
        ("Gelu", 20, F, Support.KERNEL),
        ("Gelu", 20, F16, Support.FUNCTION),
        ("Gelu", 19, F, Support.NONE),  # no such operator yet
        ("HardSwish", 14, F, Support.FUNCTION),
        ("HardSwish", 13, F, Support.NONE),
        ("HardSwish", 14, ir.DataType.INT32, Support.NONE),
        ("Softplus", 13, F, Support.KERNEL),
        ("Frobnicate", 13, F, Support.NONE),
    ],
)
def test_support_is_what_the_runtime_does(
    cpu: Target, op_type: str, opset: int, dtype: ir.DataType | None, expected: Support
) -> None:
    assert cpu.support(op_type, opset=opset, dtype=dtype) is expected
    assert cpu.runs(op_type, opset=opset, dtype=dtype) is bool(expected)
    element = (dtype or F).name.lower()
    model = (
        f'<ir_version: 8, opset_import: ["": {opset}]>'
        f"g ({element}[2] x) => ({element}[2] y) {{ y = {op_type}(x) }}"
    )
    assert loads(model) is bool(expected)


def test_the_default_domain_has_two_spellings(cpu: Target) -> None:
    assert cpu.runs("Relu", "ai.onnx", opset=20)


def test_constant_and_control_flow_run(cpu: Target) -> None:
    assert all(cpu.runs(op, opset=20) for op in ("Constant", "If", "Loop", "Scan"))


def test_fuses_knows_contributed_kernels(cpu: Target) -> None:
    assert cpu.fuses("FusedConv")
    assert cpu.fuses("QuickGelu", F)
    assert not cpu.fuses("QuickGelu", ir.DataType.INT32)
    assert not cpu.fuses("Conv")  # a standard operator, not a fused one
    assert not cpu.fuses("Frobnicate")
    assert cpu.runs("FusedConv", MICROSOFT, opset=1, dtype=F)


def test_ceilings_are_exact() -> None:
    text = (
        '<ir_version: {}, opset_import: ["": {}]> g (float[1] x) => (float[1] y) {{ y = Abs(x) }}'
    )
    assert loads(text.format(8, max_opset()))
    assert not loads(text.format(8, max_opset() + 1))
    assert loads(text.format(max_ir_version(), 13))
    assert not loads(text.format(max_ir_version() + 1, 13))


# Single-operator cases of the onnx package that are answered wrongly, because the answer hangs on
# more than operator, opset and the type of the first input.
HANGS_ON_MORE = {
    "Attention": "attributes that are newer than the runtime",
    "Cast": "the type it casts to",
    "CastLike": "the type of its second input",
    "Pow": "the type of its second input",
    "GRU": "the attribute layout",
    "LSTM": "the attribute layout",
    "RNN": "the attribute layout",
    "StringNormalizer": "locales installed on the machine",
    "SequenceMap": "the graph it maps",
}


@pytest.mark.filterwarnings("ignore")  # the cases divide by zero on purpose
def test_support_agrees_with_the_runtime_on_the_cases_of_onnx(cpu: Target) -> None:
    from onnx.backend.test.loader import load_model_tests

    answers: Counter[tuple[bool, bool]] = Counter()
    wrong: dict[str, str] = {}
    for case in load_model_tests(kind="node"):
        model = case.model
        assert model is not None
        if len(model.graph.node) != 1 or model.functions:
            continue
        opsets = {entry.domain: entry.version for entry in model.opset_import}
        if opsets.get("", 1) > cpu.max_opset:
            continue
        (node,) = model.graph.node
        answer = cpu.runs(
            node.op_type, node.domain, opset=opsets[node.domain], dtype=_first_type(model)
        )
        model.ir_version = min(model.ir_version, max_ir_version())
        try:
            session(bytes(model.SerializeToString())).close()
            truth = True
        except InputError:
            truth = False
        answers[answer, truth] += 1
        if answer is not truth and node.op_type not in HANGS_ON_MORE:
            wrong[case.name] = node.op_type
    assert not wrong
    assert answers[True, True] > 1000
    assert answers[True, False] + answers[False, True] < 0.03 * answers.total()


def _first_type(model: onnx.ModelProto) -> ir.DataType | None:
    (node,) = model.graph.node
    infos = {info.name: info.type for info in (*model.graph.input, *model.graph.output)}
    info = infos.get(node.input[0] if node.input else node.output[0])
    if info is None or not info.HasField("tensor_type"):
        return None
    return ir.DataType(info.tensor_type.elem_type)


SKYLAKE = "avx avx2 fma f16c sse4_1 avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.parametrize(
    ("flags", "expected", "bits"),
    [
        ("sse4_1 avx avx2 fma f16c", {"sse4.1", "avx", "avx2", "fma", "f16c"}, 16),
        (SKYLAKE, {"sse4.1", "avx", "avx2", "fma", "f16c", "avx512"}, 16),
        (f"{SKYLAKE} avx512_vnni", {"sse4.1", "avx", "avx2", "fma", "f16c", "avx512", "vnni"}, 32),
        ("sse4_1 avx2 avx_vnni", {"sse4.1", "avx2", "vnni"}, 32),
        ("avx512f", set(), 32),  # Knights Landing: not what kernels mean by AVX-512
        ("asimd asimddp i8mm", {"neon", "dotprod", "i8mm"}, 32),
    ],
)
def test_features(cpu: Target, flags: str, expected: set[str], bits: int) -> None:
    assert features(flags.split()) == expected
    there = dataclasses.replace(cpu, isa=features(flags.split()))
    assert there.int8_accumulator_bits == bits


@pytest.mark.parametrize("opset", [24, 25, 26])
def test_a_function_is_expanded_only_while_its_operators_mean_the_same(
    cpu: Target, opset: int
) -> None:
    """Swish is a function of opset 24; opset 25 has newer operators of those in its body."""
    text = at_opset(opset, "g (float[4] x) => (float[4] y) { y = Swish(x) }")
    assert cpu.runs("Swish", opset=opset, dtype=F) == loads(text)


@pytest.mark.parametrize("op_type", ["Softplus", "Mish"])
@pytest.mark.parametrize("opset", range(18, 23))
def test_a_function_within_a_function_is_expanded_at_the_opset_of_the_model(
    cpu: Target, op_type: str, opset: int
) -> None:
    """Mish is a function of Softplus, which is one that newer opsets than 18 do not take."""
    text = at_opset(opset, f"g (double[4] x) => (double[4] y) {{ y = {op_type}(x) }}")
    assert cpu.runs(op_type, opset=opset, dtype=ir.DataType.DOUBLE) == loads(text)


# One call of each, valid since opset 21.
_BUILT_FOR_A_NODE = {
    "GroupNormalization": "GroupNormalization<num_groups=2>(x, s, s)",
    "CenterCropPad": "CenterCropPad(x, n)",
    "SoftmaxCrossEntropyLoss": "SoftmaxCrossEntropyLoss(x, l)",
    "Clip": "Clip(x, a, b)",
}


@pytest.mark.parametrize("op_type", _BUILT_FOR_A_NODE)
@pytest.mark.parametrize("opset", range(21, 27))
def test_a_function_that_is_built_for_a_node_is_expanded_in_any_opset(
    cpu: Target, op_type: str, opset: int
) -> None:
    text = at_opset(
        opset,
        "g (float[1,4] x, float[4] s, int64[2] n, int64[1] l, float a, float b) => (float[] y)"
        f"{{ y = {_BUILT_FOR_A_NODE[op_type]} }}",
    )
    if opset <= cpu.max_opset:
        assert cpu.runs(op_type, opset=opset, dtype=F) == loads(text) is True


def test_no_cast_lets_an_operator_take_a_type_it_is_not_defined_for(cpu: Target) -> None:
    text = at_opset(21, "g (float16[4] x) => (float16[4] y)")
    assert cpu.runs("Celu", opset=21, dtype=F16) == loads(f"{text} {{ y = Celu(x) }}") is False
    assert cpu.runs("Selu", opset=21, dtype=F16) == loads(f"{text} {{ y = Selu(x) }}") is True
