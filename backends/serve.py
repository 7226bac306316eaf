# SPDX-License-Identifier: Apache-2.0
"""Serve an artefact from several processes: requests in, outputs out, in the same order.

Each worker loads the artefact once. So that threads of one do not wait for those of another, an
artefact's own number of threads is that of each worker.
"""

from __future__ import annotations

import collections
import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from burnish.backends.artifact.folder import LoadedArtifact, load_artifact
from burnish.backends.artifact.manifest import check_files, read
from burnish.errors import BurnishError

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

Feeds = Mapping[str, np.ndarray[Any, np.dtype[Any]]]

_AHEAD = 2
"""Requests that wait for each worker: enough that none is idle, few enough to stay small."""


def serve(
    path: str | os.PathLike[str],
    requests: Iterable[tuple[str, Feeds]],
    *,
    workers: int = 1,
    check: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[tuple[str, Feeds]]:
    """Run requests, and yield their outputs in the order of the requests.

    No more requests are read than the workers are about to need.

    Args:
        path: The artefact.
        requests: Name and feeds of each.
        workers: Processes; with 1, this process runs them itself.
        check: Whether to compare files with their digests first; done once, not by each worker.
        settings: Instead of the artefact's own; see `load_artifact`.

    Raises:
        InputError: the artefact cannot be loaded; or a request does not fit it, which is named.
        BurnishError: a worker died.
    """
    chosen = dict(settings or {})
    if workers == 1:
        with load_artifact(path, check=check, **chosen) as artifact:
            for name, feeds in requests:
                yield name, _run(artifact, name, feeds)
        return
    if check:
        check_files(Path(path), read(Path(path)))
    work = functools.partial(_work, os.fspath(path), tuple(sorted(chosen.items())))
    with ProcessPoolExecutor(workers, _context()) as pool:
        waiting: collections.deque[tuple[str, Future[Feeds]]] = collections.deque()
        remaining = iter(requests)
        try:
            for name, feeds in itertools.islice(remaining, workers * _AHEAD):
                waiting.append((name, pool.submit(work, name, feeds)))
            while waiting:
                name, running = waiting.popleft()
                outputs = running.result()
                for following, feeds in itertools.islice(remaining, 1):
                    waiting.append((following, pool.submit(work, following, feeds)))
                yield name, outputs
        except BrokenProcessPool as error:
            raise BurnishError(
                f"a worker died while {name} and those after it were running",
                hint="perhaps for want of memory: use fewer --workers",
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _context() -> BaseContext:
    import multiprocessing

    # Not a fork: this process has threads of the runtime, which a fork does not copy.
    return multiprocessing.get_context("spawn")


@functools.lru_cache(maxsize=1)
def _loaded(path: str, settings: tuple[tuple[str, Any], ...]) -> LoadedArtifact:
    return load_artifact(path, check=False, **dict(settings))


def _work(path: str, settings: tuple[tuple[str, Any], ...], name: str, feeds: Feeds) -> Feeds:
    return _run(_loaded(path, settings), name, feeds)


def _run(artifact: LoadedArtifact, name: str, feeds: Feeds) -> Feeds:
    try:
        return artifact.run(feeds)
    except BurnishError as error:
        error.args = (f"request {name}: {error}",)
        raise
