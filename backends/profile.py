# SPDX-License-Identifier: Apache-2.0
"""Where the time of a run goes: ONNX Runtime's own profiler, node by node and by operator."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.backends.settings import SessionSettings
from burnish.errors import BurnishError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    import onnxruntime

    Feeds = Mapping[str, np.ndarray[Any, np.dtype[Any]]]

_SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class NodeTime:
    """A node as the runtime executes it.

    Attributes:
        name: Its name; those that the runtime adds have names of its own.
        op_type: Its operator.
        provider: The execution provider that runs it.
        seconds: Mean time of a run in its kernel.
    """

    name: str
    op_type: str
    provider: str
    seconds: float


@dataclass(frozen=True)
class OperatorTime:
    """All nodes of one operator.

    Attributes:
        op_type: The operator.
        nodes: Number of nodes.
        seconds: Mean time of a run in their kernels.
        share: Of the time in all kernels.
    """

    op_type: str
    nodes: int
    seconds: float
    share: float


def profile(
    model: ir.Model | Path,
    feeds: Feeds,
    *,
    settings: SessionSettings | None = None,
    runs: int = 10,
    warmup: int = 3,
) -> list[NodeTime]:
    """Time each node of a model, as the runtime executes it under `settings`.

    Times of kernels are without what the runtime spends between them, and a little longer than
    without the profiler.

    Returns:
        The nodes in the order in which they run first.

    Raises:
        InputError: the model cannot be loaded, or the feeds do not fit.
    """
    chosen = settings or SessionSettings()
    with tempfile.TemporaryDirectory() as folder:

        def configure(options: onnxruntime.SessionOptions) -> None:
            chosen.configure(options)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")

        with chosen.session(model, configure=configure) as session:
            for _ in range(warmup + runs):
                session.run(feeds)
            written = session.end_profiling()
        events = json.loads(Path(written).read_text(encoding="utf-8"))
    return _nodes(events, warmup, runs)


def _nodes(events: Iterable[Mapping[str, Any]], warmup: int, runs: int) -> list[NodeTime]:
    times: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            about = event["args"]
            # Names need not be unique; the index is.
            key = (
                event["name"].removesuffix(_SUFFIX),
                about["op_name"],
                about.get("provider", ""),
                str(about.get("node_index", "")),
            )
            times[key].append(1e-6 * event["dur"])
    if not times:
        raise BurnishError("the runtime's profiler recorded no node")
    return [
        # A node in a loop runs many times a run, and one in a branch perhaps never.
        NodeTime(name, op, provider, sum(seconds) / (warmup + runs))
        if len(seconds) % (warmup + runs)
        else NodeTime(name, op, provider, _mean_after(seconds, warmup, runs))
        for (name, op, provider, _), seconds in times.items()
    ]


def _mean_after(seconds: list[float], warmup: int, runs: int) -> float:
    each = len(seconds) // (warmup + runs)
    return sum(seconds[warmup * each :]) / runs


def by_operator(nodes: Iterable[NodeTime]) -> list[OperatorTime]:
    """Sum the times of nodes by operator, the longest first."""
    found: dict[str, list[float]] = defaultdict(list)
    for node in nodes:
        found[node.op_type].append(node.seconds)
    total = sum(map(sum, found.values())) or 1.0
    rows = [OperatorTime(op, len(s), sum(s), sum(s) / total) for op, s in found.items()]
    return sorted(rows, key=lambda row: (-row.seconds, row.op_type))
