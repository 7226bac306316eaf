# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it: exit codes, one line for an error, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from burnish.passes import registry
from burnish.passes.explain import NearMiss
from burnish.passes.rule import pass_of, rule
from burnish.testing import parse
from burnish.tools import cli, present

_SCHEMA = Path(__file__).parents[2] / "docs" / "report.schema.json"


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a console script in this process."""

    def invoke(*words: object, script: str = "optimize") -> Result:
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as leave:
            {"optimize": cli.optimize_main, "burnish": cli.main}[script]()
        out, err = capfd.readouterr()
        assert isinstance(leave.value.code, int)
        return Result(leave.value.code, out, err)

    return invoke


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with something to clean up, quantize and prune."""
    rng = np.random.default_rng(0)
    made = parse(
        "g (float[N,16] x) => (float[N,8] y) "
        "{ i = Identity(x)  t = MatMul(i, w)  s = Add(t, b)  r = Relu(s)  y = MatMul(r, v) }"
    )
    for name, shape in (("w", (16, 32)), ("b", (32,)), ("v", (32, 8))):
        tensor = ir.tensor(rng.standard_normal(shape).astype(np.float32), name=name)
        value = next(
            value
            for node in made.graph
            for value in node.inputs
            if value is not None and value.name == name
        )
        value.const_value, value.shape, value.dtype = tensor, ir.Shape(shape), tensor.dtype
        made.graph.register_initializer(value)
    path = tmp_path / "m.onnx"
    ir.save(made, path)
    return path


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """A folder of calibration samples."""
    folder = tmp_path / "samples"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index in range(8):
        np.savez(folder / f"{index}.npz", x=rng.standard_normal((4, 16)).astype(np.float32))
    return folder


def files(folder: Path) -> set[str]:
    """What lies in a folder."""
    return {path.name for path in folder.iterdir()}


def test_default_output_beside_the_model(run: Run, model: Path) -> None:
    result = run(model, "--passes", "cleanup")
    assert result.code == 0, result.err
    assert "wrote" in result.out
    onnx.checker.check_model(str(model.with_name("m.opt.onnx")), full_check=True)
    assert files(model.parent) == {"m.onnx", "m.opt.onnx"}


def test_the_same_command_twice_gives_the_same_bytes(
    run: Run, model: Path, samples: Path, tmp_path: Path
) -> None:
    outputs = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for output in outputs:
        options = ("--passes", "fuse,prune{sparsity=0.5},quant", "--calib", samples)
        assert run(model, "-o", output, *options).code == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_report_follows_its_schema(run: Run, model: Path, samples: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    options = ("--passes", "fuse,quant", "--calib", samples, "--report", path, "--json")
    result = run(model, *options)
    assert result.code == 0, result.err
    report = json.loads(path.read_text())
    assert json.loads(result.out) == report
    jsonschema.validate(report, json.loads(_SCHEMA.read_text()))
    assert report["before"]["nodes"] == 5
    assert report["input"]["source"] == "m.onnx"
    assert report["versions"]["onnx"] == onnx.__version__


def test_quiet_prints_nothing(run: Run, model: Path) -> None:
    assert run(model, "--passes", "cleanup", "--quiet") == Result(0, "", "")


def test_dry_run_shows_the_expanded_pipeline_and_writes_nothing(run: Run, model: Path) -> None:
    result = run(model, "--passes", "fuse", "--dry-run")
    assert result.code == 0, result.err
    assert "as text: " in result.out
    assert "fuse-affine" in result.out
    assert files(model.parent) == {"m.onnx"}


def test_timing_and_print_ir(run: Run, model: Path) -> None:
    result = run(model, "--passes", "cleanup", "--timing", "--print-ir-after", "dead-code")
    assert result.code == 0, result.err
    assert "seconds" in result.out
    assert "// after dead-code" in result.err


def test_bisect_limit_zero_changes_nothing(run: Run, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.onnx"
    assert run(model, "-o", output, "--passes", "cleanup", "--bisect-limit", 0).code == 0
    assert len(onnx.load(output).graph.node) == 5
    assert run(model, "-o", output, "--passes", "cleanup").code == 0
    assert len(onnx.load(output).graph.node) == 4


def test_disable(run: Run, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.onnx"
    assert run(model, "-o", output, "--passes", "cleanup", "--disable", "simplify").code == 0
    assert len(onnx.load(output).graph.node) == 5


def test_explain_shows_near_misses_by_rule(run: Run, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    result = run(model, "--passes", "simplify,fuse-gemm", "--explain", "--report", path)
    assert result.code == 0, result.err
    assert "near misses of gemm-add" not in result.out
    report = json.loads(path.read_text())
    jsonschema.validate(report, json.loads(_SCHEMA.read_text()))
    assert report["explanations"] == []

    proto = onnx.load(model)
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info("t"))
    onnx.save(proto, model)
    result = run(model, "--passes", "fuse-gemm", "--explain", "matmul-*", "--report", path)
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
    assert "left alone" in run(model, "--passes", "fuse-gemm").out
    assert "near misses" not in run(model, "--passes", "fuse-gemm").out


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


def test_input_is_overwritten_only_by_force(run: Run, model: Path) -> None:
    before = model.read_bytes()
    result = run(model, "-o", model, "--passes", "cleanup")
    assert result.code == 2
    assert "is the input; add --force to overwrite it" in result.err
    assert model.read_bytes() == before
    assert run(model, "-o", model, "--passes", "cleanup", "--force").code == 0
    assert len(onnx.load(model).graph.node) == 4


def test_a_report_never_overwrites_the_model(run: Run, model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    (tmp_path / "link.onnx").symlink_to(model)
    for report in (model, tmp_path / "link.onnx"):
        result = run(model, "-o", tmp_path / "o.onnx", "--report", report, "--force")
        assert result.code == 2
        assert "is the input" in result.err
    assert model.read_bytes() == before


def _no_such_folder(model: Path) -> list[object]:
    return [model, "-o", model.parent / "none" / "o.onnx"]


def _to_a_pipe(model: Path) -> list[object]:
    os.mkfifo(model.parent / "pipe")  # stands for a device: renaming onto one would replace it
    return [model, "-o", model.parent / "pipe"]


def _truncated(model: Path) -> list[object]:
    model.write_bytes(model.read_bytes()[:-100])
    return [model]


def _not_onnx(model: Path) -> list[object]:
    model.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    return [model]


def _future_opset(model: Path) -> list[object]:
    proto = onnx.load(model)
    proto.opset_import[0].version = 9999
    onnx.save(proto, model)
    return [model]


def _missing_data(model: Path) -> list[object]:
    proto = onnx.load(model)
    onnx.save(proto, model, save_as_external_data=True, location="w.bin", size_threshold=0)
    (model.parent / "w.bin").unlink()
    return [model]


def _calib(model: Path, **arrays: np.ndarray) -> list[object]:
    folder = model.parent / "bad"
    folder.mkdir()
    if arrays:
        np.savez(folder / "0.npz", **arrays)  # type: ignore[arg-type]
    return [model, "--passes", "quant", "--calib", folder]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (lambda m: [m.parent / "none.onnx"], "none.onnx"),
        (lambda m: [m.parent], "folder"),
        (_not_onnx, "ONNX"),
        (_truncated, "damaged or cut short"),
        (_future_opset, "9999"),
        (_missing_data, "w.bin"),
        (lambda m: [m, "--passes", "fues"], "unknown pass 'fues'; did you mean 'fuse'?"),
        (lambda m: [m, "--passes", "prune{sparsty=1}"], "did you mean 'sparsity'?"),
        (lambda m: [m, "--passes", "prune{sparsity=2}"], "2.0 is outside float 0..1"),
        (lambda m: [m, "--passes", "fuse,"], "expected the name of a pass"),
        (lambda m: [m, "--target", "cup"], "did you mean 'cpu'?"),
        (lambda m: [m, "--disable", "cleanupp"], "names no pass or rule"),
        (lambda m: [m, "--print-ir-after", "cleanupp"], "names no pass or rule"),
        (lambda m: [m, "--explain", "gemm-ad"], "did you mean 'gemm-add'?"),
        (_no_such_folder, "does not exist"),
        (lambda m: [m, "-o", m.parent], "is a folder"),
        (lambda m: [m, "--calib", m.parent / "none"], "none"),
        (lambda m: _calib(m), "no "),
        (lambda m: _calib(m, z=np.zeros((1, 16), np.float32)), "no input 'z'; inputs: x"),
        (lambda m: _calib(m, x=np.zeros((1, 15), np.float32)), "15"),
        (lambda m: _calib(m, x=np.zeros((1, 16), np.int64)), "int64"),
        (lambda m: _calib(m, x=np.full((1, 16), np.nan, np.float32)), "NaN"),
        (lambda m: [m, "--verify", "sometimes"], "--verify"),
        (lambda m: [m, "--seed", -1], "--seed"),
        (lambda m: [m, "--sed", 1], "--seed"),
        (lambda m: [], "MODEL"),
        (lambda m: [m, "--max-error", "nan"], "nan"),
        (lambda m: [m, "--passes", "quant", "--max-drop", "lots"], "give one such as 1%"),
        (lambda m: [m, "--max-drop", "1%"], "put quant into the pipeline"),
        (lambda m: [m, "--best-effort"], "leave out --best-effort"),
        (lambda m: [m, "--passes", "quant", "--max-drop", "1%"], "nothing to judge by"),
        (lambda m: ["."], "is a folder"),
        (lambda m: ["/"], "is a folder"),
        (lambda m: [m, "--dry-run", "--disable", "cleanupp"], "names no pass or rule"),
        (lambda m: [m, "--report", m, "--force"], "is the input"),
        (lambda m: [m, "-o", m.parent / "o", "--report", m.parent / "o"], "named twice"),
        (_to_a_pipe, "is not a regular file"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    run: Run, model: Path, words: Callable[[Path], list[object]], message: str
) -> None:
    given = words(model)
    before = files(model.parent)
    result = run(*given)
    assert result.code == 2, result
    assert message in result.err
    lines = [line for line in result.err.splitlines() if line]
    if "pipeline:" in result.err:
        assert lines[2].strip() == "^"
    else:
        assert len(lines) == 1, result.err
        assert lines[0].startswith("optimize: error: ")
    assert "Traceback" not in result.err
    assert files(model.parent) == before


def test_an_already_quantized_model_passes_through_with_a_note(
    run: Run, model: Path, samples: Path, tmp_path: Path
) -> None:
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    assert run(model, "-o", once, "--passes", "quant", "--calib", samples).code == 0
    result = run(once, "-o", twice, "--passes", "quant", "--calib", samples)
    assert result.code == 0, result.err
    assert "quantized" in result.out
    ops = [sorted(node.op_type for node in onnx.load(path).graph.node) for path in (once, twice)]
    assert ops[0] == ops[1]


def test_a_wrong_pass_exits_3_and_writes_nothing(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "scale", "burnish_test_passes:Scale")
    _install_passes(monkeypatch)
    result = run(model, "--passes", "scale")
    assert result.code == 3
    assert result.err.startswith("optimize: error: after scale the outputs differ")
    assert files(model.parent) == {"m.onnx"}


def test_a_missed_budget_exits_4_and_writes_nothing(run: Run, model: Path) -> None:
    result = run(model, "--passes", "prune{sparsity=0.9}", "--max-error", 0.001)
    assert result.code == 4
    assert "the budget is 0.001" in result.err
    assert files(model.parent) == {"m.onnx"}


def test_best_effort_goes_as_far_as_it_can(run: Run, model: Path) -> None:
    passes = ("--passes", "cleanup,prune-neurons{params=0.01 align=8}")
    result = run(model, *passes)
    assert result.code == 4
    assert "params=0.01 cannot be met: 0.25 is the least there is" in result.err
    assert "add --best-effort" in result.err
    assert files(model.parent) == {"m.onnx"}
    result = run(model, *passes, "--best-effort")
    assert result.code == 0, result.err
    assert "params=0.01 cannot be met: 0.25 is the least there is" in result.out + result.err
    assert files(model.parent) == {"m.onnx", "m.opt.onnx"}
    written = onnx.load(model.with_name("m.opt.onnx"))
    # Of 32 neurons, each with 16 weights, a bias and 8 weights behind, 8 are left.
    assert {tuple(each.dims) for each in written.graph.initializer} == {(16, 8), (8,), (8, 8)}


def test_an_internal_error_exits_1_with_a_reproducer(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "crash", "burnish_test_passes:Crash")
    _install_passes(monkeypatch)
    result = run(model, "--passes", "cleanup,crash")
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
    assert "Traceback" in run(model, "--passes", "crash", "--debug").err


def test_a_rule_that_raises_is_skipped_with_a_warning_and_a_reproducer(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "faulty", "burnish_test_passes:Faulty")
    _install_passes(monkeypatch)
    path = tmp_path / "r.json"
    result = run(model, "--passes", "faulty,cleanup", "--report", path)
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


def test_strict_stops_at_a_rule_that_raises(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "faulty", "burnish_test_passes:Faulty")
    _install_passes(monkeypatch)
    result = run(model, "--passes", "faulty,cleanup", "--strict")
    assert result.code == 1
    assert "internal error: KeyError('lost')" in result.err
    assert files(model.parent) == {"m.onnx", "m.opt.reproducer.zip"}
    with zipfile.ZipFile(model.with_name("m.opt.reproducer.zip")) as opened:
        assert json.loads(opened.read("about.json"))["failed_in"]["name"] == "raises"


def _install_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make passes that misbehave importable by name."""
    import types
    from dataclasses import dataclass
    from typing import ClassVar

    from burnish.passes.base import Pass
    from burnish.passes.context import PassContext

    @dataclass(frozen=True)
    class Scale(Pass):
        """Changes a weight, and claims not to."""

        name: ClassVar[str] = "scale"

        def apply(self, model: ir.Model, ctx: PassContext) -> None:
            with ctx.rewrite("scale", "w") as go:
                if go:
                    value = model.graph.initializers["w"]
                    assert value.const_value is not None
                    value.const_value = ir.tensor(value.const_value.numpy() * 2, name="w")

    @dataclass(frozen=True)
    class Crash(Pass):
        """Raises."""

        name: ClassVar[str] = "crash"

        def apply(self, model: ir.Model, ctx: PassContext) -> None:
            with ctx.rewrite("crash-rule", "w"):
                raise ZeroDivisionError("division by zero")

    @rule
    def hide_add(op: Any, x: Any) -> Any:
        """Add(x, 1) -> Sub(x, -1)."""
        return op.Add(x, 1.0)

    @hide_add.rewrite
    def _(op: Any, x: Any) -> Any:
        return op.Sub(x, -1.0)

    @rule
    def raises(op: Any, x: Any, w: Any) -> Any:
        """MatMul(x, w) -> an exception."""
        return op.MatMul(x, w)

    @raises.rewrite
    def _(op: Any, x: Any, w: Any) -> Any:
        op.Neg(x)
        raise KeyError("lost")

    module = types.ModuleType("burnish_test_passes")
    module.__dict__.update(Scale=Scale, Crash=Crash)
    module.__dict__.update(Hide=pass_of("hide", hide_add), Faulty=pass_of("faulty", raises))
    monkeypatch.setitem(sys.modules, "burnish_test_passes", module)


def test_a_group_without_a_command_shows_its_help(run: Run) -> None:
    result = run(script="burnish")
    assert result.code == 2
    assert len(result.err.splitlines()) > 5
    result = run("inspect", "--frob", script="burnish")
    assert result.code == 2
    assert result.err.startswith("burnish: error: No such option")
    assert result.err.endswith("see burnish inspect --help\n")


def test_inspect(run: Run, model: Path) -> None:
    result = run("inspect", model, script="burnish")
    assert result.code == 0, result.err
    assert "float[N,16]" in result.out
    assert "MatMul" in result.out
    data = json.loads(run("inspect", model, "--json", script="burnish").out)
    assert data["ops"] == {"Add": 1, "Identity": 1, "MatMul": 2, "Relu": 1}
    assert data["inputs"] == [{"name": "x", "dtype": "float", "shape": ["N", 16]}]


def _gelu(path: Path) -> Path:
    """A model of which the runtime makes one BiasGelu."""
    constants = "float[4] b = {1, 2, 3, 4}, float root = {1.41421356}, float one = {1}"
    body = "t = Add(x, b)  d = Div(t, root)  e = Erf(d)  o = Add(e, one)  m = Mul(t, o)"
    text = f"g (float[2,4] x) => (float[2,4] y) <{constants}, float half = {{0.5}}> "
    ir.save(parse(f"{text} {{ {body}  y = Mul(m, half) }}"), path)
    return path


def test_inspect_fused_counts_what_is_stored_and_what_is_executed(run: Run, tmp_path: Path) -> None:
    gelu = _gelu(tmp_path / "g.onnx")
    result = run("inspect", gelu, "--fused", script="burnish")
    assert result.code == 0, result.err
    assert "com.microsoft::BiasGelu" in result.out
    after = tmp_path / "after.onnx"
    assert run(gelu, "-o", after).code == 0
    result = run("inspect", gelu, after, "--fused", script="burnish")
    assert (f"A: {gelu}" in result.out, "note:" in result.out) == (True, False)
    data = json.loads(run("inspect", gelu, after, "--fused", "--json", script="burnish").out)
    assert data["losses"] == {str(after): []}
    sides = ("stored", "executed")
    stored, executed = ([item[side]["fused"] for item in data["models"]] for side in sides)
    assert stored == [{}, {"Gelu": 1}]
    assert executed == [{"com.microsoft::BiasGelu": 1}] * 2
    same = run("inspect", gelu, gelu, "--fused", "--json", script="burnish")
    assert [item["model"] for item in json.loads(same.out)["models"]] == [str(gelu), f"{gelu} #2"]
    assert run("inspect", gelu, after, script="burnish").code == 2


def test_census_goes_into_the_report(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    result = run(_gelu(tmp_path / "g.onnx"), "--census", "--report", path)
    assert result.code == 0, result.err
    assert "com.microsoft::BiasGelu" in result.out
    report = json.loads(path.read_text())
    jsonschema.validate(report, json.loads(_SCHEMA.read_text()))
    assert report["census"]["before"]["stored"]["nodes"] == 6
    assert report["census"]["after"]["executed"]["ops"] == {"com.microsoft::BiasGelu": 1}


def test_a_census_that_got_worse_is_a_warning(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "hide", "burnish_test_passes:Hide")
    _install_passes(monkeypatch)
    result = run(_gelu(tmp_path / "g.onnx"), "--census", "--passes", "hide")
    assert result.code == 0, result.err
    out = " ".join(result.out.split())
    assert "note: the runtime executes 1 fewer com.microsoft::BiasGelu than it makes" in out


def test_passes_lists_all_and_describes_one(run: Run) -> None:
    listing = run("passes", script="burnish")
    assert listing.code == 0, listing.err
    for name in registry.names():
        assert name in listing.out
    one = run("passes", "prune", script="burnish")
    assert "`sparsity`" in one.out
    wrong = run("passes", "prun", script="burnish")
    assert (wrong.code, "did you mean 'prune'?" in wrong.err) == (2, True)


def test_bisect_names_the_first_bad_rewrite(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "scale", "burnish_test_passes:Scale")
    _install_passes(monkeypatch)
    good = run("bisect", model, "--passes", "cleanup", script="burnish")
    assert (good.code, "no rewrite is at fault" in good.out) == (0, True)
    assert "burnish bisect" in run(model, "--passes", "cleanup,scale").err
    bad = run("bisect", model, "--passes", "cleanup,scale", script="burnish")
    assert bad.code == 3
    assert "rewrite 2 is the first bad one: rule scale of pass scale at 'w'" in bad.out
    assert f"optimize {model} --passes cleanup,scale --bisect-limit 2\n" in bad.out
    assert "the first 1 rewrites: good" in bad.err
    found = run("bisect", model, "--passes", "cleanup,scale", "--json", script="burnish")
    assert (found.code, json.loads(found.out)["number"]) == (3, 2)
    words = ("bisect", model, "--passes", "cleanup,scale", "--disable", "scale")
    assert run(*words, script="burnish").code == 0
    assert run("bisect", model, "--disable", "nothing", script="burnish").code == 2
    assert files(model.parent) == {"m.onnx"}


def test_bench(run: Run, model: Path) -> None:
    few = ("--repeats", 5, "--loads", 2)
    result = run("bench", model, model, *few, "--dim", "N=2", "--json", script="burnish")
    assert result.code == 0, result.err
    data = json.loads(result.out)
    assert (data["rounds"], data["loads"]) == (6, 2)
    assert [item["name"] for item in data["timings"]] == [f"{model} #1", f"{model} #2"]
    assert run("bench", model, "--dim", "N=x", script="burnish").code == 2
    assert run("bench", model.parent / "no.onnx", script="burnish").code == 2


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
    run: Run, attention: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BURNISH_MEASURE")
    report, first, second = (tmp_path / name for name in ("r.json", "a.onnx", "b.onnx"))
    measured = run(attention, "-o", first, "--report", report)
    assert measured.code == 0, measured.err
    assert (
        "attention: Attention for Transpose, 2 MatMul, Mul, Softmax at 1x32x64 float: "
        in measured.out
    )
    assert "in 1 place (measured" in measured.out
    jsonschema.validate(json.loads(report.read_text()), json.loads(_SCHEMA.read_text()))
    replayed = run(attention, "-o", second, "--decisions", report)
    assert "in 1 place (replayed" in replayed.out
    assert first.read_bytes() == second.read_bytes()
    assert "in 1 place (cached" in run(attention, "-o", second).out


def test_without_measuring_the_table_decides(
    run: Run, attention: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BURNISH_MEASURE")
    result = run(attention, "--no-measure")
    assert "1.10x rewritten in 1 place (recorded, not measured: measuring is off)" in result.out
    assert not (attention.parent / "cache").exists()


def test_a_wrong_decisions_file_is_one_line(run: Run, attention: Path) -> None:
    result = run(attention, "--decisions", attention)
    assert result.code == 2
    assert result.err == (
        f"optimize: error: decisions {attention} is not JSON; give what optimize --report wrote\n"
    )
    assert files(attention.parent) == {"attention.onnx"}


def test_zoo_list(run: Run) -> None:
    result = run("zoo", "list", script="burnish")
    assert result.code == 0, result.err
    assert "ppocrv6-rec" in result.out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['optimize', '--help']\n"
        "from burnish.tools.cli import optimize_main\n"
        "try:\n    optimize_main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'rich', 'networkx'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("script", ["optimize", "burnish"])
def test_console_scripts_are_installed(script: str) -> None:
    path = Path(sysconfig.get_path("scripts")) / script
    done = subprocess.run([path, "--help"], check=True, capture_output=True, text=True)
    assert "Usage:" in done.stdout
