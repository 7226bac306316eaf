# SPDX-License-Identifier: Apache-2.0
"""Requests served by several processes: in order, and with a clear word when one dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from burnish.backends.serve import Feeds, serve
from burnish.errors import BurnishError, InputError


def requests(count: int) -> Iterator[tuple[str, Feeds]]:
    rng = np.random.default_rng(0)
    for index in range(count):
        x = rng.standard_normal((1, 1 + index % 5, 8)).astype(np.float32)
        yield f"{index:03}", {"x": x, "mask": np.ones((*x.shape[:2], 1), np.float32)}


def test_workers_give_what_one_process_does_in_order(artifact: Path) -> None:
    alone = list(serve(artifact, requests(17)))
    together = list(serve(artifact, requests(17), workers=2))
    assert [name for name, _ in together] == [f"{index:03}" for index in range(17)]
    for (_, one), (_, other) in zip(alone, together, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_request_that_does_not_fit_is_named(artifact: Path) -> None:
    def with_a_bad_one() -> Iterator[tuple[str, Feeds]]:
        yield from requests(3)
        yield "bad", {"x": np.ones((1, 2, 8), np.float32)}
        yield from requests(3)

    for workers in (1, 2):
        answers = serve(artifact, with_a_bad_one(), workers=workers)
        assert [next(answers)[0] for _ in range(3)] == ["000", "001", "002"]
        with pytest.raises(InputError, match=r"request bad: input 'mask' is missing"):
            next(answers)


def test_a_worker_that_dies_is_an_error(artifact: Path) -> None:
    answers = serve(artifact, requests(1000), workers=2)
    next(answers)
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    workers = [
        int(pid)
        for file in children
        for pid in file.read_text().split()
        if b"multiprocessing.spawn" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert workers
    os.kill(workers[0], signal.SIGKILL)
    with pytest.raises(BurnishError, match=r"a worker died while \d+ .* use fewer --workers"):
        list(answers)


def test_an_artifact_that_was_changed_starts_no_worker(artifact: Path) -> None:
    (artifact / "model.onnx").write_bytes(b"")
    with pytest.raises(InputError, match="was changed"):
        next(serve(artifact, requests(1), workers=2))
