# SPDX-License-Identifier: Apache-2.0
"""Which nodes give the same outputs whenever they get the same inputs."""

from __future__ import annotations

import onnx_ir as ir

from burnish.passes.edit import subgraphs

# Dropout counts too: in training mode it draws, and at inference it is an identity anyway.
_RANDOM = frozenset(
    {"Bernoulli", "Dropout", "Multinomial"}
    | {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    | {"BiasDropout", "BitmaskBiasDropout", "BitmaskDropout", "Sampling"}
)
_KNOWN_DOMAINS = frozenset({"", "ai.onnx.ml", "com.microsoft"})


def is_deterministic(node: ir.Node) -> bool:
    """Whether the node, subgraphs included, is known to draw nothing and to do nothing else.

    Operators of foreign domains and calls of functions are not known to.
    """
    if node.domain not in _KNOWN_DOMAINS or node.op_type in _RANDOM:
        return False
    return all(is_deterministic(inner) for graph in subgraphs(node) for inner in graph.all_nodes())
