# SPDX-License-Identifier: Apache-2.0
"""Written models: the same bytes, nothing half written, and weights that survive being replaced."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from burnish.backends import onnxfile
from burnish.backends.onnxfile import PAGE, save
from burnish.backends.onnxruntime import session
from burnish.errors import BurnishError, InputError

SHAPES = {"a": (40, 60), "b": (3,), "c": (61, 33)}  # over a page, under one, over one


@pytest.fixture
def model() -> ir.Model:
    text = """<ir_version: 10, opset_import: ["": 20], metadata_props: ["author": "me"]>
        g (float[40,60] x, float[40,60] a, float[3] b, float[61,33] c) => (float[40,60] y) {
            y = Add(x, a) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    for value in list(model.graph.inputs)[1:]:
        assert value.name
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(contents(value.name), name=value.name)
        model.graph.register_initializer(value)
    return model


def contents(name: str) -> np.ndarray:
    return np.random.default_rng(ord(name)).standard_normal(SHAPES[name], dtype=np.float32)


def check_weights(model: ir.Model) -> None:
    for name in SHAPES:
        tensor = model.graph.initializers[name].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), contents(name))


@pytest.fixture
def external(model: ir.Model, tmp_path: Path) -> ir.Model:
    """The same model, with every weight in a file beside it: `in.onnx` and `in.onnx.data`."""
    ir.save(model, tmp_path / "in.onnx", external_data="in.onnx.data", size_threshold_bytes=0)
    return ir.load(tmp_path / "in.onnx")


def test_a_model_in_one_file(model: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    assert save(model, path) == (path,)
    assert [file.name for file in tmp_path.iterdir()] == ["out.onnx"]
    loaded = ir.load(path)
    check_weights(loaded)
    assert loaded.metadata_props == {"author": "me"}
    assert loaded.ir_version == 10
    onnx.checker.check_model(path, full_check=True)


def test_sizes_of_weights_are_written_once(model: ir.Model, tmp_path: Path) -> None:
    model.graph.initializers["b"].metadata_props["by"] = "me"
    (path,) = save(model, tmp_path / "out.onnx")
    # Of others, the tensor says it all.
    assert [info.name for info in onnx.load(path).graph.value_info] == ["b"]
    loaded = ir.load(path).graph.initializers
    assert {name: value.shape for name, value in loaded.items()} == SHAPES
    assert {value.dtype for value in loaded.values()} == {ir.DataType.FLOAT}
    assert loaded["b"].metadata_props == {"by": "me"}


def test_the_same_model_gives_the_same_bytes(external: ir.Model, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        save(external, tmp_path / folder / "m.onnx")
    for name in ("m.onnx", "m.onnx.data"):
        one, two = (tmp_path / folder / name for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_external_weights_stay_external(external: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    before = {name: value.const_value for name, value in external.graph.initializers.items()}
    assert save(external, path) == (tmp_path / "out.onnx.data", path)
    assert all(external.graph.initializers[name].const_value is t for name, t in before.items())
    assert not list(tmp_path.glob(".*"))
    onnx.checker.check_model(path, full_check=True)
    loaded = ir.load(path)
    check_weights(loaded)
    large = loaded.graph.initializers["c"].const_value
    assert isinstance(large, ir.ExternalTensor)
    assert large.location == "out.onnx.data"
    assert large.offset is not None
    assert large.offset % PAGE == 0
    assert not isinstance(loaded.graph.initializers["b"].const_value, ir.ExternalTensor)


def test_one_external_weight_takes_the_others_along(external: ir.Model, tmp_path: Path) -> None:
    external.graph.initializers["a"].const_value = ir.tensor(contents("a"), name="a")
    save(external, tmp_path / "out.onnx")
    check_weights(ir.load(tmp_path / "out.onnx"))


def test_weights_that_do_not_fit_go_beside(
    model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxfile, "INLINE_LIMIT", 10_000)
    assert len(save(model, tmp_path / "out.onnx")) == 2
    check_weights(ir.load(tmp_path / "out.onnx"))
    check_weights(model)


def test_small_external_weights_need_no_file(external: ir.Model, tmp_path: Path) -> None:
    for name in ("a", "c"):
        external.graph.initializers[name].const_value = ir.tensor(contents(name)[:1, :1], name=name)
    assert save(external, tmp_path / "out.onnx") == (tmp_path / "out.onnx",)
    assert isinstance(external.graph.initializers["b"].const_value, ir.ExternalTensor)


@pytest.mark.parametrize("touched", [False, True])
def test_the_input_can_be_overwritten(external: ir.Model, tmp_path: Path, touched: bool) -> None:
    """Its weights then refer to the new file, where they lie elsewhere."""
    first = external.graph.initializers["a"].const_value
    assert isinstance(first, ir.ExternalTensor)
    if touched:
        check_weights(external)
    # A new weight in front moves all the others.
    value = ir.Value(name="z", const_value=ir.tensor(np.ones(5000, np.float32), name="z"))
    others = list(external.graph.initializers.values())
    external.graph.initializers.clear()
    for item in (value, *others):
        external.graph.register_initializer(item)
    path = tmp_path / "in.onnx"
    for _ in range(2):
        save(external, path)
        check_weights(external)
        check_weights(ir.load(path))
    second = external.graph.initializers["a"].const_value
    assert isinstance(second, ir.ExternalTensor)
    assert second.offset != first.offset


def test_a_data_file_is_recognized_by_another_name(external: ir.Model, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    save(external, tmp_path / "link" / "in.onnx")
    check_weights(external)


def test_a_missing_folder_is_bad_input(model: ir.Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write to folder .*none.*-o"):
        save(model, tmp_path / "none" / "out.onnx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_bad_input(model: ir.Model, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        save(model, tmp_path / "out.onnx")


def test_a_failed_write_replaces_nothing(external: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    save(external, path)
    before = {file.name: file.read_bytes() for file in tmp_path.glob("out*")}
    (tmp_path / "in.onnx.data").unlink()
    with pytest.raises(BurnishError, match=r"in\.onnx\.data") as caught:
        save(external, path)
    assert "\n" not in str(caught.value)
    assert {file.name: file.read_bytes() for file in tmp_path.glob("out*")} == before
    assert not list(tmp_path.glob(".*"))
    assert isinstance(external.graph.initializers["a"].const_value, ir.ExternalTensor)


REPLACE = """
import os, sys
import numpy as np, onnx_ir as ir
from burnish.backends.onnxfile import save

path, final = sys.argv[1], int(sys.argv[2])
model = ir.load(path)
# A weight in front moves all others; the file it lies in does not fit the old model.
value = ir.Value(name="z", const_value=ir.tensor(np.ones(5000, np.float32), name="z"))
others = list(model.graph.initializers.values())
model.graph.initializers.clear()
for item in (value, *others):
    model.graph.register_initializer(item)
steps = 0

def die(event, arguments):
    global steps
    if event == "os.rename":
        if steps == final:
            os._exit(9)
        steps += 1

sys.addaudithook(die)
save(model, path)
"""


def test_a_killed_process_leaves_a_model_with_its_own_weights(
    external: ir.Model, tmp_path: Path
) -> None:
    path = tmp_path / "in.onnx"
    before = path.read_bytes(), (tmp_path / "in.onnx.data").read_bytes()
    found = []
    for final in range(10):
        path.write_bytes(before[0])
        (tmp_path / "in.onnx.data").write_bytes(before[1])
        command = [sys.executable, "-c", REPLACE, str(path), str(final)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode in (0, 9), done.stderr
        loaded = ir.load(path)
        check_weights(loaded)
        onnx.checker.check_model(path, full_check=True)
        found.append("z" in loaded.graph.initializers)
        if done.returncode == 0:
            break
    # Killed before each rename: the old model, then the new one, at three moments at least.
    assert found == sorted(found)
    assert found[0] is False
    assert found.count(True) > 2


def test_replacing_both_files_leaves_no_other(external: ir.Model, tmp_path: Path) -> None:
    save(external, tmp_path / "out.onnx")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    save(external, tmp_path / "out.onnx")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_full_disk_is_one_line(model: ir.Model, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(BurnishError, match=r"cannot write .*out\.onnx"):
            save(model, tmp_path / "out.onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_weights_of_subgraphs_are_written(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]>
        g (bool c, float[2000] x) => (float[2000] y) {
            y = If (c) <then_branch = t () => (float[2000] p) { p = Add(x, x) },
                    else_branch = e () => (float[2000] q) { q = Identity(x) }> }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    (node,) = model.graph
    branch = node.attributes["then_branch"].as_graph()
    ones = ir.Value(name="w", const_value=ir.tensor(np.ones(2000, np.float32), name="w"))
    branch.register_initializer(ones)
    next(iter(branch)).replace_input_with(1, ones)
    ir.save(model, tmp_path / "in.onnx", external_data="in.bin", size_threshold_bytes=0)
    loaded = ir.load(tmp_path / "in.onnx")
    assert len(save(loaded, tmp_path / "out.onnx")) == 2
    assert (tmp_path / "out.onnx.data").stat().st_size == 8000
    onnx.checker.check_model(tmp_path / "out.onnx")


@pytest.mark.parametrize("output", ["in.onnx", "out.onnx"])
def test_constants_in_a_file_come_into_the_model(tmp_path: Path, output: str) -> None:
    """onnx.save_model(convert_attribute=True) makes such models; ONNX Runtime refuses them."""
    nine = onnx.helper.make_tensor("t", onnx.TensorProto.FLOAT, [300], np.full(300, 9.0))
    constant = onnx.helper.make_node("Constant", [], ["c"], value=nine)
    text = """<ir_version: 10, opset_import: ["": 20]>
        g (float[300] x) => (float[300] y) { w = Neg(x)  y = Add(w, c) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.node.insert(0, constant)
    proto.graph.initializer.append(
        onnx.helper.make_tensor("unused", onnx.TensorProto.FLOAT, [2000], np.ones(2000))
    )
    onnx.save_model(
        proto,
        tmp_path / "in.onnx",
        save_as_external_data=True,
        location="in.onnx.data",
        size_threshold=0,
        convert_attribute=True,
    )
    model = ir.load(tmp_path / "in.onnx")
    feeds = {"x": np.ones(300, np.float32)}
    np.testing.assert_array_equal(session(model).run(feeds)["y"], np.full(300, 8))
    save(model, tmp_path / output)
    for source in (tmp_path / output, model):
        np.testing.assert_array_equal(session(source).run(feeds)["y"], np.full(300, 8))


@pytest.mark.slow  # writes 2 GB
def test_over_2_gb_is_streamed(tmp_path: Path) -> None:
    rows = 2**31 // 1024 + 10
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(rows * 1024)
        file.seek(-4, os.SEEK_END)
        file.write(np.float32(7).tobytes())
    text = f"""<ir_version: 10, opset_import: ["": 20]>
        g (int64[1] i, float[{rows},256] w) => (float[1,256] y) {{ y = Gather(w, i) }}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    table = model.graph.inputs.pop()
    shape = ir.Shape([rows, 256])
    table.const_value = ir.ExternalTensor(
        "w.bin", 0, rows * 1024, ir.DataType.FLOAT, shape=shape, name="w", base_dir=tmp_path
    )
    model.graph.register_initializer(table)
    save(model, tmp_path / "out.onnx")
    written = ir.load(tmp_path / "out.onnx").graph.initializers["w"].const_value
    assert written is not None
    assert written.nbytes == rows * 1024
    assert written.numpy()[-1, -1] == 7
