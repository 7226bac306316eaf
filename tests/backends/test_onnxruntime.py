# SPDX-License-Identifier: Apache-2.0
"""Sessions: every way in, every type, large weights, inner values, and what is said on failure."""

from __future__ import annotations

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from burnish.backends.kernels import max_ir_version
from burnish.backends.onnxruntime import OnnxRuntime, Optimize, TensorSpec, explain, session
from burnish.backends.target import Target
from burnish.errors import BurnishError, InputError

HEAD = '<ir_version: 10, opset_import: ["": 20]>'


def parse(text: str, head: str = HEAD) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f"{head} {text}"))


def initialize(model: ir.Model, **weights: np.ndarray) -> ir.Model:
    """Turn graph inputs of these names into initializers."""
    for value in list(model.graph.inputs):
        if value.name in weights:
            model.graph.inputs.remove(value)
            value.const_value = ir.tensor(weights[value.name], name=value.name)
            model.graph.register_initializer(value)
    return model


@pytest.fixture
def mlp() -> ir.Model:
    """Give y = relu(x @ w) + b; w is over the size that travels in the model, b is under."""
    rng = np.random.default_rng(0)
    model = parse(
        """g (float[B,64] x, float[64,64] w, float[64] b) => (float[B,64] y) {
            [first] t = MatMul(x, w)  [second] r = Relu(t)  [third] y = Add(r, b) }"""
    )
    w = rng.standard_normal((64, 64), dtype=np.float32)
    return initialize(model, w=w, b=rng.standard_normal(64, dtype=np.float32))


X = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)


def weight(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def mlp_values(model: ir.Model) -> dict[str, np.ndarray]:
    w, b = weight(model, "w"), weight(model, "b")
    t = X.astype(np.float64) @ w
    return {"t": t, "y": np.maximum(t, 0) + b}


def test_a_model_runs_from_memory_bytes_and_path(mlp: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    ir.save(mlp, path)
    expected = mlp_values(mlp)["y"]
    for source in (mlp, path, path.read_bytes()):
        with session(source) as loaded:
            y = loaded.run({"x": X})["y"]
        # Sums of 64 products in float32.
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_the_model_is_left_as_it_was(mlp: ir.Model) -> None:
    before = {n: v.const_value for n, v in mlp.graph.initializers.items()}
    text = str(ir.to_proto(mlp))
    session(mlp, extra_outputs=["t"])
    assert all(mlp.graph.initializers[n].const_value is t for n, t in before.items())
    assert str(ir.to_proto(mlp)) == text


def test_specs_tell_names_types_and_shapes(mlp: ir.Model) -> None:
    loaded = session(mlp)
    assert loaded.inputs == (TensorSpec("x", ir.DataType.FLOAT, ("B", 64)),)
    assert loaded.outputs == (TensorSpec("y", ir.DataType.FLOAT, ("B", 64)),)


def test_specs_of_sequences_and_unnamed_dimensions() -> None:
    loaded = session(
        parse("g (seq(float[2]) s, float[N, ?] x) => (int64 n) { n = SequenceLength(s) }")
    )
    assert loaded.inputs[0].dtype is ir.DataType.UNDEFINED
    assert loaded.inputs[1].shape[0] == "N"
    assert not isinstance(loaded.inputs[1].shape[1], int)


def test_outputs_can_be_chosen() -> None:
    loaded = session(parse("g (float[2] x) => (float[2] a, float[2] b) { a = Abs(x)  b = Neg(x) }"))
    x = np.array([-1, 2], np.float32)
    assert list(loaded.run({"x": x})) == ["a", "b"]
    chosen = loaded.run({"x": x}, ["b"])
    assert list(chosen) == ["b"]
    np.testing.assert_array_equal(chosen["b"], [1, -2])


@pytest.mark.parametrize("level", ["off", "basic", "extended", "all"])
@pytest.mark.parametrize("threads", [1, 2])
def test_levels_and_threads_agree(mlp: ir.Model, level: Optimize, threads: int) -> None:
    y = session(mlp, optimize=level, threads=threads).run({"x": X})["y"]
    np.testing.assert_allclose(y, mlp_values(mlp)["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("level", ["basic", "extended", "all"])
def test_the_runtime_may_fold_weights_it_was_handed(level: Optimize, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = parse(
        """g (float[1,32,9,9] x, float[32,32,3,3] w, float[32] s, float[32] b, float[32] m,
              float[32] v, float[50,32] h) => (float[1,50] y) {
            c = Conv<pads = [1,1,1,1]>(x, w)  n = BatchNormalization(c, s, b, m, v)  r = Relu(n)
            p = GlobalAveragePool(r)  f = Flatten(p)  t = Transpose(h)  y = MatMul(f, t) }"""
    )
    weights = {
        name: rng.uniform(0.5, 1, shape).astype(np.float32)
        for name, shape in {
            "w": (32, 32, 3, 3),
            "h": (50, 32),
            **dict.fromkeys("sbmv", (32,)),
        }.items()
    }
    model = initialize(model, **weights)
    x = {"x": rng.standard_normal((1, 32, 9, 9), dtype=np.float32)}
    expected = session(model).run(x)["y"]
    path = tmp_path / "m.onnx"
    ir.save(model, path, external_data="w.bin", size_threshold_bytes=0)
    for source in (model, ir.load(path), path):
        y = session(source, optimize=level).run(x)["y"]
        # The scale goes into the weights, another kernel sums 288 products: float32.
        np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_without_prepacking_the_result_is_the_same(mlp: ir.Model) -> None:
    y = session(mlp, prepack=False).run({"x": X})["y"]
    np.testing.assert_allclose(y, mlp_values(mlp)["y"], rtol=1e-5, atol=1e-5)


# --- types -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        np.array([1.5, -2], np.float32),
        np.array([1.5, -2], np.float64),
        np.array([1.5, -2], np.float16),
        np.array([1.5, -2], ml_dtypes.bfloat16),
        np.array([1, -2], np.int8),
        np.array([1, 200], np.uint8),
        np.array([1, -(2**40)], np.int64),
        np.array([1, -2], np.int32),
        np.array([True, False]),
        np.array(["a", "longer than that"], dtype=object),
    ],
    ids=lambda values: str(values.dtype),
)
def test_types_pass_through(values: np.ndarray) -> None:
    name = ir.DataType.from_numpy(values.dtype).name.lower() if values.dtype != object else "string"
    loaded = session(parse(f"g ({name}[N] x) => ({name}[N] y) {{ y = Identity(x) }}"))
    y = loaded.run({"x": values})["y"]
    assert y.dtype == values.dtype
    np.testing.assert_array_equal(y, values)


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.int4, ml_dtypes.uint4])
def test_narrow_types_come_in_and_out(dtype: type) -> None:
    name = ir.DataType.from_numpy(np.dtype(dtype)).name.lower()
    number = int(ir.DataType.from_numpy(np.dtype(dtype)))
    text = f"g ({name}[3] x) => ({name}[3] y, float[3] f)"
    text += f"{{ f = Cast<to=1>(x)  y = Cast<to={number}>(f) }}"
    loaded = session(parse(text, '<ir_version: 10, opset_import: ["": 21]>'))
    x: np.ndarray = np.array([1, 2, 5], dtype)
    got = loaded.run({"x": x})
    assert got["y"].dtype == x.dtype
    np.testing.assert_array_equal(got["y"].astype(np.float32), [1, 2, 5])
    np.testing.assert_array_equal(got["f"], [1, 2, 5])


@pytest.mark.parametrize("shape", [(300, 1, 1), (40, 40), (40, 8, 1)])
@pytest.mark.parametrize("level", ["basic", "all"])
def test_weights_that_the_runtime_transposes_are_read_as_it_left_them(
    level: Optimize, shape: tuple[int, ...]
) -> None:
    channels, columns = shape[-3] if len(shape) > 2 else 40, shape[-1] if len(shape) == 2 else 5
    rows = shape[-2] if shape[-2] > 1 else 40
    model = parse(
        f"g (float[1,{rows},{columns},{channels}] x, float{[*shape]} s) => (float[A,B,C,D] y)"
        "{ p = Transpose<perm = [0, 3, 1, 2]>(x)  m = Mul(s, p)"
        "  y = Transpose<perm = [0, 2, 3, 1]>(m) }"
    )
    rng = np.random.default_rng(0)
    weight = model.graph.inputs.pop()
    weight.const_value = ir.tensor(rng.standard_normal(shape).astype(np.float32), name="s")
    model.graph.register_initializer(weight)
    feeds = {"x": rng.standard_normal((1, rows, columns, channels)).astype(np.float32)}
    expected = session(model).run(feeds)["y"]
    np.testing.assert_array_equal(session(model, optimize=level).run(feeds)["y"], expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.uint8, ml_dtypes.int4, bool])
def test_large_weights_of_every_kind(dtype: type) -> None:
    kind = ir.DataType.from_numpy(np.dtype(dtype))
    head = '<ir_version: 10, opset_import: ["": 21]>'
    model = parse(
        f"g (float[1] x, {kind.name.lower()}[64,65] w) => (float[64,65] y) "
        "{ f = Cast<to=1>(w)  y = Mul(f, x) }",
        head,
    )
    w: np.ndarray = (np.arange(64 * 65) % 7).reshape(64, 65).astype(np.float32).astype(dtype)
    y = session(initialize(model, w=w)).run({"x": np.ones(1, np.float32)})["y"]
    np.testing.assert_array_equal(y, w.astype(np.float32))


def test_a_large_string_weight_travels_in_the_model() -> None:
    model = parse("g (int64[1] i, string[300] w) => (string[1] y) { y = Gather(w, i) }")
    table = model.graph.inputs.pop()
    words = [f"word {i}".encode() for i in range(300)]
    table.const_value = ir.StringTensor(words, shape=ir.Shape([300]), name="w")
    model.graph.register_initializer(table)
    loaded = session(model)
    assert loaded.run({"i": np.array([299])})["y"].tolist() == ["word 299"]


def test_an_empty_weight() -> None:
    model = parse("g (float[2] x, float[0] w) => (float[N] y) { y = Concat<axis=0>(x, w) }")
    model = initialize(model, w=np.zeros(0, np.float32))
    assert session(model).run({"x": np.ones(2, np.float32)})["y"].shape == (2,)


def test_a_weight_that_is_also_an_input() -> None:
    """The format up to version 3 listed weights among the inputs; they may be overridden."""
    model = parse("g (float[300] x, float[300] w) => (float[300] y) { y = Add(x, w) }")
    value = model.graph.inputs[1]
    value.const_value = ir.tensor(np.ones(300, np.float32), name="w")
    model.graph.register_initializer(value)
    loaded = session(model)
    x = np.zeros(300, np.float32)
    assert [spec.name for spec in loaded.inputs] == ["x"]
    np.testing.assert_array_equal(loaded.run({"x": x})["y"], np.ones(300))


def test_weights_that_nothing_needs() -> None:
    """Left over by a pass: used by a dead node, used by nothing, or only an output."""
    model = parse(
        """g (float[300] x, float[300] dead, float[300] spare, float[300] out)
            => (float[300] y, float[300] out) { y = Neg(x)  d = Abs(dead) }"""
    )
    ones = np.ones(300, np.float32)
    loaded = session(initialize(model, dead=ones, spare=ones, out=ones))
    np.testing.assert_array_equal(loaded.run({"x": ones})["out"], ones)
    shown = session(model, extra_outputs=["spare", "d"]).run({"x": ones})
    np.testing.assert_array_equal(shown["spare"], ones)
    np.testing.assert_array_equal(shown["d"], ones)
    assert set(model.graph.initializers) == {"dead", "spare", "out"}


def test_a_spare_weight_that_is_also_an_input_stays_optional() -> None:
    model = parse("g (float[300] x, float[300] w) => (float[300] y) { y = Neg(x) }")
    value = model.graph.inputs[1]
    value.const_value = ir.tensor(np.ones(300, np.float32), name="w")
    model.graph.register_initializer(value)
    loaded = session(model)
    assert loaded.run({"x": np.ones(300, np.float32)})["y"].shape == (300,)


def test_a_model_that_cannot_be_written_is_one_line() -> None:
    model = parse("g (int64[1] i, string[2] w) => (string[1] y) { y = Gather(w, i) }")
    words = np.array(["a", "b"], dtype=object)  # an ir.StringTensor would have been right
    with pytest.raises(InputError, match="cannot be written as ONNX") as caught:
        session(initialize(model, w=words))
    assert "\n" not in str(caught.value)


# --- inner values ------------------------------------------------------------------------------


def test_inner_values_inputs_and_weights_can_be_outputs(mlp: ir.Model) -> None:
    loaded = session(mlp, extra_outputs=["t", "x", "w", "b", "y", "t"])
    assert [spec.name for spec in loaded.outputs] == ["y", "t", "x", "w", "b"]
    got = loaded.run({"x": X})
    expected = mlp_values(mlp)
    np.testing.assert_allclose(got["t"], expected["t"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got["y"], expected["y"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got["x"], X)
    np.testing.assert_array_equal(got["w"], weight(mlp, "w"))


def test_inner_values_of_a_file_and_of_bytes(mlp: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    ir.save(mlp, path, external_data="w.bin", size_threshold_bytes=0)
    got = session(path, extra_outputs=["t"]).run({"x": X}, ["t"])
    np.testing.assert_allclose(got["t"], mlp_values(mlp)["t"], rtol=1e-5, atol=1e-5)
    data = bytes(ir.to_proto(mlp).SerializeToString())
    got = session(data, extra_outputs=["t"]).run({"x": X}, ["t"])
    np.testing.assert_allclose(got["t"], mlp_values(mlp)["t"], rtol=1e-5, atol=1e-5)


def test_an_unknown_inner_value_is_an_error_with_the_nearest_name(mlp: ir.Model) -> None:
    with pytest.raises(InputError, match=r"'tt' is not a value of the main graph.*'t'"):
        session(mlp, extra_outputs=["tt"])


# --- external data and size --------------------------------------------------------------------


def test_external_weights_of_a_subgraph(tmp_path: Path) -> None:
    model = model_with_subgraph_weight()
    path = tmp_path / "m.onnx"
    ir.save(model, path, external_data="w.bin", size_threshold_bytes=0)
    loaded = ir.load(path)
    x = np.zeros(600, np.float32)
    for source in (loaded, path):
        got = session(source).run({"c": np.array(True), "x": x})
        np.testing.assert_array_equal(got["y"], np.full(600, 3))


def model_with_subgraph_weight() -> ir.Model:
    text = """g (bool c, float[600] x) => (float[600] y) {
        y = If (c) <then_branch = a () => (float[600] p) { p = Add(x, x) },
                    else_branch = b () => (float[600] q) { q = Identity(x) }> }"""
    model = parse(text)
    (node,) = model.graph
    branch = node.attributes["then_branch"].as_graph()
    (add,) = branch
    three = ir.Value(name="w", const_value=ir.tensor(np.full(600, 3, np.float32), name="w"))
    branch.register_initializer(three)
    add.replace_input_with(1, three)
    return model


def test_external_weights_of_several_folders(mlp: ir.Model, tmp_path: Path) -> None:
    """A pass may bring in the weights of another model."""
    expected = mlp_values(mlp)["y"]
    for name, value in mlp.graph.initializers.items():
        folder = tmp_path / name / "deep"
        folder.mkdir(parents=True)
        data = weight(mlp, name)
        (folder / "w.bin").write_bytes(b"skipped" + data.tobytes())
        value.const_value = ir.ExternalTensor(
            "w.bin", 7, data.nbytes, ir.DataType.FLOAT,
            shape=ir.Shape(data.shape), name=name, base_dir=folder,
        )  # fmt: skip
    np.testing.assert_allclose(session(mlp).run({"x": X})["y"], expected, rtol=1e-5, atol=1e-5)


def test_external_data_may_not_leave_the_folder(mlp: ir.Model, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(weight(mlp, "w").tobytes())
    (tmp_path / "model").mkdir()
    mlp.graph.initializers["w"].const_value = ir.ExternalTensor(
        "../secret", 0, 64 * 64 * 4, ir.DataType.FLOAT,
        shape=ir.Shape([64, 64]), name="w", base_dir=tmp_path / "model",
    )  # fmt: skip
    with pytest.raises(InputError, match=r"\.\./secret lies outside"):
        session(mlp)


def test_missing_external_data_is_one_line(mlp: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    ir.save(mlp, path, external_data="w.bin", size_threshold_bytes=0)
    loaded = ir.load(path)
    (tmp_path / "w.bin").unlink()
    for source in (loaded, path):
        with pytest.raises(InputError, match=r"w\.bin") as caught:
            session(source)
        assert "\n" not in str(caught.value)


def test_truncated_external_data_is_one_line(mlp: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    ir.save(mlp, path, external_data="w.bin", size_threshold_bytes=0)
    loaded = ir.load(path)
    (tmp_path / "w.bin").write_bytes(b"short")
    for source in (loaded, path):
        with pytest.raises(InputError) as caught:
            session(source)
        assert "\n" not in str(caught.value)


ROWS = 2**31 // (256 * 4) + 1000  # of 256 floats: just over 2 GB
TABLE = f"g (int64[1] i, float[{ROWS},256] w) => (float[1,256] y) {{ y = Gather(w, i) }}"


def resident() -> int:
    """Bytes of this process that are in memory and belong to no file."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_over_2_gb_of_external_data_takes_no_memory(tmp_path: Path) -> None:
    data = tmp_path / "w.bin"
    with data.open("wb") as file:  # a hole, but for its last row
        file.truncate((ROWS - 1) * 1024)
        file.seek((ROWS - 1) * 1024)
        file.write(np.arange(256, dtype=np.float32).tobytes())
    model = parse(TABLE)
    table = model.graph.inputs.pop()
    shape = ir.Shape([ROWS, 256])
    table.const_value = ir.ExternalTensor(
        "w.bin", 0, ROWS * 1024, ir.DataType.FLOAT, shape=shape, name="w", base_dir=tmp_path
    )
    model.graph.register_initializer(table)
    path = tmp_path / "m.onnx"
    path.write_bytes(ir.to_proto(model).SerializeToString())
    last = {"i": np.array([ROWS - 1])}
    for source, extra in ((model, ()), (path, ()), (path, ("w",))):
        before = resident()
        with session(source, extra_outputs=extra) as loaded:
            y = loaded.run(last, ["y"])["y"]
            assert resident() - before < 2**27
        np.testing.assert_array_equal(y[0], np.arange(256))


@pytest.mark.slow  # the runtime takes a copy of it all while it loads, and drops it
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_over_2_gb_in_memory_is_not_kept_twice() -> None:
    weights = np.zeros((ROWS, 256), np.float32)  # pages that are not touched take no memory
    weights[-1] = 7
    before = resident()
    with session(initialize(parse(TABLE), w=weights)) as loaded:
        y = loaded.run({"i": np.array([ROWS - 1])})["y"]
        assert resident() - before < 2**27
    np.testing.assert_array_equal(y, np.full((1, 256), 7))


def test_weights_outlive_the_model_they_came_from(mlp: ir.Model) -> None:
    expected = mlp_values(mlp)["y"]
    loaded = session(mlp)
    for value in mlp.graph.initializers.values():
        value.const_value = None
    del mlp
    np.testing.assert_allclose(loaded.run({"x": X})["y"], expected, rtol=1e-5, atol=1e-5)


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "g (float[2] x) => (float[2] y) { [n1] y = Foo(x) }",
            r"node 'n1' \(Foo\).*No Op registered",
        ),
        ("g (bfloat16[2] x) => (bfloat16[2] y) { [n2] y = Abs(x) }", r"node 'n2' \(Abs\)"),
        ("g (bfloat16[2] x) => (bfloat16[2] y) { [n3] y = Asin(x) }", r"node 'n3' \(Asin\)"),
        (
            "g (float[2,3] x, float[4,5] w) => (float[2,5] y) { [n4] y = MatMul(x, w) }",
            r"node 'n4' \(MatMul\).*Incompatible dimensions",
        ),
        (
            "g (float[2] x) => (float[2] y) { y = Abs(x)  y = Neg(x) }",
            r"Duplicate definition.*\(y\)",
        ),
    ],
)
def test_a_refused_model_is_one_line_that_names_the_node(text: str, message: str) -> None:
    data = bytes(onnx.parser.parse_model(f"{HEAD} {text}").SerializeToString())
    with pytest.raises(InputError, match=message) as caught:
        session(data)
    line = str(caught.value)
    assert "\n" not in line
    assert "onnxruntime_src" not in line
    assert "[ONNXRuntimeError]" not in line


def test_a_path_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.onnx: no such file"):
        session(tmp_path / "none.onnx")
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"hello")
    for extra in ((), ("t",)):
        with pytest.raises(InputError, match=r"junk\.onnx: "):
            session(junk, extra_outputs=extra)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "missing"),
        ({"x": X, "z": X}, "z"),
        ({"x": X.astype(np.float64)}, "data type"),
        ({"x": X[:, :3]}, "dimensions"),
    ],
)
def test_wrong_feeds_are_bad_input(
    mlp: ir.Model, feeds: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        session(mlp).run(feeds)
    assert "\n" not in str(caught.value)


def test_a_failing_node_is_named() -> None:
    loaded = session(parse("g (float[N] x, float[M] w) => (float[K] y) { [adder] y = Add(x, w) }"))
    with pytest.raises(BurnishError, match=r"node 'adder' \(Add\).*broadcast") as caught:
        loaded.run({"x": np.zeros(2, np.float32), "w": np.zeros(3, np.float32)})
    assert not isinstance(caught.value, InputError)
    assert "onnxruntime_src" not in str(caught.value)


def test_nothing_is_printed_on_failure(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError):
        session(parse("g (float[2] x) => (float[2] y) { y = Foo(x) }"))
    assert capfd.readouterr() == ("", "")


def test_a_closed_session_says_so(mlp: ir.Model) -> None:
    loaded = session(mlp)
    loaded.close()
    with pytest.raises(BurnishError, match="closed"):
        loaded.run({"x": X})


def test_explain_keeps_what_it_does_not_know() -> None:
    assert explain(RuntimeError("something\n else")) == "something else"
    assert explain(RuntimeError()) == "RuntimeError"


# --- the backend -------------------------------------------------------------------------------


def test_a_newer_format_version_is_read(mlp: ir.Model) -> None:
    mlp.ir_version = max_ir_version() + 1
    assert session(mlp).run({"x": X})["y"].shape == (2, 64)
    assert mlp.ir_version == max_ir_version() + 1


def test_the_backend_from_model_to_measurement(mlp: ir.Model, tmp_path: Path) -> None:
    backend, cpu = OnnxRuntime(), Target.parse("cpu")
    mlp.ir_version = max_ir_version() + 1
    artifact = backend.lower(mlp, cpu, tmp_path / "m.onnx")
    assert mlp.ir_version == max_ir_version() + 1
    assert artifact.files == (tmp_path / "m.onnx",)
    assert artifact.size == (tmp_path / "m.onnx").stat().st_size > 64 * 64 * 4
    assert artifact.digest == backend.lower(mlp, cpu, tmp_path / "again.onnx").digest
    with backend.session(artifact) as loaded:
        np.testing.assert_allclose(
            loaded.run({"x": X})["y"], mlp_values(mlp)["y"], rtol=1e-5, atol=1e-5
        )
        timing = backend.measure({"a": loaded, "b": loaded}, {"x": X}, repeats=8)
    assert timing.rounds == 8


def test_the_backend_refuses_an_opset_beyond_the_target(mlp: ir.Model, tmp_path: Path) -> None:
    cpu = Target("cpu", "CPUExecutionProvider", frozenset(), 19)
    with pytest.raises(InputError, match="opset 20; cpu runs opsets up to 19"):
        OnnxRuntime().lower(mlp, cpu, tmp_path / "m.onnx")
    assert not any(tmp_path.iterdir())


def test_capabilities_come_from_the_registry() -> None:
    can = OnnxRuntime().capabilities(Target.parse("cpu"))
    assert {("", "Conv"), ("com.microsoft", "FusedConv")} <= can.operators
    assert "FusedConv" in can.fused
    assert "Conv" not in can.fused
    assert can.max_ir_version == max_ir_version()
