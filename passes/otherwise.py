# SPDX-License-Identifier: Apache-2.0
"""A model that rounds otherwise: how far does it carry differences in the last places?

Each result of an operator that rounds is moved by a few units in the last place, as another kernel
might. That is Monte Carlo arithmetic (D. S. Parker, Monte Carlo Arithmetic: exploiting randomness
in floating-point arithmetic, 1997), but how much is a function of the result: a kernel that sees
the same number twice rounds it the same way twice, so that no mean makes the error small.
Operators whose results are often exact on purpose, such as sums and products of masks, are left as
they are, and so are those that only move numbers.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from burnish.passes.edit import names_of
from burnish.passes.shapes import infer_shapes

_ROUND = frozenset(
    {"Attention", "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "Einsum", "Elu"}
    | {"Erf", "Exp", "GRU", "Gelu", "Gemm", "GlobalAveragePool", "GroupNormalization", "HardSwish"}
    | {"InstanceNormalization", "LRN", "LSTM", "LayerNormalization", "Log", "LogSoftmax", "MatMul"}
    | {"LpNormalization", "MeanVarianceNormalization", "Mish", "Pow", "RMSNormalization", "RNN"}
    | {"Reciprocal", "ReduceL2", "ReduceLogSumExp", "ReduceMean", "Resize", "Selu", "Sigmoid"}
    | {"Sin", "Softmax", "Softplus", "Sqrt", "Swish", "Tanh"}
)
_UNIT = {ir.DataType.FLOAT: 2.0**-23, ir.DataType.DOUBLE: 2.0**-52}
# As many as the operators that one fused operator stands for, or another order of a long sum, add.
_UNITS = 4
# So many turns of the sine for each 1 that its results look drawn.
_TURNS = 1e5
# The sine of an infinity, such as the log of 0, would be no number. (Until opset 8, Max and Min do
# not broadcast; until 12, Clip is not for doubles.)
_LARGEST = 1e30


def rounded_otherwise(model: ir.Model, seed: int) -> ir.Model:
    """Return a copy of a model, with the same weights, that rounds otherwise.

    Args:
        model: It is not changed. float32 and float64 results of its main graph are moved.
        seed: The same seed gives the same roundings.
    """
    copy, rng = model.clone(), np.random.default_rng(seed)
    infer_shapes(copy)
    names, opset = names_of(copy.graph), copy.opset_imports.get("", 1)
    for node in tuple(copy.graph):
        value = node.outputs[0] if node.outputs else None
        if node.domain or node.op_type not in _ROUND or value is None:
            continue
        if value.dtype not in _UNIT or value.is_graph_output():
            continue
        uses, kind = tuple(value.uses()), value.dtype.numpy()
        tape = ir.tape.Tape()
        numbers = (_TURNS * (1 + rng.random()), _UNITS * _UNIT[value.dtype], 1, -_LARGEST, _LARGEST)
        turns, units, one, low, high = (
            tape.op("Constant", [], {"value": ir.tensor(np.array(number, kind))})
            for number in numbers
        )
        bounded = value if opset < 8 else tape.op("Min", [tape.op("Max", [value, low]), high])
        drawn = tape.op("Sin", [tape.op("Mul", [bounded, turns])])
        factor = tape.op("Add", [tape.op("Mul", [drawn, units]), one])
        moved = tape.op("Mul", [value, factor])
        for made in tape.nodes:
            made.outputs[0].name = names.fresh(f"{value.name}_rounded")
        copy.graph.insert_after(node, tape.nodes)
        for user, at in uses:
            user.replace_input_with(at, moved)
    return copy
