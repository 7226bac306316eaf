# SPDX-License-Identifier: Apache-2.0
"""Shapes that engines are built for: read from text, derived from the model, and checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from burnish.backends.profiles import Profile, Range, describe
from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

# min, opt and max of symbolic axes that nothing is known of: a batch, a sequence, an image.
_BATCH = (1, 1, 8)
_LENGTH = (1, 128, 512)
_EXTENT = (32, 320, 960)

Sizes = tuple[int, int, int]


def resolve(model: ir.Model, given: Sequence[Profile]) -> tuple[tuple[Profile, ...], str | None]:
    """Return profiles that cover every input whose shape is not fixed.

    Without `given`, there is one with these sizes of symbolic axes: 1 to 8 on a first axis (1 for
    speed), 1 to 512 on others (128), and 32 to 960 (320) on the last two of four.

    Returns:
        The profiles, none if all shapes are fixed; and a line that says so if they were derived.

    Raises:
        InputError: a given profile names no input, lacks one, or contradicts its shape.
    """
    dynamic = [value for value in _fed(model) if not _fixed(value)]
    for value in dynamic:
        if value.shape is None:
            raise InputError(
                f"input {value.name!r} has no shape, not even a rank",
                hint="export the model with shapes",
            )
    if given:
        return tuple(_completed(profile, model, dynamic) for profile in given), None
    if not dynamic:
        return (), None
    derived = Profile("default", _spans(dynamic, {}))
    return (derived,), (
        f"the engine is built for default shapes: {describe([derived])}; --shapes chooses others"
    )


def parse(texts: Iterable[str], model: ir.Model) -> tuple[Profile, ...]:
    """Read profiles from text: of inputs or of symbolic axes, `min:opt:max` each.

    ``x=1x3x48x32:1x3x48x320:8x3x48x1600`` gives shapes of an input, ``batch=1:1:8`` sizes of a
    symbolic axis; one size alone is all three. What stands twice begins the next profile. Symbolic
    axes that are not named get the sizes of `resolve`.

    Raises:
        InputError: the text is none of that, or names nothing in the model.
    """
    groups: list[dict[str, tuple[str, ...]]] = [{}]
    for text in texts:
        for part in text.split(","):
            name, separator, spans = part.strip().rpartition("=")
            ends = tuple(spans.split(":"))
            if not separator or not name or len(ends) not in (1, 3):
                raise InputError(
                    f"shapes {part.strip()!r} are not NAME=MIN:OPT:MAX",
                    hint="for example batch=1:1:8 or x=1x3x32x32:1x3x640x640:1x3x960x960",
                )
            if name in groups[-1]:
                groups.append({})
            groups[-1][name] = ends if len(ends) == 3 else ends * 3
    return tuple(_profile(f"shapes-{i}", group, model) for i, group in enumerate(groups))


def add(builder: Any, config: Any, profiles: Sequence[Profile]) -> None:
    """Put profiles into a builder's configuration.

    Raises:
        InputError: TensorRT refuses one.
    """
    for profile in profiles:
        made = builder.create_optimization_profile()
        for name, span in profile.inputs.items():
            try:
                made.set_shape(name, *span)
            except (ValueError, RuntimeError) as error:
                raise InputError(
                    f"TensorRT refuses the shapes {describe([profile])}: {error}"
                ) from error
        if config.add_optimization_profile(made) < 0:
            raise InputError(f"TensorRT refuses profile {profile.name!r}")


def _profile(name: str, group: dict[str, tuple[str, ...]], model: ir.Model) -> Profile:
    inputs = {value.name: value for value in _fed(model)}
    symbols = {dim.value for value in inputs.values() for dim in _symbolic(value)}
    sizes: dict[str, Sizes] = {}
    shapes: dict[str, Range] = {}
    for key, ends in group.items():
        if key in inputs:
            shapes[key] = Range(*(tuple(_number(n, key) for n in end.split("x")) for end in ends))
        elif key in symbols:
            low, middle, high = (_number(end, key) for end in ends)
            sizes[key] = (low, middle, high)
        else:
            known = ", ".join([*map(str, inputs), *sorted(str(symbol) for symbol in symbols)])
            raise InputError(
                f"shapes {key!r} name no input and no symbolic axis", hint=f"there are {known}"
            )
    others = [v for v in inputs.values() if v.name not in shapes and not _fixed(v)]
    return Profile(name, {**_spans(others, sizes), **shapes})


def _number(text: str, of: str) -> int:
    if not text.strip().isdecimal():
        raise InputError(f"shapes of {of!r}: {text!r} is no size", hint="give whole numbers")
    return int(text)


def _spans(values: Sequence[ir.Value], sizes: dict[str, Sizes]) -> dict[str, Range]:
    """Ranges of inputs, of their symbolic axes by name or by default."""
    chosen = dict(sizes)
    found = {}
    for value in values:
        assert value.shape is not None
        axes: list[Sizes] = []
        rank = len(value.shape)
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, int):
                axes.append((dim, dim, dim))
                continue
            default = _BATCH if axis == 0 else _EXTENT if rank == 4 and axis > 1 else _LENGTH
            axes.append(chosen.setdefault(dim.value, default) if dim.value else default)
        low, middle, high = zip(*axes, strict=True)
        found[value.name or ""] = Range(low, middle, high)
    return found


def _completed(profile: Profile, model: ir.Model, dynamic: Sequence[ir.Value]) -> Profile:
    """Check a profile against the model; drop inputs of fixed shape, which need none."""
    inputs = {value.name or "": value for value in _fed(model)}
    for name, span in profile.inputs.items():
        if name not in inputs:
            raise InputError(
                f"profile {profile.name!r} names no input {name!r}",
                hint=f"inputs: {', '.join(inputs)}",
            )
        shape = inputs[name].shape
        dims = [] if shape is None else list(shape)
        fits = len(dims) == len(span.min) and all(
            low == high == dim
            for dim, low, high in zip(dims, span.min, span.max, strict=True)
            if isinstance(dim, int)
        )
        if not fits:
            raise InputError(
                f"profile {profile.name!r}: input {name!r} has shape "
                f"[{', '.join(str(getattr(dim, 'value', dim)) for dim in dims)}]; "
                f"{list(span.min)} to {list(span.max)} does not fit it",
                hint="give fixed axes their size",
            )
    lacking = [value.name for value in dynamic if value.name not in profile.inputs]
    if lacking:
        raise InputError(
            f"profile {profile.name!r} has no shapes of input {lacking[0]!r}",
            hint="give all inputs whose shape is not fixed",
        )
    kept = {name: span for name, span in profile.inputs.items() if not _fixed(inputs[name])}
    return Profile(profile.name, kept)


def _fed(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _fixed(value: ir.Value) -> bool:
    return value.shape is not None and all(isinstance(dim, int) for dim in value.shape)


def _symbolic(value: ir.Value) -> list[Any]:
    dims = () if value.shape is None else value.shape
    return [dim for dim in dims if not isinstance(dim, int) and dim.value]
