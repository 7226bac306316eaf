# SPDX-License-Identifier: Apache-2.0
"""Modules that many models do not need are loaded when they are first used."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, cast

# SymPy takes a third of the time in which a small model is optimized. onnx-ir and the inference of
# shapes import it, and what builds on it, but use them for arithmetic with symbolic sizes alone.
_DEFERRED = frozenset(
    {
        "onnx_ir._symbolic_shapes",
        "onnx_shape_inference._constraints",
        "onnx_shape_inference._symbolic_shapes",
        "sympy",
    }
)


def defer_imports() -> None:
    """Let SymPy and what builds on it be loaded at the first access to an attribute of theirs."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


class _Finder:
    """Finds the modules that are deferred, and no others."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _DEFERRED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = cast(Any, _Loader(spec.loader))
        return spec


class _Loader:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Leave it to the default."""

    def exec_module(self, module: ModuleType) -> None:
        # A submodule asks for this one, and needs the package loaded.
        vars(module).pop("__path__", None)
        module.__class__ = _Module


class _Module(ModuleType):
    """Stands for a module until an attribute is missing.

    `importlib.util.LazyLoader` would load it at the second import already.
    """

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        assert spec is not None
        self.__class__ = cast(Any, ModuleType)
        loader = cast(_Loader, spec.loader).inner
        spec.loader = self.__loader__ = loader
        if spec.submodule_search_locations is not None:
            self.__path__ = spec.submodule_search_locations
        loader.exec_module(self)
        return getattr(self, name)
