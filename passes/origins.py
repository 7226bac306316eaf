# SPDX-License-Identifier: Apache-2.0
"""Remember which pass made a node, for those who have to say where a node comes from."""

from __future__ import annotations

import onnx_ir as ir

from burnish.passes.instrument import Event, Instrument
from burnish.passes.report import all_graphs

_MADE_BY = "burnish.made_by"
_INPUT = ""


class Origins(Instrument):
    """Marks each node with the first pass after which it is there. Linear in nodes for each pass.

    A pass that hands the model to another library may replace all nodes by equal ones: they then
    count as its own.
    """

    def __init__(self, model: ir.Model) -> None:
        _mark(model, _INPUT)

    def after(self, event: Event, model: ir.Model) -> None:
        if event.kind == "pass":
            _mark(model, event.name)


def made_by(node: ir.Node) -> str | None:
    """The pass that made a node; None if it was in the input, or if nobody kept account."""
    return node.meta.get(_MADE_BY) or None


def _mark(model: ir.Model, name: str) -> None:
    for graph in all_graphs(model):
        for node in graph:
            node.meta.setdefault(_MADE_BY, name)
