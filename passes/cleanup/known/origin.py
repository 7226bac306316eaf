# SPDX-License-Identifier: Apache-2.0
"""What constants a computed result comes from: what folding it frees, and what it unpacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from burnish.passes.cleanup.known.arrays import SMALL
from burnish.passes.constant import tensor_of


@dataclass(frozen=True)
class Origin:
    """What the results of a computed node come from.

    Attributes:
        source: Bytes of the constants they are computed from.
        freed: Bytes of those that no one else uses.
        narrowest: Fewest bits an element has of those constants among them that are not small.
    """

    source: int
    freed: int
    narrowest: int


def origin_of(node: ir.Node, origins: Mapping[ir.Node, Origin]) -> Origin:
    """Return what the results of a node come from, whose inputs are constants or have origins."""
    source, freed, narrowest = 0, 0, 64
    for value in dict.fromkeys(value for value in node.inputs if value is not None):
        producer = value.producer()
        if producer is not None and producer in origins:
            above = origins[producer]
        else:
            tensor = tensor_of(value)
            assert tensor is not None
            bits = tensor.dtype.bitwidth if tensor.nbytes > SMALL else 64
            above = Origin(tensor.nbytes, tensor.nbytes, bits)
        alone = len(set(value.consumers())) == 1 and not value.is_graph_output()
        source += above.source
        freed += above.freed if alone else 0
        narrowest = min(narrowest, above.narrowest)
    return Origin(source, freed, narrowest)
