# SPDX-License-Identifier: Apache-2.0
"""Every module of the compiler can be the first one to be imported."""

from __future__ import annotations

import subprocess
import sys

_EACH_FIRST = """
import importlib, pkgutil, sys
import burnish.passes
for module in pkgutil.walk_packages(burnish.passes.__path__, "burnish.passes."):
    for loaded in [name for name in sys.modules if name.startswith("burnish.passes")]:
        del sys.modules[loaded]
    importlib.import_module(module.name)
"""


def test_no_module_needs_another_to_be_imported_before_it() -> None:
    done = subprocess.run([sys.executable, "-c", _EACH_FIRST], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
