# SPDX-License-Identifier: Apache-2.0
"""A call is tried without harm."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from burnish.backends.trial import returns

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux copies processes so")


def test_what_returns_does() -> None:
    assert returns(lambda: None)


def test_a_thread_may_ask() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(returns, lambda: None).result()


def fail() -> None:
    raise ValueError("no")


@pytest.mark.parametrize("call", [fail, os.abort, lambda: os.kill(os.getpid(), 8), sys.exit])
def test_what_raises_or_kills_the_process_does_not(call: Callable[[], object]) -> None:
    assert not returns(call)


def test_what_takes_too_long_does_not() -> None:
    started = time.monotonic()
    assert not returns(lambda: time.sleep(30), seconds=0.1)
    assert time.monotonic() - started < 10


def test_nothing_is_left_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def call() -> None:
        seen.append(1)
        os.write(2, b"said")

    assert returns(call)
    assert not seen
    assert capfd.readouterr() == ("", "")
