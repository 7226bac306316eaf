# SPDX-License-Identifier: Apache-2.0
"""What every test runs under: the import guard, the markers' switches, hypothesis' profiles."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent

# The repository root is the package: with it on sys.path, `import passes` would succeed and
# give every module a second identity. `python -m pytest` puts it there; take it off again, and
# keep it off in the interpreters that tests start.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
os.environ["PYTHONSAFEPATH"] = "1"
# What a test asserts may not depend on how fast this machine is; tests of measuring ask for it.
os.environ["BURNISH_MEASURE"] = "0"

hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.register_profile(
    "ci", parent=hypothesis.settings.get_profile("default"), derandomize=True, print_blob=True
)
hypothesis.settings.register_profile(
    "thorough", parent=hypothesis.settings.get_profile("default"), max_examples=1000
)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default")
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switches of the markers `slow`, `gpu` and `zoo`."""
    parser.addoption("--slow", action="store_true", help="run the tests marked slow")
    parser.addoption("--gpu", action="store_true", help="run the tests marked gpu")
    parser.addoption("--offline", action="store_true", help="skip the tests marked zoo")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, visibly, what was not asked for; naming a marker with -m asks for it."""
    reasons = {
        "slow": None if config.getoption("--slow") else "slow: run with --slow",
        "gpu": None if config.getoption("--gpu") else "needs a GPU: run with --gpu",
        "zoo": "fetches from the package index: run without --offline"
        if config.getoption("--offline")
        else None,
    }
    asked = config.getoption("markexpr")
    skips = {
        name: pytest.mark.skip(reason=reason)
        for name, reason in reasons.items()
        if reason is not None and name not in asked
    }
    for item in items:
        for name, skip in skips.items():
            if item.get_closest_marker(name):
                item.add_marker(skip)
