# SPDX-License-Identifier: Apache-2.0
"""burnish: a graph-level optimizing compiler for neural networks.

    import burnish

    model, report = burnish.optimize("m.onnx", passes="fuse,quant", calibration="samples/")

Names are imported on first use, so that `import burnish` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from burnish.api import Optimized, load, optimize
    from burnish.backends.artifact.folder import load_artifact
    from burnish.backends.target import Target
    from burnish.errors import BudgetError, BurnishError, InputError, VerificationError
    from burnish.passes.base import Group, Pass, PassResult
    from burnish.passes.calibration import CalibrationSource
    from burnish.passes.context import PassContext
    from burnish.passes.instrument import Event, Instrument
    from burnish.passes.options import option
    from burnish.passes.pattern import const, optional, variadic
    from burnish.passes.pipeline import Pipeline
    from burnish.passes.report import Report
    from burnish.passes.rule import NoMatch, Rule, RulePass, rule

_HOMES = {
    "api": ("Optimized", "load", "optimize"),
    "backends.artifact.folder": ("load_artifact",),
    "backends.target": ("Target",),
    "errors": ("BudgetError", "BurnishError", "InputError", "VerificationError"),
    "passes.base": ("Group", "Pass", "PassResult"),
    "passes.calibration": ("CalibrationSource",),
    "passes.context": ("PassContext",),
    "passes.instrument": ("Event", "Instrument"),
    "passes.options": ("option",),
    "passes.pattern": ("const", "optional", "variadic"),
    "passes.pipeline": ("Pipeline",),
    "passes.report": ("Report",),
    "passes.rule": ("NoMatch", "Rule", "RulePass", "rule"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BudgetError",
    "BurnishError",
    "CalibrationSource",
    "Event",
    "Group",
    "InputError",
    "Instrument",
    "NoMatch",
    "Optimized",
    "Pass",
    "PassContext",
    "PassResult",
    "Pipeline",
    "Report",
    "Rule",
    "RulePass",
    "Target",
    "VerificationError",
    "const",
    "load",
    "load_artifact",
    "optimize",
    "option",
    "optional",
    "rule",
    "variadic",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'burnish' has no attribute {name!r}")
    return getattr(importlib.import_module(f"burnish.{home}"), name)


def __dir__() -> list[str]:
    return __all__
