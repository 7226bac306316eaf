# SPDX-License-Identifier: Apache-2.0
"""`optimize` as a user meets it: exit codes, reports, nothing half-written."""

from __future__ import annotations

import json
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from burnish.passes.explain import NearMiss
from burnish.testing import parse
from burnish.tools import present

_SCHEMA = Path(__file__).parents[2] / "docs" / "report.schema.json"

Run = Callable[..., Any]


def files(folder: Path) -> set[str]:
    """What lies in a folder."""
    return {path.name for path in folder.iterdir()}


def test_default_output_beside_the_model(optimize: Run, model: Path) -> None:
    result = optimize(model, "--passes", "cleanup")
    assert result.code == 0, result.err
    assert "wrote" in result.out
    onnx.checker.check_model(str(model.with_name("m.opt.onnx")), full_check=True)
    assert files(model.parent) == {"m.onnx", "m.opt.onnx"}


def test_outside_of_terminals_a_line_stays_a_line(
    optimize: Run, model: Path, tmp_path: Path
) -> None:
    output = tmp_path / ("d" * 200) / ("e" * 200) / "o.onnx"
    output.parent.mkdir(parents=True)
    result = optimize(model, "--passes", "cleanup", "-o", output)
    assert f"wrote {output} in " in result.out


def test_the_same_command_twice_gives_the_same_bytes(
    optimize: Run, model: Path, samples: Path, tmp_path: Path
) -> None:
    outputs = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for output in outputs:
        options = ("--passes", "fuse,prune{sparsity=0.5},quant", "--calib", samples)
        assert optimize(model, "-o", output, *options).code == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_report_follows_its_schema(
    optimize: Run, model: Path, samples: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    options = ("--passes", "fuse,quant", "--calib", samples, "--report", path, "--json")
    result = optimize(model, *options)
    assert result.code == 0, result.err
    report = json.loads(path.read_text())
    assert json.loads(result.out) == report
    jsonschema.validate(report, json.loads(_SCHEMA.read_text()))
    assert report["before"]["nodes"] == 5
    assert report["input"]["source"] == "m.onnx"
    assert report["versions"]["onnx"] == onnx.__version__


def test_quiet_prints_nothing(optimize: Run, model: Path) -> None:
    assert optimize(model, "--passes", "cleanup", "--quiet") == (0, "", "")


def test_dry_run_shows_the_expanded_pipeline_and_writes_nothing(optimize: Run, model: Path) -> None:
    result = optimize(model, "--passes", "fuse", "--dry-run")
    assert result.code == 0, result.err
    assert "as text: " in result.out
    assert "fuse-affine" in result.out
    assert files(model.parent) == {"m.onnx"}


def test_timing_and_print_ir(optimize: Run, model: Path) -> None:
    result = optimize(model, "--passes", "cleanup", "--timing", "--print-ir-after", "dead-code")
    assert result.code == 0, result.err
    assert "seconds" in result.out
    assert "// after dead-code" in result.err


def test_bisect_limit_zero_changes_nothing(optimize: Run, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.onnx"
    assert optimize(model, "-o", output, "--passes", "cleanup", "--bisect-limit", 0).code == 0
    assert len(onnx.load(output).graph.node) == 5
    assert optimize(model, "-o", output, "--passes", "cleanup").code == 0
    assert len(onnx.load(output).graph.node) == 4


def test_disable(optimize: Run, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.onnx"
    assert optimize(model, "-o", output, "--passes", "cleanup", "--disable", "simplify").code == 0
    assert len(onnx.load(output).graph.node) == 5


def test_explain_shows_near_misses_by_rule(optimize: Run, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    result = optimize(model, "--passes", "simplify,fuse-gemm", "--explain", "--report", path)
    assert result.code == 0, result.err
    assert "near misses of gemm-add" not in result.out
    report = json.loads(path.read_text())
    jsonschema.validate(report, json.loads(_SCHEMA.read_text()))
    assert report["explanations"] == []

    proto = onnx.load(model)
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info("t"))
    onnx.save(proto, model)
    result = optimize(model, "--passes", "fuse-gemm", "--explain", "matmul-*", "--report", path)
    assert result.code == 0, result.err
    assert "near misses of matmul-add-to-gemm: 1" in result.out
    (miss,) = json.loads(path.read_text())["explanations"]
    assert miss == {
        "rule": "matmul-add-to-gemm",
        "node": "Add_s",
        "op_type": "Add",
        "at": "MatMul_t",
        "reason": "the inner MatMul is an output of the graph",
        "repair": "drop that output, or duplicate the node for it",
    }
    assert "left alone" in optimize(model, "--passes", "fuse-gemm").out
    assert "near misses" not in optimize(model, "--passes", "fuse-gemm").out


def test_explain_lists_the_most_frequent_reasons_and_counts_the_rest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    misses = [
        NearMiss("r", f"n{place}", "Add", "", f"reason {kind}", f"repair {kind}")
        for kind in range(8)
        for place in range(kind + 1)
    ]
    present.near_misses(misses, whole=False)
    out = capsys.readouterr().out
    assert "n0 (Add) and 7 more" in out
    assert "reason 3" in out
    assert "reason 2" not in out
    assert "and 3 more reasons" in out
    present.near_misses(misses, whole=True)
    out = capsys.readouterr().out
    assert out.count("reason ") == len(misses)
    assert "more" not in out


def test_input_is_overwritten_only_by_force(optimize: Run, model: Path) -> None:
    before = model.read_bytes()
    result = optimize(model, "-o", model, "--passes", "cleanup")
    assert result.code == 2
    assert "is the input; add --force to overwrite it" in result.err
    assert model.read_bytes() == before
    assert optimize(model, "-o", model, "--passes", "cleanup", "--force").code == 0
    assert len(onnx.load(model).graph.node) == 4


def test_a_report_never_overwrites_the_model(optimize: Run, model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    (tmp_path / "link.onnx").symlink_to(model)
    for report in (model, tmp_path / "link.onnx"):
        result = optimize(model, "-o", tmp_path / "o.onnx", "--report", report, "--force")
        assert result.code == 2
        assert "is the input" in result.err
    assert model.read_bytes() == before


def test_an_already_quantized_model_passes_through_with_a_note(
    optimize: Run, model: Path, samples: Path, tmp_path: Path
) -> None:
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    assert optimize(model, "-o", once, "--passes", "quant", "--calib", samples).code == 0
    result = optimize(once, "-o", twice, "--passes", "quant", "--calib", samples)
    assert result.code == 0, result.err
    assert "quantized" in result.out
    ops = [sorted(node.op_type for node in onnx.load(path).graph.node) for path in (once, twice)]
    assert ops[0] == ops[1]


@pytest.mark.usefixtures("misbehaving")
def test_a_wrong_pass_exits_3_and_writes_nothing(optimize: Run, model: Path) -> None:
    result = optimize(model, "--passes", "scale")
    assert result.code == 3
    assert result.err.startswith("optimize: error: after scale the outputs differ")
    assert files(model.parent) == {"m.onnx"}


def test_a_missed_budget_exits_4_and_writes_nothing(optimize: Run, model: Path) -> None:
    result = optimize(model, "--passes", "prune{sparsity=0.9}", "--max-error", 0.001)
    assert result.code == 4
    assert "the budget is 0.001" in result.err
    assert files(model.parent) == {"m.onnx"}


def test_a_speedup_that_is_missed_exits_4_and_writes_nothing(
    optimize: Run, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("BURNISH_MEASURE")
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    result = optimize(model, "--min-speedup", 1000)
    assert result.code == 4
    assert "of the original's speed; at least 1000 is asked for" in result.err
    assert "burnish ablate" in result.err
    assert not model.with_name("m.opt.onnx").exists()
    result = optimize(model, "--min-speedup", 0.001)
    assert result.code == 0, result.err
    assert "speed: the model for the original: " in result.out


def test_best_effort_goes_as_far_as_it_can(optimize: Run, model: Path) -> None:
    passes = ("--passes", "cleanup,prune-neurons{params=0.01 align=8}")
    result = optimize(model, *passes)
    assert result.code == 4
    assert "params=0.01 cannot be met: 0.25 is the least there is" in result.err
    assert "add --best-effort" in result.err
    assert files(model.parent) == {"m.onnx"}
    result = optimize(model, *passes, "--best-effort")
    assert result.code == 0, result.err
    assert "params=0.01 cannot be met: 0.25 is the least there is" in result.out + result.err
    assert files(model.parent) == {"m.onnx", "m.opt.onnx"}
    written = onnx.load(model.with_name("m.opt.onnx"))
    # Of 32 neurons, each with 16 weights, a bias and 8 weights behind, 8 are left.
    assert {tuple(each.dims) for each in written.graph.initializer} == {(16, 8), (8,), (8, 8)}


@pytest.mark.usefixtures("misbehaving")
def test_an_internal_error_exits_1_with_a_reproducer(optimize: Run, model: Path) -> None:
    result = optimize(model, "--passes", "cleanup,crash")
    assert result.code == 1
    assert "internal error: ZeroDivisionError" in result.err
    assert "Traceback" not in result.err
    bundle = model.with_name("m.opt.reproducer.zip")
    assert str(bundle) in result.err
    with zipfile.ZipFile(bundle) as opened:
        about = json.loads(opened.read("about.json"))
        assert about["failed_in"]["name"] == "crash-rule"
        assert "MatMul" in opened.read("model.txt").decode()
        assert "ZeroDivisionError" in opened.read("traceback.txt").decode()
    assert "Traceback" in optimize(model, "--passes", "crash", "--debug").err


@pytest.mark.usefixtures("misbehaving")
def test_a_rule_that_raises_is_skipped_with_a_warning_and_a_reproducer(
    optimize: Run, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    result = optimize(model, "--passes", "faulty,cleanup", "--report", path)
    assert result.code == 0, result.err
    assert len(onnx.load(model.with_name("m.opt.onnx")).graph.node) == 4, "the build went on"
    bundle = model.with_name("m.opt.raises.reproducer.zip")
    raised, where = json.loads(path.read_text())["warnings"]
    assert raised == "rule raises raised KeyError at 'MatMul_t' and was skipped there: 'lost'"
    assert where == f"please report the failure of raises with {bundle}"
    with zipfile.ZipFile(bundle) as opened:
        about = json.loads(opened.read("about.json"))
        assert about["failed_in"]["name"] == "raises"
        assert about["failed_in"]["where"] == "MatMul_t"
        # As it was then, before cleanup.
        assert "Identity" in opened.read("model.txt").decode()
        assert "KeyError" in opened.read("traceback.txt").decode()


@pytest.mark.usefixtures("misbehaving")
@pytest.mark.parametrize(
    ("passes", "suffix", "error"),
    [("cleanup,crash", "", "ZeroDivisionError"), ("faulty", "raises.", "KeyError('lost')")],
)
def test_what_a_reproducer_names_makes_the_failure_happen_again(
    optimize: Run,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    passes: str,
    suffix: str,
    error: str,
) -> None:
    optimize(model, "--passes", passes)
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(model.with_name(f"m.opt.{suffix}reproducer.zip")) as opened:
        opened.extractall(unpacked)
    about = json.loads((unpacked / "about.json").read_text())
    monkeypatch.chdir(unpacked)
    again = optimize(*shlex.split(about["to_reproduce"])[1:])
    assert again.code == 1
    assert f"internal error: {error}" in again.err


@pytest.mark.usefixtures("misbehaving")
def test_a_reproducer_is_small_and_needs_no_other_file(
    optimize: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = np.random.default_rng(0).standard_normal((1024, 512)).astype(np.float32)
    made = parse(
        "g (float[N,1024] x) => (float[N,512] y) { m = MatMul(x, w)  y = Add(m, b) }",
        w=weights,
        b=np.ones(512, np.float32),
    )
    ir.save(made, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    assert optimize(tmp_path / "m.onnx", "--passes", "crash").code == 1
    bundle = tmp_path / "m.opt.reproducer.zip"
    assert bundle.stat().st_size < 100_000
    with zipfile.ZipFile(bundle) as opened:
        held = onnx.load_from_string(opened.read("model.onnx"))
    onnx.checker.check_model(held)
    first, second = (onnx.numpy_helper.to_array(each) for each in held.graph.initializer)
    assert first.shape == (1024, 512)
    assert not first.any()
    assert second.all()


@pytest.mark.usefixtures("misbehaving")
def test_strict_stops_at_a_rule_that_raises(optimize: Run, model: Path) -> None:
    result = optimize(model, "--passes", "faulty,cleanup", "--strict")
    assert result.code == 1
    assert "internal error: KeyError('lost')" in result.err
    assert files(model.parent) == {"m.onnx", "m.opt.reproducer.zip"}
    with zipfile.ZipFile(model.with_name("m.opt.reproducer.zip")) as opened:
        assert json.loads(opened.read("about.json"))["failed_in"]["name"] == "raises"


_ATTENTION = """<ir_version: 10, opset_import: ["" : 23]>
g (float[N,T,64] q, float[N,T,64] k, float[N,T,64] v) => (float[N,T,64] y)
<int64[4] s = {0, 0, 4, 16}, int64[3] o = {0, 0, 64}, float c = {0.25}> {
    q4 = Reshape(q, s)  k4 = Reshape(k, s)  v4 = Reshape(v, s)
    qt = Transpose<perm = [0, 2, 1, 3]>(q4)  kt = Transpose<perm = [0, 2, 3, 1]>(k4)
    vt = Transpose<perm = [0, 2, 1, 3]>(v4)  m = MatMul(qt, kt)  d = Mul(m, c)
    p = Softmax(d)  z = MatMul(p, vt)  zt = Transpose<perm = [0, 2, 1, 3]>(z)  y = Reshape(zt, o)
}"""


@pytest.fixture
def attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that asks a question, and a cache of its own."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "attention.onnx"
    ir.save(parse(_ATTENTION), path)
    return path


def test_decisions_are_measured_shown_and_replayed(
    optimize: Run, attention: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BURNISH_MEASURE")
    report, first, second = (tmp_path / name for name in ("r.json", "a.onnx", "b.onnx"))
    measured = optimize(attention, "-o", first, "--report", report)
    assert measured.code == 0, measured.err
    assert (
        "attention: Attention for Transpose, 2 MatMul, Mul, Softmax at 1x128x64 float: "
        in measured.out
    )
    assert "in 1 place (measured" in measured.out
    jsonschema.validate(json.loads(report.read_text()), json.loads(_SCHEMA.read_text()))
    replayed = optimize(attention, "-o", second, "--decisions", report)
    assert "in 1 place (replayed" in replayed.out
    assert first.read_bytes() == second.read_bytes()
    assert "in 1 place (cached" in optimize(attention, "-o", second).out


def test_without_measuring_the_table_decides(
    optimize: Run, attention: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BURNISH_MEASURE")
    result = optimize(attention, "--no-measure")
    assert "1.10x rewritten in 1 place (recorded, not measured: measuring is off)" in result.out
    assert not (attention.parent / "cache").exists()


def test_a_wrong_decisions_file_is_one_line(optimize: Run, attention: Path) -> None:
    result = optimize(attention, "--decisions", attention)
    assert result.code == 2
    assert result.err == (
        f"optimize: error: decisions {attention} is not JSON; give what optimize --report wrote\n"
    )
    assert files(attention.parent) == {"attention.onnx"}
