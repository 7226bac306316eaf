# SPDX-License-Identifier: Apache-2.0
"""PyTorch modules become ONNX models that compute the same."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # makes numpy know bfloat16
import numpy as np
import pytest

from burnish.backends import onnxruntime
from burnish.errors import InputError, VerificationError
from burnish.frontends import load
from burnish.frontends.pytorch import Example, can_load, export

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

AXES = {"input_ids": {0: "batch", 1: "sequence"}, "mask": {0: "batch", 1: "sequence"}}


class Encoder(torch.nn.Module):  # type: ignore[name-defined]
    """Returns an `embedding` beside an internal value that torch's exporter calls so, too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(10, 4)
        self.dropout = torch.nn.Dropout(0.5)
        self.norm = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.Linear(4, 3)

    def forward(self, input_ids: Any, mask: Any = None) -> Any:
        embedding = self.dropout(self.table(input_ids))
        hidden = self.norm(embedding.transpose(1, 2)).transpose(1, 2)
        if mask is not None:
            hidden = hidden * mask[..., None]
        return {"embedding": self.head(hidden + embedding).sum(1), "hidden": hidden}


@pytest.fixture
def example() -> Example:
    ids = torch.arange(10).reshape(2, 5)
    return Example(Encoder(), (ids,), {"mask": torch.ones(2, 5)}, AXES)


def dims(value: Any) -> list[int | str | None]:
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_names_axes_and_numbers(example: Example, exporter: Any) -> None:
    loaded = export(example, exporter=exporter)
    ids, mask = loaded.model.graph.inputs
    assert (ids.name, dims(ids)) == ("input_ids", ["batch", "sequence"])
    assert (mask.name, dims(mask)) == ("mask", ["batch", "sequence"])
    assert [value.name for value in loaded.model.graph.outputs] == ["embedding", "hidden"]
    other = torch.arange(21).reshape(3, 7) % 10
    weights = torch.rand(3, 7)
    with torch.no_grad():
        expected = example.module.eval()(other, weights)
    with onnxruntime.session(loaded.model) as session:
        found = session.run({"input_ids": other.numpy(), "mask": weights.numpy()})
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-5, atol=1e-6)


def test_the_module_is_exported_in_eval_mode_and_left_as_it_was(example: Example) -> None:
    example.module.train()
    example.module.head.eval()
    mean = example.module.norm.running_mean.clone()
    model = export(example).model
    assert not {"Dropout"} & {node.op_type for node in model.graph}
    assert example.module.training
    assert example.module.dropout.training
    assert not example.module.head.training
    assert torch.equal(example.module.norm.running_mean, mean)


def test_same_source_same_digest(example: Example) -> None:
    digest = export(example, exporter="torchscript").digest
    assert export(example, exporter="torchscript").digest == digest
    with torch.no_grad():
        example.module.head.bias += 1
    assert export(example, exporter="torchscript").digest != digest


def test_optional_inputs_left_out(example: Example) -> None:
    model = export(Example(example.module, example.args)).model
    assert [value.name for value in model.graph.inputs] == ["input_ids"]
    assert dims(model.graph.inputs[0]) == [2, 5]


def test_keyword_inputs_in_another_order(example: Example) -> None:
    kwargs = {"mask": torch.rand(2, 5), "input_ids": example.args[0]}
    model = export(Example(example.module, (), kwargs, AXES)).model
    assert [value.name for value in model.graph.inputs] == ["input_ids", "mask"]


def test_opset(example: Example) -> None:
    assert export(example, opset=18).model.opset_imports[""] == 18


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_types(dtype: str) -> None:
    module = torch.nn.Linear(4, 3).to(getattr(torch, dtype))
    loaded = export(Example(module, (torch.rand(2, 4, dtype=getattr(torch, dtype)),)))
    assert loaded.model.graph.outputs[0].dtype is not None
    assert loaded.model.graph.outputs[0].dtype.numpy() == np.dtype(dtype)
    # ONNX Runtime has no Gemm in bfloat16 on the CPU.
    assert len(loaded.notes) == (dtype == "bfloat16")


def test_an_axis_that_the_module_fixes_is_an_error() -> None:
    class Fixed(torch.nn.Module):  # type: ignore[name-defined]
        def forward(self, x: Any) -> Any:
            return x.reshape(2, 6) + 1

    with pytest.raises(InputError, match="inferred a static shape of 2") as caught:
        export(Example(Fixed(), (torch.rand(2, 6),), {}, {"x": {0: "batch"}}))
    assert "\n" not in str(caught.value)


# --- sources ---------------------------------------------------------------------------------

SOURCE = """
import torch
from burnish.frontends.pytorch import Example

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))

def make():
    return Example(net(), (torch.rand(3, 4),), dynamic_axes={"input": {0: "batch"}})

def plain():
    return net(), (torch.rand(3, 4),)

def broken():
    raise RuntimeError("no weights\\nat all")

def nothing():
    return 7
"""


@pytest.fixture
def module_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"nets_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    (tmp_path / f"{name}_bad.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    return name


def test_module_function(module_name: str) -> None:
    assert dims(load(f"{module_name}:make").model.graph.inputs[0]) == ["batch", 4]


def test_plain_tuple(module_name: str) -> None:
    assert dims(load(f"{module_name}:plain").model.graph.inputs[0]) == [3, 4]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{}:mak", "has no attribute 'mak'; did you mean 'make'?"),
        ("{}:broken", "failed: RuntimeError: no weights; it must return"),
        ("{}:nothing", "gives an object of type int, not a module with its inputs"),
        ("{}_bad:make", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("{}_none:make", "ModuleNotFoundError"),
    ],
)
def test_bad_references(module_name: str, reference: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(reference.format(module_name))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_exported_program(tmp_path: Path, example: Example) -> None:
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    program = torch.export.export(
        example.module.eval(),
        example.args,
        dict(example.kwargs),
        dynamic_shapes={name: {0: batch, 1: sequence} for name in AXES},
    )
    path = tmp_path / "m.pt2"
    torch.export.save(program, path)
    loaded = load(path)
    assert loaded.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [value.name for value in loaded.model.graph.inputs] == ["input_ids", "mask"]
    assert all(isinstance(dim, str) for dim in dims(loaded.model.graph.inputs[0]))
    assert len(load(program).model.graph) == len(loaded.model.graph)


def test_a_file_that_is_no_exported_program(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with pytest.raises(InputError, match=r"m\.pt2 does not exist"):
        load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"m\.pt2 is not an exported program"):
        load(path)


def test_a_file_that_is_missing_matters_before_torch_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"m\.pt2 does not exist"):
        load(tmp_path / "m.pt2")


def test_objects_of_torch(example: Example) -> None:
    module = torch.nn.Linear(4, 3)
    assert dims(load((module, (torch.rand(2, 4),))).model.graph.inputs[0]) == [2, 4]
    assert dims(load((module, torch.rand(2, 4))).model.graph.inputs[0]) == [2, 4]
    with pytest.raises(InputError, match="cannot be exported without example inputs"):
        load(module)


def test_what_is_not_ours(tmp_path: Path) -> None:
    assert not can_load("m.onnx")
    assert not can_load(b"")
    assert not can_load((1, 2))


# --- failures --------------------------------------------------------------------------------


def test_a_module_that_cannot_be_exported(capfd: pytest.CaptureFixture[str]) -> None:
    class Branch(torch.nn.Module):  # type: ignore[name-defined]
        def forward(self, x: Any) -> Any:
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match="module cannot be exported: ") as caught:
        export(Example(Branch(), (torch.rand(3),)))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_example_inputs_that_do_not_fit(example: Example) -> None:
    with pytest.raises(InputError, match="do not fit forward"):
        export(Example(example.module, (1, 2, 3)))
    with pytest.raises(InputError, match="the module fails on its example inputs"):
        export(Example(torch.nn.Linear(4, 3), (torch.rand(2, 5),)))
    with pytest.raises(InputError, match="dynamic axes for 'ids', which the example does not give"):
        export(Example(example.module, example.args, {}, {"ids": {0: "batch"}}))


def test_a_model_that_differs_is_refused() -> None:
    """Random numbers differ from run to run, as a wrong export would."""

    class Noise(torch.nn.Module):  # type: ignore[name-defined]
        def forward(self, x: Any) -> Any:
            return x + torch.rand_like(x)

    with pytest.raises(VerificationError, match="the exported model differs from PyTorch"):
        export(Example(Noise(), (torch.rand(8),)))
