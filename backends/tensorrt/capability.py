# SPDX-License-Identifier: Apache-2.0
"""Which GPUs can be built for, and which operators the parser takes."""

from __future__ import annotations

import difflib
import functools
from typing import Any

from burnish.backends.tensorrt import module
from burnish.errors import InputError

# Element types that compute. int8 and narrower are the business of Q/DQ, and stand before
# operators, not in them; there is no float64.
_COMPUTE = frozenset({"FLOAT", "FLOAT16", "BFLOAT16", "INT32", "INT64", "BOOL"})
_QUANTIZED = frozenset({"INT8", "UINT8", "INT4", "FLOAT8E4M3FN", "FLOAT4E2M1"})
TYPES = _COMPUTE | _QUANTIZED
"""Element types of tensors that an engine may hold. float64 would silently become float32."""

# What quantized tensors may go through.
_ON_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})


def known(target: str) -> tuple[str, ...]:
    """Compute capabilities that a target can build for without having such a GPU: ``sm89``, ..."""
    members = module.load(target).ComputeCapability.__members__
    return tuple(name.lower() for name in members if name not in ("NONE", "CURRENT"))


def parse(target: str, devices: str) -> tuple[str, ...]:
    """Read ``sm89,sm120``, in order and without repetition; empty text gives none.

    Raises:
        InputError: the target cannot build for one of them.
        MissingExtraError: the target's package is not installed.
    """
    if not devices:
        module.load(target)
        return ()
    names = tuple(dict.fromkeys(name.strip() for name in devices.split(",")))
    there = known(target)
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"{target} builds for no compute capability {name!r}",
                hint=f"{hint}known: {', '.join(there)}",
            )
    return names


@functools.cache
def supports(target: str, domain: str, op_type: str, dtype: str | None) -> bool:
    """Whether a target's parser takes an operator of an element type.

    It goes by name. A few operators of other domains bear the name of a standard one that means
    something else, so only those of the standard domain count.
    """
    if domain != "":
        return False
    if dtype in _QUANTIZED:
        return op_type in _ON_QUANTIZED
    if dtype is not None and dtype not in _COMPUTE:
        return False
    return bool(_parser(target)[0].supports_operator(op_type))


@functools.cache
def _parser(target: str) -> tuple[Any, ...]:
    """A parser to ask, and what it must not outlive."""
    trt = module.load(target)
    log = module.logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    return trt.OnnxParser(network, log), network, builder
