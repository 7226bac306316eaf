# SPDX-License-Identifier: Apache-2.0
"""The ONNX frontend reads every form of a model and says in one line what is wrong with others."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.errors import InputError
from burnish.frontends import load

TEXT = """<ir_version: 10, opset_import: ["": 21], producer_name: "test">
g (float[N,4] x) => (float[N,3] y)
<float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}>
{
  [first] t = MatMul(x, w)
  [second] y = Relu(t)
}"""


@pytest.fixture
def proto() -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    return model


@pytest.fixture
def path(tmp_path: Path, proto: onnx.ModelProto) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture
def external(tmp_path: Path, proto: onnx.ModelProto) -> Path:
    """A model with 48 bytes of weights in `weights.bin`."""
    path = tmp_path / "e.onnx"
    proto = onnx.ModelProto.FromString(proto.SerializeToString())  # saving edits it
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def refusal(source: object) -> str:
    with pytest.raises(InputError) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


def weights(model: ir.Model) -> np.ndarray:
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    return tensor.numpy()


# --- every form ------------------------------------------------------------------------------


def test_forms_agree(path: Path, proto: onnx.ModelProto, external: Path) -> None:
    expected = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    model = ir.serde.deserialize_model(proto)
    for source in (path, str(path), path.read_bytes(), proto, model, TEXT, external):
        loaded = load(source)
        assert loaded.notes == ()
        assert [node.name for node in loaded.model.graph] == ["first", "second"]
        assert loaded.model.producer_name == "test"
        np.testing.assert_array_equal(weights(loaded.model), expected)


@pytest.mark.parametrize(
    ("suffix", "form"),
    [
        (".onnxtxt", "onnxtxt"),
        (".txt", "onnxtxt"),
        (".textproto", "textproto"),
        (".txt", "textproto"),
        (".json", "json"),
    ],
)
def test_textual_files(tmp_path: Path, proto: onnx.ModelProto, suffix: str, form: str) -> None:
    path = tmp_path / f"m{suffix}"
    if form == "onnxtxt":
        path.write_text(onnx.printer.to_text(proto))
    else:
        path.write_bytes(onnx.serialization.registry.get(form).serialize_proto(proto))
    loaded = load(path)
    assert len(loaded.model.graph) == 2
    np.testing.assert_array_equal(weights(loaded.model).ravel(), np.arange(1, 13))


def test_a_file_without_suffix_is_recognized(path: Path) -> None:
    bare = path.rename(path.with_name("model"))
    assert len(load(bare).model.graph) == 2


def test_metadata_survives(proto: onnx.ModelProto) -> None:
    onnx.helper.set_model_props(proto, {"author": "someone"})
    proto.doc_string, proto.graph.doc_string = "the model", "the graph"
    proto.graph.node[0].doc_string = "the node"
    proto.graph.node[0].metadata_props.add(key="layer", value="0")
    for source in (proto, ir.serde.deserialize_model(proto)):
        model = load(source).model
        assert model.metadata_props == {"author": "someone"}
        assert (model.doc_string, model.graph.doc_string) == ("the model", "the graph")
        assert model.graph[0].doc_string == "the node"
        assert model.graph[0].metadata_props == {"layer": "0"}


def test_models_in_memory_are_left_alone(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].name = ""
    before = proto.SerializeToString(deterministic=True)
    model = ir.serde.deserialize_model(onnx.ModelProto.FromString(before))
    for source in (proto, model):
        copy = load(source).model
        copy.graph.initializers["w"].name = "renamed"
        copy.graph.remove(copy.graph[1])
    assert proto.SerializeToString(deterministic=True) == before
    after = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    expected = ir.serde.deserialize_model(onnx.ModelProto.FromString(before))
    assert after == ir.serde.serialize_model(expected).SerializeToString(deterministic=True)


# --- external data and digest ----------------------------------------------------------------


def large(**fields: Any) -> onnx.ModelProto:
    """A model of two weights of 2 MB, which are read past protobuf."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> '
        "g (float[N,512] x) => (float[N,1024] z) { y = MatMul(x, v)  z = MatMul(y, w) }"
    )
    rng = np.random.default_rng(0)
    for name, shape in (("v", (512, 1024)), ("w", (1024, 1024))):
        array = rng.standard_normal(shape, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for name, value in fields.items():
        setattr(model.graph.initializer[0], name, value)
    return model


def test_large_weights_are_held_once(tmp_path: Path) -> None:
    proto = large(doc_string="said of it")
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    initializers = load(tmp_path / "m.onnx").model.graph.initializers
    for tensor in proto.graph.initializer:
        found = initializers[tensor.name].const_value
        assert isinstance(found, ir.Tensor)
        assert np.shares_memory(found.numpy(), found.numpy())
        assert not found.numpy().flags.writeable
        np.testing.assert_array_equal(found.numpy(), onnx.numpy_helper.to_array(tensor))
        assert (found.name, found.doc_string or "") == (tensor.name, tensor.doc_string)
        assert ir.serde.serialize_tensor(found).raw_data == tensor.raw_data


def test_loading_takes_the_memory_of_the_weights(tmp_path: Path) -> None:
    proto = large()
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    size = path.stat().st_size
    load(path)
    tracemalloc.start()
    try:
        loaded = load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert loaded.model.graph.initializers
    assert size < peak < 1.1 * size


def test_of_a_name_given_twice_the_last_data_are_read(tmp_path: Path) -> None:
    proto = large()
    twice = onnx.TensorProto()
    twice.CopyFrom(proto.graph.initializer[0])
    twice.raw_data = bytes(len(twice.raw_data))
    proto.graph.initializer.append(twice)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    found = load(tmp_path / "m.onnx").model.graph.initializers["v"].const_value
    assert found is not None
    assert not found.numpy().any()


@pytest.mark.parametrize("fields", [{"dims": [512, 1025]}, {"data_type": onnx.TensorProto.DOUBLE}])
def test_large_weights_that_do_not_fit_are_left_to_those_who_read_them(
    fields: dict[str, Any],
) -> None:
    proto = large()
    tensor = proto.graph.initializer[0]
    if "dims" in fields:
        tensor.dims[:] = fields["dims"]
    else:
        tensor.data_type = fields["data_type"]
    found = load(proto.SerializeToString()).model.graph.initializers["v"].const_value
    assert isinstance(found, ir.serde.TensorProtoTensor)
    assert len(found.raw.raw_data) == 4 * 512 * 1024


def test_digest_is_that_of_sha256sum(path: Path, external: Path) -> None:
    assert load(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()
    both = external.read_bytes() + external.with_name("weights.bin").read_bytes()
    assert load(external).digest == hashlib.sha256(both).hexdigest()


def test_digest_of_a_model_in_memory_sees_every_weight(proto: onnx.ModelProto) -> None:
    digest = load(proto).digest
    assert load(ir.serde.deserialize_model(proto)).digest == digest
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    array = onnx.numpy_helper.to_array(proto.graph.initializer[0]).copy()
    array[3, 2] += 1
    changed.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(array, "w"))
    assert load(changed).digest != digest


def test_external_data_is_not_read_to_load_a_model(tmp_path: Path) -> None:
    """A sparse file stands in for 6 GB of weights; only its digest reads it."""
    shape = [1536, 1 << 20]
    text = """<ir_version: 10, opset_import: ["": 21]> g () => (float[1536,1048576] y)
              <float[1] w = {0}> { y = Identity(w) }"""
    proto = onnx.parser.parse_model(text)
    tensor = proto.graph.initializer[0]
    del tensor.float_data[:], tensor.dims[:]
    tensor.dims.extend(shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(6 << 30)
    from burnish.frontends import external

    model = ir.serde.deserialize_model(proto)
    assert external.attach(model, path, "m") == (tmp_path / "w.bin",)
    array = model.graph.initializers["w"].const_value
    assert array is not None
    assert array.numpy()[-1, -1] == 0


def test_missing_external_data(external: Path) -> None:
    external.with_name("weights.bin").unlink()
    message = refusal(external)
    assert "'weights.bin' is missing from" in message
    assert "e.onnx" in message


def test_external_data_too_short(external: Path) -> None:
    data = external.with_name("weights.bin")
    data.write_bytes(data.read_bytes()[:47])
    message = refusal(external)
    assert "too short: tensor 'w' ends at byte 48, the file at 47" in message


def relocated(external: Path, location: str) -> Path:
    proto = onnx.load(external, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    external.write_bytes(proto.SerializeToString())
    return external


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "sub/../../weights.bin"])
def test_external_data_outside_the_folder(external: Path, location: str) -> None:
    assert "lies outside the model's folder" in refusal(relocated(external, location))


def test_external_data_that_is_a_folder(external: Path) -> None:
    (external.parent / "sub").mkdir()
    assert "is not a file" in refusal(relocated(external, "sub"))


def test_external_data_in_a_subfolder(external: Path) -> None:
    (external.parent / "sub").mkdir()
    external.with_name("weights.bin").rename(external.parent / "sub" / "w.bin")
    model = load(relocated(external, "sub/w.bin")).model
    assert weights(model)[3, 2] == 12


def test_external_data_linked_from_elsewhere(
    external: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = external.with_name("weights.bin")
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    data.rename(secret)
    data.symlink_to(secret)
    assert "is a link out of the model's folder" in refusal(external)
    data.unlink()
    data.hardlink_to(secret)
    assert "has 2 hard links" in refusal(external)


def test_model_and_data_linked_from_one_store(external: Path, tmp_path: Path) -> None:
    """As download caches lay them out: names that are links to blobs called by their hash."""
    store, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    store.mkdir()
    snapshot.mkdir()
    for name, blob in (("e.onnx", "8f2c"), ("weights.bin", "1a7d")):
        external.with_name(name).rename(store / blob)
        (snapshot / name).symlink_to(store / blob)
    assert weights(load(snapshot / "e.onnx").model)[3, 2] == 12


def test_bytes_with_external_data_say_where_it_was_looked_for(external: Path) -> None:
    assert f"is missing from {Path.cwd()}" in refusal(external.read_bytes())


# --- bad input -------------------------------------------------------------------------------


def _zip(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "x")
    return file.getvalue()


FOREIGN = {
    "a PNG image": b"\x89PNG\r\n\x1a\n" + b"\0" * 64,
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n",
    "a web page": b"\n<!DOCTYPE html><html><body>404</body></html>",
    "a Python pickle": pickle.dumps({"w": 1}, protocol=2),
    "a PyTorch checkpoint": _zip("archive/data.pkl"),
    "a PyTorch exported program": _zip("m/archive_format"),
    "a zip archive": _zip("readme.txt"),
    "gzip-compressed": gzip.compress(b"model"),
    "a TensorFlow Lite model": b"\x1c\0\0\0TFL3" + b"\0" * 16,
    "an ONNX Runtime .ort model": b"\x1c\0\0\0ORTM" + b"\0" * 16,
    "a safetensors file": (2).to_bytes(8, "little") + b'{"__metadata__":{}}',
    "an HDF5 file": b"\x89HDF\r\n\x1a\n",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_kinds_of_files_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(FOREIGN[kind])
    assert f"{path} is not an ONNX model but {kind}" in refusal(path)
    assert f"is not an ONNX model but {kind}" in refusal(FOREIGN[kind])


def test_missing_file(tmp_path: Path) -> None:
    assert "nowhere.onnx does not exist" in refusal(tmp_path / "nowhere.onnx")
    assert "nowhere does not exist" in refusal(str(tmp_path / "nowhere"))


def test_folder(path: Path) -> None:
    assert f"is a folder; did you mean {path}?" in refusal(path.parent)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    assert "m.onnx is empty" in refusal(tmp_path / "m.onnx")
    assert "model is empty" in refusal(b"")


def test_random_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(bytes(range(200, 256)) * 10)
    assert "is not an ONNX model" in refusal(path)


def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    assert "cannot read" in refusal(tmp_path / "loop.onnx")


def test_cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "is damaged or cut short" in refusal(path)


def test_every_prefix_is_refused(proto: onnx.ModelProto) -> None:
    content = proto.SerializeToString()
    for length in range(len(content)):
        refusal(content[:length])


@given(st.data())
def test_damaged_bytes_are_refused_or_read(data: st.DataObject) -> None:
    """Whatever the bytes, the outcome is a model or one line."""
    content = bytearray(onnx.parser.parse_model(TEXT).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InputError):
        load(bytes(content))


def test_no_graph() -> None:
    assert "has no graph" in refusal(onnx.ModelProto(ir_version=10).SerializeToString())


def test_no_output(proto: onnx.ModelProto) -> None:
    del proto.graph.output[:]
    assert "has no output" in refusal(proto)


def test_opset_beyond_ours(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 999
    assert "uses opset 999 of ai.onnx" in refusal(proto)
    assert "uses opset 999 of ai.onnx" in refusal(ir.serde.deserialize_model(proto))


def test_ir_version_beyond_ours(proto: onnx.ModelProto) -> None:
    proto.ir_version = 99
    assert "has IR version 99" in refusal(proto)


def test_wrong_text(tmp_path: Path) -> None:
    assert "is not an ONNX model in text" in refusal(TEXT.replace("=>", "->"))
    (tmp_path / "m.txt").write_text("a shopping list")
    assert "m.txt is not an ONNX model in text" in refusal(tmp_path / "m.txt")


def test_maps(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.sequence_type.elem_type.map_type.key_type = 7
    assert "'y' is a map" in refusal(proto)


def test_what_is_no_model() -> None:
    assert "an object of type int is no model" in refusal(7)
