# SPDX-License-Identifier: Apache-2.0
"""Run code written for other tools as one rewrite: on a copy, taken over if it changed anything.

What such code says about its own changes is not relied on, and if it fails half-way the model is
as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import onnx_ir as ir

from burnish.errors import BurnishError, InputError
from burnish.passes.context import PassContext
from burnish.passes.fingerprint import fingerprint
from burnish.passes.report import all_graphs
from burnish.passes.shapes import forget_shapes


def run_foreign(
    rule: str,
    transform: Callable[[ir.Model], ir.Model | None],
    model: ir.Model,
    ctx: PassContext,
) -> None:
    """Replace the content of `model` by that of `transform(copy of model)`, if it differs.

    The copy shares its tensors with the model: `transform` may replace them but not write to them.
    It returns None to say that there is nothing to take over.
    """
    copy = model.clone()
    before = fingerprint(copy)
    result = transform(copy)
    if result is None or fingerprint(result) == before:
        return
    with ctx.rewrite(rule, model.graph.name or "model") as go:
        if go:
            adopt(model, result)


@contextlib.contextmanager
def blaming(name: str) -> Iterator[None]:
    """Turn whatever foreign code raises into one line that names it.

    Raises:
        InputError: the code raised.
    """
    try:
        yield
    except BurnishError:
        raise
    except Exception as error:
        line = " ".join(str(error).split()) or "no message"
        raise InputError(f"{name} failed: {type(error).__name__}: {line}") from error


def adopt(model: ir.Model, other: ir.Model) -> None:
    """Give `model` the content of `other`, which must not be used afterwards.

    The object stays the same, for those who hold it; what is known about its graphs does not.
    """
    model.graph = other.graph
    functions = dict(other.functions)
    model.functions.clear()
    model.functions.update(functions)
    properties = dict(other.metadata_props)
    model.metadata_props.clear()
    model.metadata_props.update(properties)
    model.ir_version = other.ir_version
    model.producer_name = other.producer_name
    model.producer_version = other.producer_version
    model.domain = other.domain
    model.model_version = other.model_version
    model.doc_string = other.doc_string
    model.device_configurations = other.device_configurations
    for graph in all_graphs(model):
        graph.meta.clear()
    forget_shapes(model)
