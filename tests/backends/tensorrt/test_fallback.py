# SPDX-License-Identifier: Apache-2.0
"""Models of which TensorRT refuses a part: engines of the rest, and ONNX Runtime for that part."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

import burnish
from burnish import api
from burnish.backends import numeric
from burnish.backends.artifact.folder import Plan
from burnish.backends.artifact.manifest import read
from burnish.backends.feeds import random_feeds
from burnish.backends.onnxruntime import session
from burnish.backends.profiles import Profile, Range
from burnish.backends.tensorrt import build, fallback, plan, profiles
from burnish.backends.tensorrt.fallback import Split
from burnish.backends.tensorrt.parse import UnsupportedError
from burnish.errors import InputError, UnavailableError
from burnish.tools import zoo

pytest.importorskip("tensorrt_rtx")

Made = Any
TARGET = "tensorrt-rtx:sm89"

# QuickGelu is ONNX Runtime's own. The last Reshape needs the shape of the input.
MIDDLE = """g (float[N,8,16,16] x) => (float[N,8,16,16] y) {
    [first] a = Conv<pads=[1,1,1,1]>(x, w)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, w)
    d = Relu(c)  e = Conv<pads=[1,1,1,1]>(d, w)
    [middle] q = com.microsoft.QuickGelu(e)
    f = Conv<pads=[1,1,1,1]>(q, w)  g = Relu(f)  h = Conv<pads=[1,1,1,1]>(g, w)
    i = Relu(h)  j = Conv<pads=[1,1,1,1]>(i, w)
    k = Flatten(j)  s = Shape(x)  [last] y = Reshape(k, s)
}"""
WEIGHTS = {"w": (8, 8, 3, 3)}


def split(trt: Any, model: ir.Model, *ranges: str) -> Split:
    given = profiles.parse(ranges, model) if ranges else ()
    shapes, _ = profiles.resolve(model, given)
    return fallback.split(trt, build.builder(trt), model, shapes)


def chain(start: str, end: str, layers: int = 3) -> str:
    """Text of products and activations that lead from one value to another."""
    names = [start, *(f"{end}{n}" for n in range(2 * layers - 1)), end]
    made = [
        f"{after} = {'MatMul' if n % 2 == 0 else 'Tanh'}({before}{', w' if n % 2 == 0 else ''})"
        for n, (before, after) in enumerate(itertools.pairwise(names))
    ]
    return "  ".join(made)


def assert_composes(found: Split, model: ir.Model, feeds: Mapping[str, Any]) -> None:
    with session(model) as whole:
        assert numeric.compare_outputs(whole.run(feeds), found.parts.run(feeds)).ok


def test_a_refused_node_in_the_middle_makes_three_parts(trt: Any, made: Made) -> None:
    model = made(MIDDLE, **WEIGHTS)
    found = split(trt, model, "N=1:2:4")
    assert found.engines == (True, False, True)
    assert [stage.nodes for stage in found.parts.stages] == [5, 1, 8]  # with Shape
    (left,) = found.left
    assert (left.node, left.op_type) == ("middle", "com.microsoft::QuickGelu")
    assert "plugin" in left.reason
    # The shape is read where it is needed, of the input: an engine takes no sizes.
    assert found.parts.stages[2].inputs == ("q", "x")
    sizes = Range((1, 8, 16, 16), (2, 8, 16, 16), (4, 8, 16, 16))
    assert found.profiles == (
        (Profile("shapes-0", {"x": sizes}),),
        (),
        (Profile("shapes-0", {"q": sizes, "x": sizes}),),
    )
    assert "takes 12 of 13 nodes, in 2 of 3 parts" in str(found)
    assert_composes(found, model, {"x": np.ones((3, 8, 16, 16), np.float32)})


def test_without_the_option_it_is_refused_by_name(made: Made, tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedError, match=r"QuickGelu 'middle'.*--engine fallback=onnxruntime"
    ):
        burnish.optimize(
            made(MIDDLE, **WEIGHTS), "fuse", target=TARGET, artifact=Plan(tmp_path / "a")
        )
    assert not (tmp_path / "a").exists()


@pytest.fixture
def artifact(made: Made, tmp_path: Path) -> Path:
    burnish.optimize(
        made(MIDDLE, **WEIGHTS),
        "fuse",
        target=TARGET,
        artifact=Plan(
            tmp_path / "a",
            ranges=("N=1:2:4",),
            options={"fallback": "onnxruntime", "level": "1"},
        ),
    )
    return tmp_path / "a"


def test_the_artifact_holds_a_folder_for_each_part(artifact: Path) -> None:
    manifest = read(artifact)
    assert manifest.kind == "staged"
    assert list(manifest.files) == [
        "part-0/sm89.engine",
        "part-1/model.onnx",
        "part-2/sm89.engine",
    ]
    assert manifest.entry == "part-0/sm89.engine"
    assert manifest.requires["compute_capability"] == ["sm89"]
    assert manifest.requires["tensorrt-rtx"] == manifest.versions["tensorrt-rtx"]
    assert manifest.details["options"] == {"fallback": "onnxruntime", "level": 1}
    assert [left["node"] for left in manifest.details["left"]] == ["middle"]
    parts = manifest.details["parts"]
    assert [part["kind"] for part in parts] == ["tensorrt-engine", "onnx", "tensorrt-engine"]
    assert [part["inputs"] for part in parts] == [["x"], ["e"], ["q"]]  # Reshape is gone
    assert manifest.profiles[0].inputs["x"].max == (4, 8, 16, 16)
    for number in (0, 2):
        engine = plan.read(artifact / f"part-{number}" / "sm89.engine")
        assert engine.summary() == parts[number]["details"]["engines"]["sm89.engine"]["structure"]
        assert engine.summary()["products"] == {"float": 3}
        assert parts[number]["details"]["options"] == {"level": 1}
    with session(artifact / "part-1" / "model.onnx") as middle:
        x = np.linspace(-3, 3, 8 * 16 * 16, dtype=np.float32).reshape(1, 8, 16, 16)
        # y = x * sigmoid(1.702 x), to the rounding of float32
        expected = x / (1 + np.exp(-1.702 * x))
        np.testing.assert_allclose(middle.run({"e": x})["q"], expected, rtol=1e-5, atol=1e-6)


def test_the_same_model_gives_the_same_bytes(artifact: Path, made: Made, tmp_path: Path) -> None:
    options = {"fallback": "onnxruntime", "level": "1"}
    burnish.optimize(
        made(MIDDLE, **WEIGHTS),
        "fuse",
        target=TARGET,
        artifact=Plan(tmp_path / "b", ranges=("N=1:2:4",), options=options),
    )
    for name in ("manifest.json", *read(artifact).files):
        assert (artifact / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.usefixtures("without_gpu")
def test_running_it_takes_a_gpu(artifact: Path) -> None:
    with pytest.raises(UnavailableError, match=r"there is no (NVIDIA driver|GPU) on"):
        burnish.load_artifact(artifact)
    (artifact / "part-1" / "model.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=r"part-1/model\.onnx has 0 bytes instead of"):
        burnish.load_artifact(artifact)


def test_the_command_line(made: Made, tmp_path: Path) -> None:
    from burnish.tools.inspect import command as inspect
    from burnish.tools.optimize import command as optimize

    ir.save(made(MIDDLE, **WEIGHTS), tmp_path / "m.onnx")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "m.onnx"), "-o", f"{out}/", "--target", TARGET, "--no-measure"]
    arguments += ["--passes", "fuse", "--engine", "fallback=onnxruntime"]
    done = CliRunner().invoke(optimize, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "in 2 of 3 parts; ONNX Runtime runs com" in " ".join(done.output.split())
    shown = CliRunner().invoke(inspect, [str(out), "--json"], catch_exceptions=False)
    engines = [Path(engine["engine"]).parent.name for engine in json.loads(shown.output)]
    assert engines == ["part-0", "part-2"]


def test_a_model_that_is_taken_whole_is_one_engine(made: Made, tmp_path: Path) -> None:
    model = made(f"g (float[N,8] x) => (float[N,8] y) {{ {chain('x', 'y')} }}", w=(8, 8))
    for kind in (None, "staged"):
        wanted = Plan(tmp_path / "a", kind, options={"fallback": "onnxruntime"})
        burnish.optimize(model, "fuse", target=TARGET, artifact=wanted)
        assert read(tmp_path / "a").kind == "tensorrt-engine"
        shutil.rmtree(tmp_path / "a")


def test_small_groups_stay_with_onnx_runtime(trt: Any, made: Made) -> None:
    text = f"""g (float[N,8] x) => (float[N,8] y) {{
        a = com.microsoft.QuickGelu(x)  b = MatMul(a, w)  c = Relu(b)
        d = com.microsoft.QuickGelu(c)  {chain("d", "y")}
    }}"""
    found = split(trt, made(text, w=(8, 8)))
    assert found.engines == (False, True)
    assert [left.node for left in found.left] == ["a", "b", "c", "d"]
    assert "fewer than 5" in found.left[1].reason
    with pytest.raises(InputError, match=r"takes no 5 nodes .* together: .*QuickGelu.*--kind onnx"):
        split(trt, made(text.replace(chain("d", "y"), "y = Relu(d)"), w=(8, 8)))


def test_sizes_that_depend_on_values_stay_with_onnx_runtime(trt: Any, made: Made) -> None:
    model = made(
        f"""g (float[N,8] x) => (float[M,8] y, float[8] z) {{
            {chain("x", "a")}
            [pick] u, i, j, k = Unique<axis=0>(a)
            {chain("u", "y")}
            [sum] r = ReduceMax<keepdims=0>(y, axes)
            {chain("r", "z")}
        }}""",
        w=(8, 8),
        axes=np.array([0], np.int64),
    )
    found = split(trt, model)
    # From where the size is that of the input's again, an engine takes over.
    assert found.engines == (True, False, True)
    assert [stage.nodes for stage in found.parts.stages] == [6, 8, 6]
    assert found.left[0].op_type == "Unique"
    assert {left.reason for left in found.left[1:]} == {fallback._VALUES}
    assert_composes(found, model, {"x": np.ones((4, 8), np.float32)})


def test_sizes_that_come_from_outside_stay_with_onnx_runtime(trt: Any, made: Made) -> None:
    model = made(
        f"""g (float[8,8] x, int64[8] ids) => (float[M,8] y) {{
            {chain("x", "a")}
            t = ReduceSum(ids, zero)  n = Add(t, one)
            [middle] q = com.microsoft.QuickGelu(a)
            {chain("q", "b")}
            [cut] s = Slice(b, zero, n, zero)
            {chain("s", "y")}
        }}""",
        w=(8, 8),
        zero=np.array([0], np.int64),
        one=np.array([1], np.int64),
    )
    found = split(trt, model)
    reasons = {left.node: left.reason for left in found.left}
    assert reasons["cut"] == fallback._OUTSIDE
    # Nothing says so of the operator, but two runs on inputs of the same shapes show it.
    assert reasons["y"] == fallback._VALUES
    assert found.engines == (True, False, True, False)
    feeds = {"x": np.ones((8, 8), np.float32), "ids": np.arange(8) % 2}
    assert_composes(found, model, feeds)


def test_types_that_an_engine_has_not(trt: Any, made: Made) -> None:
    model = made(
        f"""g (float[N,8] x) => (float[N,8] y) {{
            {chain("x", "a")}
            b = Cast<to=11>(a)  c = Exp(b)  d = Cast<to=1>(c)
            e = com.microsoft.QuickGelu(d)
            {chain("e", "y")}
        }}""",
        w=(8, 8),
    )
    found = split(trt, model)
    assert [left.op_type for left in found.left] == [
        *("Cast", "Exp", "Cast"),
        "com.microsoft::QuickGelu",
    ]
    # What goes from part to part is float32; TensorRT would make float64 of its inputs that.
    for stage in found.parts.stages:
        values = (*stage.model.graph.inputs, *stage.model.graph.outputs)
        assert {value.dtype for value in values} == {ir.DataType.FLOAT}
    assert_composes(found, model, {"x": np.ones((2, 8), np.float32)})


def test_a_refused_node_in_a_branch_leaves_the_whole_if(trt: Any, made: Made) -> None:
    model = made(
        f"""g (float[2,8] x, bool c) => (float[2,8] y) {{
            {chain("x", "a")}
            [branch] b = If(c) <
                then_branch = t () => (float[2,8] u) {{ u = com.microsoft.QuickGelu(a) }},
                else_branch = e () => (float[2,8] v) {{ v = Relu(a) }}>
            {chain("b", "y")}
        }}""",
        w=(8, 8),
    )
    found = split(trt, model)
    assert found.engines == (True, False, True)
    assert [left.node for left in found.left] == ["branch"]
    for c in (True, False):
        feeds = {"x": np.ones((2, 8), np.float32), "c": np.array(c)}
        assert_composes(found, model, feeds)


@pytest.mark.zoo
def test_a_real_model_with_another_runtimes_operator_in_the_middle(
    trt: Any, tmp_path: Path
) -> None:
    model = api.load(zoo.fetch("minilm-l6-dynamo"))
    gelus = [node for node in model.graph if node.op_type in ("Erf", "Gelu")]
    assert len(gelus) == 6
    # QuickGelu stands where the function within the third layer's activation stood.
    old = gelus[3]
    new = ir.node("QuickGelu", [old.inputs[0]], domain="com.microsoft", name="middle")
    new.outputs[0].type, new.outputs[0].shape = old.outputs[0].type, old.outputs[0].shape
    model.graph.insert_before(old, new)
    ir.convenience.replace_all_uses_with(old.outputs[0], new.outputs[0])
    model.graph.remove(old, safe=True)
    model.opset_imports["com.microsoft"] = 1
    source = tmp_path / "m.onnx"
    ir.save(model, source)
    burnish.optimize(
        source,
        "fuse",
        target=TARGET,
        artifact=Plan(
            tmp_path / "a",
            ranges=("batch=1:1:4,sequence=1:64:128",),
            options={"fallback": "onnxruntime"},
        ),
    )
    manifest = read(tmp_path / "a")
    parts = manifest.details["parts"]
    assert [part["kind"] for part in parts] == ["tensorrt-engine", "onnx", "tensorrt-engine"]
    assert [left["node"] for left in manifest.details["left"]] == ["middle"]
    products = [
        sum(
            plan.read(tmp_path / "a" / part["folder"] / "sm89.engine")
            .summary()["products"]
            .values()
        )
        for part in parts
        if part["kind"] == "tensorrt-engine"
    ]
    assert all(count > 10 for count in products)


@pytest.mark.zoo
def test_a_real_model_with_refused_nodes_everywhere(tmp_path: Path) -> None:
    burnish.optimize(
        zoo.fetch("quantized-t5-encoder"),
        "fuse",
        target=TARGET,
        artifact=Plan(tmp_path / "a", options={"fallback": "onnxruntime"}),
        verify="off",
    )
    details = read(tmp_path / "a").details
    reasons = {left["reason"] for left in details["left"] if left["op_type"] == "MatMulInteger"}
    assert reasons == {"it does not support this operator"}
    engines = [part for part in details["parts"] if part["kind"] == "tensorrt-engine"]
    assert len(engines) > 20
    # Every other part is an engine, and the engines hold most of the nodes.
    assert abs(2 * len(engines) - len(details["parts"])) <= 1
    assert sum(part["nodes"] for part in engines) > 2 * len(details["left"])
    for part in engines:
        assert plan.read(tmp_path / "a" / part["folder"] / "sm89.engine").kernels


@pytest.mark.gpu
def test_parts_compute_on_a_gpu_what_the_model_does(made: Made, tmp_path: Path) -> None:
    model = made(MIDDLE, **WEIGHTS)
    wanted = Plan(
        tmp_path / "a",
        ranges=("N=1:2:4",),
        options={"fallback": "onnxruntime", "tf32": False},
    )
    burnish.optimize(model, "fuse", target="tensorrt-rtx", artifact=wanted)
    with burnish.load_artifact(tmp_path / "a") as loaded, session(model) as whole:
        feeds = random_feeds(whole, seed=3, dims={"N": 4})
        expected, got = whole.run(feeds)["y"], loaded.run(feeds)["y"]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
