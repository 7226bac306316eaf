# SPDX-License-Identifier: Apache-2.0
"""Every operator case of the onnx package goes through the pipelines with its outputs unchanged.

Each case runs three ways: as it is, with its whole-number inputs constant (axes, shapes, indices:
what the local rules look at), and with all inputs constant (so that folding computes it). It is
run by the runtime with its own optimizations off; if need be, declared at the newest opset that
the runtime releases; and where the runtime has no kernel, by onnx's reference evaluator.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from burnish.backends import numeric
from burnish.backends.kernels import max_opset
from burnish.backends.onnxruntime import session
from burnish.errors import BurnishError
from burnish.passes.shapes import infer_shapes
from burnish.testing import rewrites, run_pass

SHARDS = 8
COUNT = 1884
LISTED = Path(__file__).parent.parent / "data" / "cases_not_run_by_onnxruntime.txt"
RANDOM = {"Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
Feeds = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """An operator case that has been run once.

    Attributes:
        name: Its name.
        model: The model, maybe at a lower opset.
        feeds: An array, or a list of arrays or None, per input.
        runner: What runs it: "runtime", "relabelled" or "reference".
        outputs: What it gave.
        random: It gave something else the second time.
    """

    name: str
    model: onnx.ModelProto
    feeds: Feeds
    runner: str
    outputs: dict[str, Any]
    random: bool


@functools.cache
def cases() -> tuple[Case, ...]:
    """Load all cases and run each as it is."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_model_tests(kind="node")
        return tuple(map(_first_run, loaded))


def _first_run(case: Any) -> Case:
    names = [value.name for value in case.model.graph.input]
    feeds = dict(zip(names, map(_array, case.data_sets[0][0]), strict=False))
    for runner, model in (
        ("runtime", case.model),
        ("relabelled", _relabelled(case.model)),
        ("reference", case.model),
    ):
        try:
            outputs = run(runner, model, feeds)
        except BurnishError:
            continue
        random = _is_random(model) or not _identical(outputs, run(runner, model, feeds))
        return Case(case.name, model, feeds, runner, outputs, random)
    raise AssertionError(f"{case.name}: nothing runs it")


def _is_random(model: onnx.ModelProto) -> bool:
    """Whether an operator draws numbers; ten coins may fall alike twice."""
    return any(node.op_type in RANDOM for node in model.graph.node)


def _array(given: Any) -> Any:
    if isinstance(given, onnx.TensorProto):
        return onnx.numpy_helper.to_array(given)
    return np.asarray(given) if isinstance(given, np.generic) else given


def _relabelled(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model at the newest opset of the runtime; some operators only widened types."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for entry in copy.opset_import:
        if entry.domain == "":
            entry.version = min(entry.version, max_opset())
    return copy


def run(runner: str, model: onnx.ModelProto | ir.Model, feeds: Feeds) -> dict[str, Any]:
    """Run a model.

    Raises:
        BurnishError: the runtime cannot.
    """
    if runner == "reference":
        from onnx.reference import ReferenceEvaluator

        proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
        evaluator = ReferenceEvaluator(proto)
        results = evaluator.run(None, dict(feeds))
        return dict(zip(evaluator.output_names, results, strict=True))
    inner = ir.from_proto(model) if isinstance(model, onnx.ModelProto) else model
    with session(inner) as running:
        return dict(running.run(feeds))


def _identical(left: Any, right: Any) -> bool:
    """Whether two outputs are equal to the last bit, but for the payload of a NaN."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_identical(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_identical, left, right))
    if left is None or right is None:
        return left is right
    left, right = np.asarray(left), np.asarray(right)
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype.kind == "f":
        same = (left == right) & (np.signbit(left) == np.signbit(right))
        return bool((same | (np.isnan(left) & np.isnan(right))).all())
    if left.dtype.kind == "V":  # bfloat16 and the like
        return bytes(left.tobytes()) == bytes(right.tobytes())
    return bool((left == right).all())


def _flat(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Name each element of a sequence, so that all there is to compare is tensors."""
    found: dict[str, np.ndarray] = {}
    for name, value in outputs.items():
        if isinstance(value, list | tuple):
            found |= _flat({f"{name}[{index}]": item for index, item in enumerate(value)})
        else:
            found[name] = np.asarray(value)
    return found


def _has_half(*named: Feeds) -> bool:
    """Whether float16 or bfloat16 is about: the runtime rounds to those as often as it likes."""
    values = [value for each in named for value in each.values()]
    return any(
        value.dtype.itemsize == 2 and value.dtype.kind in "fV"
        for value in values
        if isinstance(value, np.ndarray)
    )


def _with_constants(case: Case, *, everything: bool) -> tuple[ir.Model, dict[str, Any]] | None:
    """Return the case with inputs turned into initializers, or None if there are none to turn."""
    kept: dict[str, Any] = {}
    turned: dict[str, np.ndarray] = {}
    declared = {item.name: item for item in case.model.graph.input}
    for name, value in case.feeds.items():
        plain = declared[name].type.HasField("tensor_type")
        tensor = plain and isinstance(value, np.ndarray) and value.dtype.kind in "biufV"
        whole = tensor and value.dtype.kind in "iub"
        (turned if tensor and (everything or whole) else kept)[name] = value
    if not turned:
        return None
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    declared = {item.name: item for item in model.graph.input}
    for name, array in turned.items():
        dtype = declared[name].type.tensor_type.elem_type
        if ir.DataType(dtype).bitwidth < 8:  # NumPy may hold it in a byte each
            return None
        model.graph.input.remove(declared[name])
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model.ir_version = max(model.ir_version, 4)
    return ir.from_proto(model), kept


def _variants(case: Case, pipeline: str) -> Iterator[tuple[str, ir.Model, Feeds]]:
    yield "as it is", ir.from_proto(case.model), case.feeds
    for label, everything in (("whole numbers constant", False), ("all constant", True)):
        if everything and pipeline != "cleanup":  # nothing is left for the passes after it
            continue
        made = _with_constants(case, everything=everything)
        if made is not None:
            yield label, *made


@pytest.fixture(autouse=True)
def _unreleased_opsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOW_RELEASED_ONNX_OPSET_ONLY", "0")


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("pipeline", ["cleanup", "cleanup,fuse"])
def test_outputs_are_unchanged(pipeline: str, shard: int) -> None:
    failures = []
    for case in cases()[shard::SHARDS]:
        for label, model, feeds in _variants(case, pipeline):
            try:
                problem = _check(case, pipeline, model, feeds)
            except Exception as error:  # go on, to name every case that fails
                problem = f"{type(error).__name__}: {error}"
            if problem is not None:
                failures.append(f"{case.name} ({label}): {problem}")
    assert not failures, f"{len(failures)} cases fail:\n" + "\n".join(failures)


def _check(case: Case, pipeline: str, model: ir.Model, feeds: Feeds) -> str | None:
    try:
        expected = case.outputs if feeds is case.feeds else run(case.runner, model, feeds)
    except BurnishError:
        return None  # the runtime does not take it with these inputs constant
    run_pass(pipeline, model)
    if pipeline == "cleanup" and (again := rewrites(run_pass(pipeline, model))):
        return f"a second round still does {again}"
    outputs = run(case.runner, model, feeds)
    if case.random:
        same = {k: np.shape(v) for k, v in outputs.items()} == {
            k: np.shape(v) for k, v in expected.items()
        }
        return None if same else "another shape"
    if pipeline == "cleanup" and not _has_half(expected, feeds, case.feeds):
        return None if _identical(outputs, expected) else f"{outputs} instead of {expected}"
    difference = numeric.compare_outputs(_flat(expected), _flat(outputs))
    return None if difference.ok else str(difference)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_inferred_shapes_are_those_of_the_runtime(shard: int) -> None:
    """What passes trust: every size inferred from symbols alone is the size that comes out."""
    failures = []
    for case in cases()[shard::SHARDS]:
        if case.runner == "reference":
            continue
        for label, model, feeds in _variants(case, "shapes"):
            _make_symbolic(model)
            infer_shapes(model)
            failures += [f"{case.name} ({label}): {line}" for line in _wrong_shapes(model, feeds)]
    assert not failures, "\n".join(failures)


def _make_symbolic(model: ir.Model) -> None:
    """Give every axis of every input a size of its own name, and forget all other shapes."""
    for value in model.graph.inputs:
        if isinstance(value.type, ir.TensorType) and value.shape is not None:
            value.shape = ir.Shape([f"{value.name}_{axis}" for axis in range(len(value.shape))])
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in graph:
            for output in node.outputs:
                output.shape = None


def _wrong_shapes(model: ir.Model, feeds: Feeds) -> Iterator[str]:
    inferred = {
        value.name: value.shape
        for node in model.graph
        for value in node.outputs
        if value.name and value.shape is not None
    }
    sizes: dict[str, int] = {}
    for value in model.graph.inputs:
        array = feeds.get(value.name or "")
        if isinstance(array, np.ndarray) and value.shape is not None:
            sizes |= {str(dim): size for dim, size in zip(value.shape, array.shape, strict=True)}
    _make_symbolic(model)  # or the runtime would refuse what contradicts it
    try:
        with session(model, extra_outputs=inferred) as running:
            actual: dict[str, Any] = running.run(feeds)
    except BurnishError:
        return  # not all kinds of values can be outputs
    for name, shape in inferred.items():
        array = actual[name]
        if not isinstance(array, np.ndarray):
            continue
        right = len(shape) == array.ndim and all(
            (dim if isinstance(dim, int) else sizes.setdefault(str(dim), size)) == size
            for dim, size in zip(shape, array.shape, strict=True)
        )
        if not right:
            yield f"{name} is {array.shape}, inferred was {shape}"


def test_cases_the_runtime_cannot_run_are_the_listed_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those the reference evaluator runs instead are named in a file: none goes unseen."""
    assert len(cases()) == COUNT
    listed = [line for line in LISTED.read_text().splitlines() if not line.startswith("#")]
    actual = sorted(case.name for case in cases() if case.runner == "reference")
    assert actual == listed
    counts = Counter(case.runner for case in cases())
    with capsys.disabled():
        sys.stdout.write(f"\n{COUNT} operator cases, run by: {dict(counts)}\n")
