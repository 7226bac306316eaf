# SPDX-License-Identifier: Apache-2.0
"""Random graphs composed of the rules' own patterns, and near misses, keep their outputs.

Tolerances are `numeric.TOLERANCES`: relative 1e-4 for float32, 1e-2 for float16, of each element or
of the output's root mean square.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.passes.base import Pass
from burnish.passes.fuse.activation.activation import FuseActivation
from burnish.passes.fuse.affine.affine import FuseAffine
from burnish.passes.fuse.conv.pad import FusePad
from burnish.passes.fuse.norm.norm import FuseNorm
from burnish.passes.fuse.product.gemm import FuseGemm
from burnish.passes.pipeline import Pipeline
from burnish.testing import assert_same_outputs, rewrites, run_pass

PASSES: tuple[Pass, ...] = (FuseNorm(), FuseActivation(), FusePad(), FuseAffine(), FuseGemm())
OPSETS = (18, 20, 21, 23)


@dataclass
class Sketch:
    """A graph being drawn: one value at a time, images [2,C,H,W] or rows [..., C]."""

    data: st.DataObject
    dtype: str
    shape: list[int]
    value: str = "x"
    lines: list[str] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)

    def pick(self, *choices: object) -> object:
        return self.data.draw(st.sampled_from(choices))

    def constant(self, array: object) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def random(self, *shape: int, low: float = -1.0, high: float = 1.0) -> np.ndarray:
        rng = np.random.default_rng(len(self.constants))
        return rng.uniform(low, high, shape)

    def emit(self, call: str) -> str:
        """Append a node; `{}` stands for the current value."""
        name = f"t{len(self.lines)}"
        self.lines.append(f"{name} = {call.format(self.value)}")
        return name

    def then(self, call: str) -> None:
        """Append a node and go on from it; now and then others use it too."""
        self.value = self.emit(call)
        if self.data.draw(st.integers(0, 9)) == 0:
            self.outputs.append(self.value)

    @property
    def channels(self) -> int:
        return self.shape[1] if len(self.shape) == 4 else self.shape[-1]

    def beside(self) -> str:
        """Return a constant that may stand beside the value in arithmetic."""
        ones = (1, 1) if len(self.shape) == 4 else ()
        shape = self.pick((), (1,), (self.channels, *ones), (1, self.channels, *ones))
        assert isinstance(shape, tuple)
        return self.constant(self.random(*shape, low=0.5, high=1.5))


def affine(sketch: Sketch) -> None:
    operator, constant = sketch.pick("Add", "Sub", "Mul", "Div"), sketch.beside()
    reverse = operator != "Div" and sketch.data.draw(st.booleans())
    sketch.then(f"{operator}({constant}, {{}})" if reverse else f"{operator}({{}}, {constant})")


def batch_norm(sketch: Sketch) -> None:
    if len(sketch.shape) == 3:
        return
    vectors = [
        sketch.constant(sketch.random(sketch.channels, low=low, high=1.5))
        for low in (0.5, -1.0, -1.0, 0.5)
    ]
    sketch.then(f"BatchNormalization({{}}, {', '.join(vectors)})")


def activation(sketch: Sketch) -> None:
    one, half, three = (sketch.constant(number) for number in (1.0, 0.5, 3.0))
    zero, six = sketch.constant(0.0), sketch.constant(sketch.pick(6.0, 6.0, 6.0, 5.0))
    kind = sketch.pick("relu", "gelu", "silu", "hard-swish", "hard-sigmoid", "min")
    if kind == "relu":
        sketch.then("Relu({})")
    elif kind == "gelu":
        root = sketch.constant(sketch.pick(2**0.5, 2**0.5, 1.5))
        a = sketch.emit(f"Div({{}}, {root})")
        b = sketch.emit(f"Erf({a})")
        c = sketch.emit(f"Add({b}, {one})")
        d = sketch.emit(f"Mul({{}}, {c})")
        sketch.then(f"Mul({d}, {half})")
    elif kind == "silu":
        a = sketch.emit("Sigmoid({})")
        sketch.then(f"Mul({{}}, {a})")
    elif kind == "min":
        a = sketch.emit("Relu({})")
        sketch.then(f"Min({a}, {six})")
    else:
        a = sketch.emit(f"Add({{}}, {three})")
        b = sketch.emit(f"Clip({a}, {zero}, {six})")
        if kind == "hard-swish":
            b = sketch.emit(f"Mul({b}, {{}})")
        sketch.then(f"Div({b}, {six})")


def window(sketch: Sketch) -> None:
    """Pad, or not, and a convolution or pooling."""
    if len(sketch.shape) != 4 or min(sketch.shape[2:]) < 3:
        return
    if sketch.data.draw(st.booleans()):
        before, after = (sketch.data.draw(st.integers(0, 1)) for _ in range(2))
        pads = sketch.constant([0, 0, before, 0, 0, 0, after, 1])
        fill = sketch.constant(sketch.pick(0.0, 0.0, -3e4))
        sketch.then(f"Pad({{}}, {pads}, {fill})")
        sketch.shape[2] += before + after
        sketch.shape[3] += 1
    padding = sketch.data.draw(st.integers(0, 1))
    kind = sketch.pick("Conv", "Conv", "AveragePool", "MaxPool")
    if kind != "Conv":
        extra = ", count_include_pad=1" if kind == "AveragePool" else ""
        pads = ", ".join([str(padding)] * 4)
        sketch.then(f"{kind}<kernel_shape=[2,2], pads=[{pads}]{extra}>({{}})")
        sketch.shape[2:] = [size + 2 * padding - 1 for size in sketch.shape[2:]]
        return
    groups = sketch.pick(1, sketch.channels)
    outputs = sketch.channels * sketch.data.draw(st.integers(1, 2))
    assert isinstance(groups, int)
    inputs = sketch.channels // groups
    weights = sketch.constant(sketch.random(outputs, inputs, 3, 3) / (3 * inputs**0.5))
    bias = f", {sketch.constant(sketch.random(outputs))}" if sketch.data.draw(st.booleans()) else ""
    pads = ", ".join([str(padding)] * 4)
    sketch.then(f"Conv<group={groups}, pads=[{pads}]>({{}}, {weights}{bias})")
    sketch.shape[1] = outputs
    sketch.shape[2:] = [size + 2 * padding - 2 for size in sketch.shape[2:]]


def product(sketch: Sketch) -> None:
    if len(sketch.shape) == 4:
        return
    columns = sketch.data.draw(st.integers(1, 6))
    weights = sketch.random(sketch.channels, columns) / sketch.channels**0.5
    if len(sketch.shape) == 2 and sketch.data.draw(st.booleans()):
        sketch.then(f"Gemm<transB=1, alpha=0.5>({{}}, {sketch.constant(weights.T)})")
    else:
        sketch.then(f"MatMul({{}}, {sketch.constant(weights)})")
    sketch.shape[-1] = columns
    if sketch.data.draw(st.booleans()):
        sketch.then(f"Add({sketch.constant(sketch.random(columns))}, {{}})")


def norm(sketch: Sketch) -> None:
    if len(sketch.shape) == 4 or sketch.channels < 3:
        return
    axes, two, eps = sketch.constant([-1]), sketch.constant(2.0), sketch.constant(0.5)
    if sketch.data.draw(st.booleans()):
        mean = sketch.emit(f"ReduceMean({{}}, {axes})")
        sketch.value = sketch.emit(f"Sub({{}}, {mean})")
    square = sketch.emit(str(sketch.pick(f"Pow({{}}, {two})", "Mul({0}, {0})")))
    mean = sketch.emit(f"ReduceMean({square}, {axes})")
    root = sketch.emit(f"Sqrt({sketch.emit(f'Add({mean}, {eps})')})")
    sketch.then(f"Div({{}}, {root})")
    affine(sketch)
    affine(sketch)


BLOCKS: tuple[Callable[[Sketch], None], ...] = (
    affine,
    affine,
    batch_norm,
    activation,
    window,
    window,
    product,
    product,
    norm,
)


def draw_graph(data: st.DataObject, freeze: Callable[..., ir.Model]) -> ir.Model:
    dtype = data.draw(st.sampled_from(["float", "float16"]))
    shape = data.draw(st.sampled_from([[2, 2, 7, 8], [2, 3, 6, 6], [3, 5], [2, 3, 4]]))
    sketch = Sketch(data, dtype, list(shape))
    count = data.draw(st.integers(1, 6))
    for block in data.draw(st.lists(st.sampled_from(BLOCKS), min_size=count, max_size=count)):
        block(sketch)
    sketch.then("Abs({})")
    outputs = list(dict.fromkeys([*sketch.outputs, sketch.value]))
    inputs = [f"{dtype}[{','.join(map(str, shape))}] x"]
    for name, array in sketch.constants.items():
        kind = "int64" if array.dtype.kind == "i" else dtype
        dims = ",".join(map(str, array.shape))
        inputs.append(f"{kind}[{dims}] {name}" if dims else f"{kind} {name}")
    model = freeze(
        f"g ({', '.join(inputs)}) => ({', '.join(f'{dtype} {name}' for name in outputs)})"
        f" {{ {' '.join(sketch.lines)} }}",
        opset=data.draw(st.sampled_from(OPSETS)),
        **sketch.constants,
    )
    for value in model.graph.outputs:
        value.shape = None
    return model


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(data=st.data())
def test_outputs_stay_and_a_second_run_finds_nothing(
    data: st.DataObject, freeze: Callable[..., ir.Model]
) -> None:
    model = draw_graph(data, freeze)
    original = model.clone()
    run_pass(Pipeline(PASSES), model)
    assert_same_outputs(original, model)
    assert rewrites(run_pass(Pipeline(PASSES), model)) == {}
