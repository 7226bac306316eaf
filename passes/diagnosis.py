# SPDX-License-Identifier: Apache-2.0
"""Whose fault is an internal error? A model that is no valid ONNX is its own.

Rules and passes take for granted what the standard demands, such as axes that exist. To check all
of that beforehand would cost every good model the time of a full inference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import onnx_ir as ir

from burnish.errors import BurnishError, InputError
from burnish.frontends.contents import check_contents
from burnish.passes.verify import verify

_LARGE = 2**30  # bytes of weights; with those the model is not written down once more


@contextmanager
def blaming_input(load: Callable[[], ir.Model]) -> Iterator[None]:
    """Within the context, an internal error is bad input if the model is not valid.

    Args:
        load: Loads the model as it was, for it is edited within the context.

    Raises:
        InputError: in place of an exception that is no `BurnishError`, if there is something wrong
            with the model.
    """
    try:
        yield
    except BurnishError:
        raise
    except Exception as error:
        found = None
        with suppress(Exception):  # of the two, the error at hand is the one to tell
            found = fault(load())
        if found is None:
            raise
        raise InputError(f"the model is malformed: {found}", hint="export it again") from error


def fault(model: ir.Model) -> str | None:
    """Return what is wrong with a model, by the structure, its tensors, and inference; or None."""
    import onnx

    problems = verify(model)
    if problems:
        return problems[0]
    if sum(_held(graph) for graph in model.graphs()) > _LARGE:
        return None
    try:
        proto = ir.to_proto(model)
        check_contents(proto, "the model", small=_LARGE)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except InputError as error:
        return str(error).removesuffix(f"; {error.hint}").removeprefix("the model: ")
    except Exception as error:
        return _first_cause(error)
    return None


def _held(graph: ir.Graph) -> int:
    tensors = (value.const_value for value in graph.initializers.values())
    return sum(t.nbytes for t in tensors if t and not isinstance(t, ir.ExternalTensor))


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]
