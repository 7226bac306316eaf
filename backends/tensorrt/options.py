# SPDX-License-Identifier: Apache-2.0
"""How engines are built: options declared once, for the command line, the API and manifests."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from burnish.errors import InputError
from burnish.passes.options import option, options_of


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build; each field's help says what it does.

    Raises:
        InputError: a value is of the wrong type or out of range.
    """

    workspace: int | None = option(
        None, help="MiB of scratch memory a layer may take; none leaves it to TensorRT", min=1
    )
    level: int | None = option(
        None, help="effort: 0 is the quickest to build, 5 the quickest to run", min=0, max=5
    )
    timing_cache: str | None = option(
        None, help="file in which timings of kernels are kept between builds (tensorrt only)"
    )
    version_compatible: bool = option(
        False, help="the engine also loads in later versions of the same major one"
    )
    hardware_compatible: bool = option(
        False, help="the engine also runs on later GPUs than the one it is built on (tensorrt only)"
    )
    strip: bool = option(
        False, help="leave the weights out of the engine; they are put in as it is loaded"
    )
    refit: bool = option(False, help="weights can be exchanged in the built engine")
    sparse: bool = option(False, help="make use of weights of which 2 in each 4 are zero")
    tf32: bool = option(True, help="float32 products may round their inputs to 10 bits")
    streaming: bool = option(False, help="weights can stay in the host's memory as it runs")
    plugins: tuple[str, ...] = option((), help="libraries of plugins that the model needs")
    fallback: str | None = option(
        None,
        help="`onnxruntime` runs the nodes that TensorRT refuses; none refuses the model",
        choices=("onnxruntime",),
    )

    def __post_init__(self) -> None:
        for item in options_of(type(self)):
            item.check(getattr(self, item.field))

    @staticmethod
    def of(given: Mapping[str, Any]) -> BuildOptions:
        """Read options by name, as values or as text.

        Raises:
            InputError: there is no such option, or the value is none for it.
        """
        declared = {item.name: item for item in options_of(BuildOptions)}
        found: dict[str, Any] = {}
        for key, value in given.items():
            name = key.replace("-", "_")
            if name not in declared:
                near = difflib.get_close_matches(name, declared, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(declared)}"
                raise InputError(f"engines have no build option {key!r}", hint=hint)
            if isinstance(value, str) and declared[name].scalar is not str:
                value = declared[name].parse([value])
            elif declared[name].repeated:
                value = tuple(value.split(",") if isinstance(value, str) else value)
            found[name] = value
        return BuildOptions(**found)

    def as_dict(self) -> dict[str, Any]:
        """Return those that differ from the defaults; plain data."""
        values = dataclasses.asdict(self)
        defaults = dataclasses.asdict(BuildOptions())
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != defaults[name]
        }
