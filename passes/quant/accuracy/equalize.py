# SPDX-License-Identifier: Apache-2.0
"""Cross-layer equalization: channels between two layers get ranges alike, at no cost.

M. Nagel, M. van Baalen, T. Blankevoort and M. Welling, "Data-Free Quantization through Weight
Equalization and Bias Correction" (2019), section 4.1. Between two layers stands at most a function
with f(s x) = s f(x) for s > 0 (Relu, LeakyRelu, PRelu), so channel i may be divided by s_i in the
first layer (bias too) and multiplied in the second. With r1_i the largest magnitude of the channel
in the first layer's weights and r2_i that in the second's,

    s_i = sqrt(r1_i / r2_i)        (equation 11)

makes both sqrt(r1_i r2_i). Chains are gone through until no factor is far from 1. No data is
needed. A Clip or Relu6 is no such function, and ends a chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.options import option
from burnish.passes.quant.accuracy.migrate import balanced
from burnish.passes.quant.ready import passed_through
from burnish.passes.reconstruct.layer import Layer, layers_of
from burnish.passes.sketch import Array

_PASSING = frozenset({"Relu", "LeakyRelu", "PRelu", "Identity"})
_ROUNDS = 20
_STILL = 1e-2  # a chain is done when all factors of a round are this near to 1


@dataclass(frozen=True)
class Link:
    """Two layers with nothing between them but functions that pass a factor on."""

    first: Layer
    second: Layer


@dataclass(frozen=True)
class Equalize(Pass):
    """Equalize the ranges of channels across layers: better int8 per tensor, and by channel.

    Exact up to rounding, for chains of Conv (depthwise too), Gemm and MatMul with Relu, LeakyRelu
    or PRelu between them; a Clip ends a chain. Run it before `quant`, behind `fuse`.
    """

    name: ClassVar[str] = "equalize"
    rule_names: ClassVar[tuple[str, ...]] = ("equalize",)

    exclude: tuple[str, ...] = option((), help="glob patterns of names of nodes to leave alone")

    def apply(self, model: ir.Model, ctx: PassContext) -> None:
        """Find links, find the factors of whole chains, then edit link by link."""
        if passed_through(model, ctx):
            return
        layers = layers_of(
            model, lambda node, why: ctx.refuse("equalize", node, why), exclude=self.exclude
        )
        of = {layer.node: layer for layer in layers}
        links = []
        for layer in layers:
            found = find_link(layer, of)
            if isinstance(found, str):
                ctx.refuse("equalize", layer.node, found)
            else:
                links.append(found)
        factors = chain_factors(links)
        spread: dict[str, float] = {}
        for link, factor in zip(links, factors, strict=True):
            if np.allclose(factor, 1, rtol=0, atol=_STILL):
                ctx.refuse("equalize", link.first.node, "its channels are alike already")
                continue
            with ctx.rewrite("equalize", link.first.node) as go:
                if go:
                    rescale(link, factor)
                    spread[link.first.name] = float(factor.max() / factor.min())
        ctx.details["equalize"] = {"largest by smallest factor": spread}


def find_link(layer: Layer, layers: dict[ir.Node, Layer]) -> Link | str:
    """Return the link from a layer to the next one, or why there is none."""
    if layer.shared or len(layer.nodes) > 1:
        return "its weights are used by others too"
    channels = layer.weights.channels
    node = layer.node
    while True:
        (value,) = node.outputs
        uses = value.uses()
        if value.is_graph_output() or len(uses) != 1:
            return "what it gives goes to several places"
        ((user, index),) = uses
        if index != 0 or user.domain != "":
            return f"{user.op_type} behind it does not pass a factor on"
        if user in layers:
            second = layers[user]
            if second.shared or len(second.nodes) > 1:
                return "the weights behind it are used by others too"
            if (second.node.op_type == "Conv") != (layer.node.op_type == "Conv"):
                return "the layer behind it has other channels"
            if _inputs(second) != channels:
                return "the layer behind it has other channels"
            return Link(layer, second)
        if user.op_type not in _PASSING:
            return f"{user.op_type} behind it does not pass a factor on"
        node = user


def equalizing(first: Array, second: Array) -> NDArray[np.float64]:
    """Return s of equation 11, up to one number for all; 1 where a channel is zero.

    Args:
        first: Weights of the first layer by output channel, [channels, ...].
        second: Weights of the second layer by input channel, [channels, ...].
    """
    reach = [np.abs(w).reshape(len(w), -1).max(axis=1).astype(np.float64) for w in (first, second)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return balanced(np.sqrt(reach[0] / reach[1]))


def chain_factors(links: list[Link]) -> list[NDArray[np.float64]]:
    """Return the factors of each link that equalize all of them together."""
    whole = [np.ones(link.first.weights.channels) for link in links]
    # Reach of each weight by (output, input) channel: all that later rounds need.
    reach: dict[str, NDArray[np.float64]] = {}
    for link in links:
        for layer in (link.first, link.second):
            reach.setdefault(layer.name, _reach(layer))
    for _ in range(_ROUNDS):
        far = 0.0
        for index, link in enumerate(links):
            ahead, behind = reach[link.first.name], reach[link.second.name]
            by_input = _by_input(link.second, behind)
            factor = equalizing(ahead, by_input)
            reach[link.first.name] = ahead / factor[:, None]
            reach[link.second.name] = behind * _along_inputs(link.second, factor)
            whole[index] *= factor
            far = max(far, float(np.abs(factor - 1).max()))
        if far < _STILL:
            break
    return whole


def rescale(link: Link, factor: NDArray[np.float64]) -> None:
    """Divide the outputs of the first layer, and multiply the inputs of the second."""
    first, second = link.first, link.second
    bias = first.weights.bias
    rows = first.rows
    first.replace(rows / factor.reshape(*rows.shape[:2], 1))
    if bias is not None:
        first.replace_bias(bias / factor)
    rows = second.rows
    groups, outputs, fan_in = rows.shape
    scale = _along_inputs(second, factor).reshape(groups, outputs, -1, 1)
    wide = rows.reshape(groups, outputs, scale.shape[2], -1)
    second.replace((wide * scale).reshape(groups, outputs, fan_in))


def _inputs(layer: Layer) -> int:
    """Return the number of input channels."""
    if layer.node.op_type == "Conv":
        return int(layer.weights.array.shape[1]) * layer.groups
    return layer.fan_in


def _reach(layer: Layer) -> NDArray[np.float64]:
    """Return the largest magnitude by output channel and input channel of its group."""
    rows = np.abs(layer.rows)
    inputs = _inputs(layer) // layer.groups
    reach = rows.reshape(layer.weights.channels, inputs, -1).max(axis=2)
    return np.asarray(reach, np.float64)


def _by_input(layer: Layer, reach: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest magnitude of each input channel, over its group: [inputs, 1]."""
    grouped = reach.reshape(layer.groups, -1, reach.shape[1])
    return np.asarray(grouped.max(axis=1).reshape(-1, 1))


def _along_inputs(layer: Layer, factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the factor of each output channel and input channel of its group."""
    by_group = factor.reshape(layer.groups, 1, -1)
    outputs = layer.weights.channels // layer.groups
    return np.repeat(by_group, outputs, axis=1).reshape(layer.weights.channels, -1)
