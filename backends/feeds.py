# SPDX-License-Identifier: Apache-2.0
"""Inputs for a model made up: sizes of what it leaves open, and random numbers of each type."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from burnish.backends.trial import returns
from burnish.errors import BurnishError, InputError

if TYPE_CHECKING:
    import onnx_ir as ir

    from burnish.backends.onnxruntime import Session, TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]

BATCH = 1
"""Size given to a symbolic first axis."""
EXTENT = 32
"""Size given to any other symbolic axis: long enough for a stride of 32, the usual one."""
PIXELS, LATENTS, TOKENS = 224, 64, 128
"""What it is where time is taken: the sides of an image, those of a map of other channels than
colours, the length of a text or a series."""


def random_feeds(
    model: ir.Model | _HasInputs,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Array]:
    """Make inputs that a model accepts; the same seed gives the same arrays.

    Floating-point inputs are standard normal. Integers are 0 or 1, which are valid as token ids,
    positions and indices; 8-bit ones, which are pixels or quantized values, span their type.
    Inputs with ``mask`` in their name are all ones. Strings are short words.

    Args:
        model: A model or a session.
        seed: Seed of the generator.
        dims: Sizes of symbolic dimensions by name, for instance ``{"batch": 8}``. Those not given
            are `BATCH` on a first axis and `EXTENT` elsewhere, one size per name. One that is
            computed from others by its name, as ``past + 1``, follows from them.
        ranges: ``(low, high)`` by input name: uniform from there instead, `high` included for
            integers.

    Raises:
        InputError: an input is not a tensor, or `dims` names no dimension of the model.
    """
    specs = input_specs(model)
    sizes = symbol_sizes(specs, dims or {})
    rng = np.random.default_rng(seed)
    feeds = {}
    for spec in specs:
        span = (ranges or {}).get(spec.name)
        feeds[spec.name] = random_array(rng, spec.name, spec.dtype, _concrete(spec, sizes), span)
    return feeds


def sizes_to_try(
    specs: Sequence[TensorSpec], dims: Mapping[str, int] | None = None
) -> Iterator[dict[str, int]]:
    """Yield sizes of symbolic dimensions until one lets the model run: the usual ones first.

    A model may want an axis longer than is usual (a window of audio, padding that reflects), or as
    long as another one that nothing relates it to; some step through one element at a time.

    Args:
        specs: The inputs.
        dims: Sizes that are settled.
    """
    settled = dims or {}
    usual = symbol_sizes(specs, settled)
    yield usual
    seen = [usual]
    masks = {dim for spec in specs if _is_mask(spec.name) for dim in _symbols(spec)}
    others = {dim for spec in specs if not _is_mask(spec.name) for dim in _symbols(spec)}
    # A mask over past and present together: twice as long as either, if it is not named a sum.
    joint = usual | {dim: 2 * usual[dim] for dim in usual if dim in masks - others} | dict(settled)
    if joint != usual:
        seen.append(joint)
        yield joint
    shapes = [_symbols(spec) for spec in specs if spec.shape]
    first, last = {shape[0] for shape in shapes}, {shape[-1] for shape in shapes}
    for at_first, between, at_last in _LADDER:
        sizes = {
            dim: at_first if dim in first else at_last if dim in last else between for dim in usual
        } | dict(settled)
        if sizes not in seen:
            seen.append(sizes)
            yield sizes


# Sizes of axes that are the first of an input, in its middle, its last. The many small ones come
# before few large ones: a model that fails for another reason shall not cost much to find out.
_LADDER = (
    *((EXTENT, EXTENT, EXTENT), (1, 4 * EXTENT, 4 * EXTENT), (1, 1, 4 * EXTENT)),
    *((1, 16 * EXTENT, 16 * EXTENT), (1, 1, 16 * EXTENT), (1, 1, 64 * EXTENT), (1, 1, 1)),
)


@dataclass(frozen=True)
class RandomRun:
    """A run on random inputs.

    Attributes:
        sizes: Of symbolic dimensions, by name.
        feeds: The inputs.
        outputs: What came of them.
        unusual: Whether the model does not run at the usual sizes.
    """

    sizes: dict[str, int]
    feeds: dict[str, Array]
    outputs: dict[str, Array]
    unusual: bool = False


def random_run(session: Session, seed: int = 0, dims: Mapping[str, int] | None = None) -> RandomRun:
    """Run a model on `random_feeds` of the first sizes of `sizes_to_try` that it runs on.

    All but the usual sizes are tried in a copy of the process first, which they may end.

    Raises:
        BurnishError: it runs on none of them; why not on the usual ones.
        InputError: an input is not a tensor, or `dims` names no dimension of the model.
    """
    failure: BurnishError | None = None
    try:
        for sizes in sizes_to_try(session.inputs, dims):
            feeds = random_feeds(session, seed, sizes)
            if failure is not None and not returns(functools.partial(session.run, feeds)):
                continue
            try:
                return RandomRun(sizes, feeds, session.run(feeds), failure is not None)
            except BurnishError as error:
                failure = failure or error
        assert failure is not None
        raise failure
    finally:
        del failure  # it holds this frame, which would hold it, and the session with all its memory


def _symbols(spec: TensorSpec) -> tuple[int | str, ...]:
    """The shape of an input, with names for dimensions that have none: those they get on import."""
    return tuple(
        f"{spec.name}_dim_{axis}" if dim is None else dim for axis, dim in enumerate(spec.shape)
    )


def _concrete(spec: TensorSpec, sizes: Mapping[str, int]) -> list[int]:
    return [
        dim if isinstance(dim, int) else sizes[dim] if dim in sizes else _computed(dim, sizes)
        for dim in _symbols(spec)
    ]


def _computed(dim: str, sizes: Mapping[str, int]) -> int:
    """The size of a dimension whose name is a formula of others' names."""
    import onnx_ir as ir

    try:
        size = ir.SymbolicDim(dim).evaluate(sizes)
    except ZeroDivisionError:
        return EXTENT
    return size if isinstance(size, int) and size > 0 else EXTENT


def _is_computed(dim: str, names: Collection[str]) -> bool:
    """Whether the name of a dimension is a formula of some of these names, as `past + 1` is."""
    if dim.replace(".", "_").isidentifier():  # as PaddlePaddle's "DynamicDimension.0"
        return False
    import onnx_ir as ir

    try:
        inner = ir.SymbolicDim(dim).free_symbols()
    except ValueError:
        return False
    return bool(inner) and all(name in names and name != dim for name in inner)


def _is_mask(name: str) -> bool:
    return "mask" in name.lower()


class _HasInputs(Protocol):
    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...


def input_specs(model: ir.Model | _HasInputs) -> tuple[TensorSpec, ...]:
    """Name, type and shape of each input that has to be given."""
    import onnx_ir as ir

    from burnish.backends.onnxruntime import TensorSpec

    if not isinstance(model, ir.Model):
        return model.inputs
    specs = []
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:  # a default, not asked for
            continue
        tensor = isinstance(value.type, ir.TensorType)
        dims = value.shape.dims if value.shape is not None else ()
        shape = tuple(dim if isinstance(dim, int) else dim.value for dim in dims)
        dtype = value.dtype if tensor and value.dtype else ir.DataType.UNDEFINED
        specs.append(TensorSpec(value.name or "", dtype, shape))
    return tuple(specs)


def symbol_sizes(
    specs: Sequence[TensorSpec], dims: Mapping[str, int], *, typical: bool = False
) -> dict[str, int]:
    """The size that `random_feeds` gives each symbolic dimension of inputs, by its name.

    Those that are computed from others are left out, unless they are given.

    Args:
        specs: The inputs.
        dims: Sizes of some.
        typical: Whether images and texts are to be as large as requests mostly are, and not only
            large enough to run.

    Raises:
        InputError: `dims` names no dimension.
    """
    sizes: dict[str, int] = {}
    names = {dim for spec in specs for dim in _symbols(spec) if isinstance(dim, str)}
    computed = {dim for dim in names if dim not in dims and _is_computed(dim, names)}
    for spec in specs:
        for axis, dim in enumerate(_symbols(spec)):
            if isinstance(dim, str) and dim not in computed:
                default = _extent(spec, axis, typical=typical) if axis else BATCH
                # A symbol that is the first axis anywhere is the batch everywhere.
                sizes[dim] = dims.get(dim, min(default, sizes.get(dim, default)))
    for name in dims:
        if name not in sizes:
            known = ", ".join(sizes) or "none"
            raise InputError(f"no input has a dimension {name!r}", hint=f"there are: {known}")
    return sizes


def _extent(spec: TensorSpec, axis: int, *, typical: bool) -> int:
    if not typical:
        return EXTENT
    if len(spec.shape) == 4 and axis > 1:
        channels = spec.shape[1]
        return LATENTS if isinstance(channels, int) and channels not in (1, 3) else PIXELS
    return TOKENS


def random_array(
    rng: np.random.Generator,
    name: str,
    dtype: ir.DataType,
    shape: Sequence[int],
    span: tuple[float, float] | None = None,
) -> Array:
    """Make one input, as `random_feeds` does; `span` is its range.

    Raises:
        InputError: there are no arrays of that type.
    """
    import onnx_ir as ir

    if dtype is ir.DataType.UNDEFINED:
        raise InputError(f"input {name!r} is not a tensor", hint="give the inputs yourself")
    if dtype is ir.DataType.STRING:
        return np.array(["alpha", "beta", "gamma"], dtype=object)[rng.integers(3, size=shape)]
    numpy_type = dtype.numpy()
    if span is None and _is_mask(name):
        return np.ones(shape, numpy_type)
    if dtype is ir.DataType.BOOL:
        return rng.integers(2, size=shape).astype(numpy_type)
    if dtype.is_integer():
        low, high = span or _integer_span(dtype)
        return rng.integers(int(low), int(high), size=shape, endpoint=True).astype(numpy_type)
    values = rng.standard_normal(shape) if span is None else rng.uniform(*span, size=shape)
    return np.asarray(values).astype(numpy_type)


def _integer_span(dtype: ir.DataType) -> tuple[int, int]:
    if dtype.bitwidth != 8:
        return 0, 1
    return (-128, 127) if dtype.is_signed() else (0, 255)
