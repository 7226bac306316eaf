# SPDX-License-Identifier: Apache-2.0
"""SymPy is loaded where sizes are reasoned about that are no products, and not before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

_OPTIMIZE = """
import sys
from burnish.tools.optimize import command
command.main(sys.argv[1:], standalone_mode=False)
print("sympy.core" in sys.modules)
"""


def run(script: str, *words: str | Path) -> str:
    """Run a script in a process of its own; return the last line it printed."""
    made = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True, check=True
    )
    return made.stdout.splitlines()[-1]


@pytest.mark.parametrize("size", [3, "N", "DynamicDimension.0"])
def test_sympy_is_not_loaded_for_sizes_and_their_products(tmp_path: Path, size: int | str) -> None:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [size, 4])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [size, 8])
    nodes = [
        onnx.helper.make_node("Concat", ["x", "x"], ["z"], axis=1),
        onnx.helper.make_node("Relu", ["z"], ["y"]),
    ]
    opsets = [onnx.helper.make_opsetid("", 21)]
    graph = onnx.helper.make_graph(nodes, "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "m")
    assert run(_OPTIMIZE, tmp_path / "m", "-o", tmp_path / "m.onnx", "--quiet") == "False"


@pytest.mark.parametrize(
    "use",
    [
        "import sympy",
        "import sympy.core.numbers",
        "from sympy import Symbol",
        "import onnx_ir; import sympy",
        "from onnx_ir import _symbolic_shapes; _symbolic_shapes.parse_symbolic_expression('N + 1')",
    ],
)
def test_what_is_deferred_works(use: str) -> None:
    script = (
        "from burnish.tools.startup import defer_imports; defer_imports(); defer_imports()\n"
        f"{use}\nimport sympy\nprint(sympy.Symbol('N') + 1)"
    )
    assert run(script) == "N + 1"
