# SPDX-License-Identifier: Apache-2.0
"""How fast variants of a model are against each other, and how much memory one takes.

Clocks drift: frequency, temperature and neighbours change over seconds. So variants are timed in
turns, A B then B A, and compared within each round; what is quoted is a ratio with its spread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from burnish.errors import BurnishError, InputError

if TYPE_CHECKING:
    import onnx_ir as ir

    from burnish.backends.onnxruntime import Optimize, Session, TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]


class Runnable(Protocol):
    """What can be timed: a session, of whichever backend."""

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Compute outputs from feeds."""


# --- time --------------------------------------------------------------------------------------

RESOLUTION = 0.01
"""Speed-ups nearer to 1 than this are not claimed. Two loads of one and the same model differ by
about as much, because their buffers lie elsewhere in memory, however long they are timed."""

_FEWEST_ROUNDS = 6  # a median of fewer has no interval of 95 %: 2 * 0.5**5 > 5 %
_RESAMPLES = 2000


@dataclass(frozen=True)
class Timing:
    """Seconds that one run of a variant takes, and how they compare with the first variant.

    Attributes:
        name: Name of the variant.
        median: Median of the rounds.
        p10: 10th percentile.
        p90: 90th percentile.
        p99: 99th percentile.
        speedup: Median of the first variant over the median of this one: above 1 is faster.
        low: Lower end of the 95 % confidence interval of `speedup`.
        high: Upper end.
    """

    name: str
    median: float
    p10: float
    p90: float
    p99: float
    speedup: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """How it compares with the first variant: ``faster``, ``slower`` or ``same``.

        ``same`` says that they cannot be told apart: the interval reaches into `RESOLUTION`
        around 1.
        """
        if self.low > 1 + RESOLUTION:
            return "faster"
        return "slower" if self.high < 1 - RESOLUTION else "same"

    def __str__(self) -> str:
        ratio = f"{self.speedup:.3f}x ({self.low:.3f} to {self.high:.3f})"
        apart = "cannot be told apart" if self.verdict == "same" else self.verdict
        return f"{self.name}: {1e3 * self.median:.3g} ms, {ratio}, {apart}"


@dataclass(frozen=True)
class Comparison:
    """Timings of variants, in the order given; the first is what the others are compared with.

    Attributes:
        timings: One a variant.
        rounds: How often each ran.
        loads: How often each was loaded.
    """

    timings: tuple[Timing, ...]
    rounds: int
    loads: int = 1

    def __getitem__(self, name: str) -> Timing:
        for timing in self.timings:
            if timing.name == name:
                return timing
        raise KeyError(name)

    def __str__(self) -> str:
        return "\n".join(map(str, self.timings))


def compare(
    variants: Mapping[str, Runnable],
    feeds: Mapping[str, Array] | Mapping[str, Mapping[str, Array]],
    *,
    repeats: int = 30,
    warmup: int = 3,
    budget: float = 60.0,
) -> Comparison:
    """Time variants in turns.

    Args:
        variants: Sessions by name. The first is the baseline.
        feeds: Inputs for each run; or, where the variants differ in their inputs, inputs by name
            of variant.
        repeats: Rounds; in each, every variant runs once. Their order changes from one round to
            the next; none runs twice in a row where there are more than two.
        warmup: Runs of each variant that are not counted.
        budget: Seconds after which no further round is started, though at least one is made.

    Raises:
        InputError: there is no variant, or `repeats` is less than 1.
    """
    if not variants or repeats < 1:
        raise InputError("there is nothing to measure", hint="give a model and at least 1 repeat")
    return summarize(_rounds(variants, feeds, repeats, warmup, time.perf_counter() + budget))


def _rounds(
    variants: Mapping[str, Runnable],
    feeds: Mapping[str, Any],
    repeats: int,
    warmup: int,
    deadline: float,
) -> dict[str, NDArray[np.float64]]:
    """Seconds of each variant, one entry per round."""
    own = {name: _own_feeds(feeds, name, variants) for name in variants}
    for _ in range(warmup):
        for name, variant in variants.items():
            variant.run(own[name])
    order, rng = list(variants), np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(repeats):
        for name in order:
            run, arrays = variants[name].run, own[name]
            start = time.perf_counter()
            run(arrays)
            seconds[name].append(time.perf_counter() - start)
        order = _next_order(order, rng)
        if time.perf_counter() > deadline:
            break
    return {name: np.array(seconds[name]) for name in variants}


def _next_order(order: list[str], rng: np.random.Generator) -> list[str]:
    """Draw an order in which no variant follows itself: its weights would lie in the caches.

    Of two variants either does so every other time, which is fair too.
    """
    if len(order) < 3:
        return order[::-1]
    drawn = [str(name) for name in rng.permutation(order)]
    return drawn if drawn[0] != order[-1] else drawn[1:] + drawn[:1]


def compare_loads(
    variants: Mapping[str, Callable[[], AbstractContextManager[Runnable]]],
    feeds: Mapping[str, Array] | Mapping[str, Mapping[str, Array]],
    *,
    loads: int = 8,
    repeats: int = 50,
    warmup: int = 3,
    budget: float = 60.0,
) -> Comparison:
    """Time variants in turns, loading them anew several times.

    Where buffers come to lie in memory makes one load of a model faster than another by a few
    percent, for as long as it is loaded. So rounds of one load agree better with each other than
    with those of the next, and an interval made from them alone would not repeat. Here it is
    Student's, over the logarithms of the ratios of medians of each load.

    Args:
        variants: Functions that load a variant, by name. The first is the baseline.
        feeds: As for `compare`.
        loads: How often all of them are loaded; at least 2.
        repeats: Rounds in all, shared among the loads.
        warmup: Runs of each variant after each load that are not counted.
        budget: Seconds after which no further load or round is started; shared among the loads.

    Raises:
        InputError: there is no variant, or too few loads or repeats.
    """
    if not variants or repeats < 1 or loads < 2:
        raise InputError(
            "there is nothing to measure", hint="give a model, at least 1 repeat and 2 loads"
        )
    start = time.perf_counter()
    found: list[dict[str, NDArray[np.float64]]] = []
    for index in range(loads):
        with contextlib.ExitStack() as stack:
            # Who is loaded first gets the better place: each in turn.
            first = index % len(variants)
            names = [*list(variants)[first:], *list(variants)[:first]]
            opened = {name: stack.enter_context(variants[name]()) for name in names}
            running = {name: opened[name] for name in variants}
            share = start + budget * (index + 1) / loads
            found.append(_rounds(running, feeds, math.ceil(repeats / loads), warmup, share))
        if time.perf_counter() > start + budget:
            break
    pooled = {name: np.concatenate([load[name] for load in found]) for name in variants}
    whole = summarize(pooled)
    medians = np.array([[np.median(load[name]) for name in variants] for load in found])
    ratios = np.log(medians[:, :1] / medians)  # [loads, variants]
    middle, spread = ratios.mean(axis=0), np.full(len(variants), math.inf)
    if len(found) > 1:
        spread = ratios.std(axis=0, ddof=1) * _student(len(found) - 1) / math.sqrt(len(found))
    spread[0] = 0.0
    return dataclasses.replace(
        whole,
        timings=tuple(
            dataclasses.replace(
                timing,
                speedup=float(np.exp(middle[i])),
                low=float(np.exp(middle[i] - spread[i])),
                high=float(np.exp(middle[i] + spread[i])),
            )
            for i, timing in enumerate(whole.timings)
        ),
        loads=len(found),
    )


def _student(freedom: int) -> float:
    """97.5th percentile of Student's t (Abramowitz and Stegun, 26.7.5); within 0.3 % from 4 on.

    The few that the expansion does not reach are from its table 26.10.
    """
    few = {1: 12.706, 2: 4.303, 3: 3.182}
    if freedom in few:
        return few[freedom]
    z = 1.959964
    terms = (
        z,
        (z**3 + z) / (4 * freedom),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3),
    )
    return sum(terms)


def _own_feeds(
    feeds: Mapping[str, Any], name: str, variants: Mapping[str, Runnable]
) -> Mapping[str, Array]:
    by_variant = set(feeds) == set(variants) and all(isinstance(f, Mapping) for f in feeds.values())
    own: Mapping[str, Array] = feeds[name] if by_variant else feeds
    return own


def summarize(seconds: Mapping[str, NDArray[np.float64]]) -> Comparison:
    """Compare variants from their seconds, one entry per round, rounds in step.

    The interval is the percentile bootstrap over rounds (Efron and Tibshirani, An Introduction to
    the Bootstrap, 13.3): a round is drawn with all its variants, so that what slows a whole round
    down cancels in the ratio.
    """
    names = list(seconds)
    table = np.stack([seconds[name] for name in names])  # [variants, rounds]
    rounds = table.shape[1]
    medians = np.median(table, axis=1)
    tails = np.percentile(table, [10, 90, 99], axis=1)
    if rounds < _FEWEST_ROUNDS:
        low, high = np.zeros(len(names)), np.full(len(names), math.inf)
    else:
        draws = np.random.default_rng(0).integers(rounds, size=(_RESAMPLES, rounds))
        drawn = np.stack([np.median(row[draws], axis=1) for row in table])
        low, high = np.percentile(drawn[0] / drawn, [2.5, 97.5], axis=1)
    low[0] = high[0] = 1.0
    return Comparison(
        tuple(
            Timing(
                name,
                *map(float, (medians[i], *tails[:, i], medians[0] / medians[i], low[i], high[i])),
            )
            for i, name in enumerate(names)
        ),
        rounds,
    )


# --- inputs ------------------------------------------------------------------------------------

BATCH = 1
"""Size given to a symbolic first axis."""
EXTENT = 32
"""Size given to any other symbolic axis: long enough for a stride of 32, the usual one."""
PIXELS, TOKENS = 224, 128
"""What it is where time is taken: the sides of an image, the length of a text or a series."""


def random_feeds(
    model: ir.Model | _HasInputs,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Array]:
    """Make inputs that a model accepts; the same seed gives the same arrays.

    Floating-point inputs are standard normal. Integers are 0 or 1, which are valid as token ids,
    positions and indices; 8-bit ones, which are pixels or quantized values, span their type.
    Inputs with ``mask`` in their name are all ones. Strings are short words.

    Args:
        model: A model or a session.
        seed: Seed of the generator.
        dims: Sizes of symbolic dimensions by name, for instance ``{"batch": 8}``. Those not given
            are `BATCH` on a first axis and `EXTENT` elsewhere, one size per name.
        ranges: ``(low, high)`` by input name: uniform from there instead, `high` included for
            integers.

    Raises:
        InputError: an input is not a tensor, or `dims` names no dimension of the model.
    """
    specs = input_specs(model)
    sizes = symbol_sizes(specs, dims or {})
    rng = np.random.default_rng(seed)
    feeds = {}
    for spec in specs:
        span = (ranges or {}).get(spec.name)
        feeds[spec.name] = random_array(rng, spec.name, spec.dtype, _concrete(spec, sizes), span)
    return feeds


def sizes_to_try(
    specs: Sequence[TensorSpec], dims: Mapping[str, int] | None = None
) -> Iterator[dict[str, int]]:
    """Yield sizes of symbolic dimensions until one lets the model run: the usual ones first.

    A model may want an axis longer than is usual (a window of audio, padding that reflects), or as
    long as another one that nothing relates it to; some step through one element at a time.

    Args:
        specs: The inputs.
        dims: Sizes that are settled.
    """
    settled = dims or {}
    usual = symbol_sizes(specs, settled)
    yield usual
    shapes = [_symbols(spec) for spec in specs if spec.shape]
    first, last = {shape[0] for shape in shapes}, {shape[-1] for shape in shapes}
    seen = [usual]
    for at_first, between, at_last in _LADDER:
        sizes = {
            dim: at_first if dim in first else at_last if dim in last else between for dim in usual
        } | dict(settled)
        if sizes not in seen:
            seen.append(sizes)
            yield sizes


# Sizes of axes that are the first of an input, in its middle, its last. The many small ones come
# before few large ones: a model that fails for another reason shall not cost much to find out.
_LADDER = (
    *((EXTENT, EXTENT, EXTENT), (1, 4 * EXTENT, 4 * EXTENT), (1, 1, 4 * EXTENT)),
    *((1, 16 * EXTENT, 16 * EXTENT), (1, 1, 16 * EXTENT), (1, 1, 64 * EXTENT), (1, 1, 1)),
)


@dataclass(frozen=True)
class RandomRun:
    """A run on random inputs.

    Attributes:
        sizes: Of symbolic dimensions, by name.
        feeds: The inputs.
        outputs: What came of them.
    """

    sizes: dict[str, int]
    feeds: dict[str, Array]
    outputs: dict[str, Array]


def random_run(session: Session, seed: int = 0, dims: Mapping[str, int] | None = None) -> RandomRun:
    """Run a model on `random_feeds` of the first sizes of `sizes_to_try` that it runs on.

    Raises:
        BurnishError: it runs on none of them; why not on the usual ones.
        InputError: an input is not a tensor, or `dims` names no dimension of the model.
    """
    failure: BurnishError | None = None
    for sizes in sizes_to_try(session.inputs, dims):
        feeds = random_feeds(session, seed, sizes)
        try:
            return RandomRun(sizes, feeds, session.run(feeds))
        except BurnishError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _symbols(spec: TensorSpec) -> tuple[int | str, ...]:
    """The shape of an input, with names for dimensions that have none: those they get on import."""
    return tuple(
        f"{spec.name}_dim_{axis}" if dim is None else dim for axis, dim in enumerate(spec.shape)
    )


def _concrete(spec: TensorSpec, sizes: Mapping[str, int]) -> list[int]:
    return [dim if isinstance(dim, int) else sizes[dim] for dim in _symbols(spec)]


class _HasInputs(Protocol):
    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...


def input_specs(model: ir.Model | _HasInputs) -> tuple[TensorSpec, ...]:
    """Name, type and shape of each input that has to be given."""
    import onnx_ir as ir

    from burnish.backends.onnxruntime import TensorSpec

    if not isinstance(model, ir.Model):
        return model.inputs
    specs = []
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:  # a default, not asked for
            continue
        tensor = isinstance(value.type, ir.TensorType)
        dims = value.shape.dims if value.shape is not None else ()
        shape = tuple(dim if isinstance(dim, int) else dim.value for dim in dims)
        dtype = value.dtype if tensor and value.dtype else ir.DataType.UNDEFINED
        specs.append(TensorSpec(value.name or "", dtype, shape))
    return tuple(specs)


def symbol_sizes(
    specs: Sequence[TensorSpec], dims: Mapping[str, int], *, typical: bool = False
) -> dict[str, int]:
    """The size that `random_feeds` gives each symbolic dimension of inputs, by its name.

    Args:
        specs: The inputs.
        dims: Sizes of some.
        typical: Whether images and texts are to be as large as requests mostly are, and not only
            large enough to run.

    Raises:
        InputError: `dims` names no dimension.
    """
    sizes: dict[str, int] = {}
    for spec in specs:
        for axis, dim in enumerate(_symbols(spec)):
            if isinstance(dim, str):
                default = _extent(spec, axis, typical=typical) if axis else BATCH
                # A symbol that is the first axis anywhere is the batch everywhere.
                sizes[dim] = dims.get(dim, min(default, sizes.get(dim, default)))
    for name in dims:
        if name not in sizes:
            known = ", ".join(sizes) or "none"
            raise InputError(f"no input has a dimension {name!r}", hint=f"there are: {known}")
    return sizes


def _extent(spec: TensorSpec, axis: int, *, typical: bool) -> int:
    if not typical:
        return EXTENT
    return PIXELS if len(spec.shape) == 4 and axis > 1 else TOKENS


def random_array(
    rng: np.random.Generator,
    name: str,
    dtype: ir.DataType,
    shape: Sequence[int],
    span: tuple[float, float] | None = None,
) -> Array:
    """Make one input, as `random_feeds` does; `span` is its range.

    Raises:
        InputError: there are no arrays of that type.
    """
    import onnx_ir as ir

    if dtype is ir.DataType.UNDEFINED:
        raise InputError(f"input {name!r} is not a tensor", hint="give the inputs yourself")
    if dtype is ir.DataType.STRING:
        return np.array(["alpha", "beta", "gamma"], dtype=object)[rng.integers(3, size=shape)]
    numpy_type = dtype.numpy()
    if span is None and "mask" in name.lower():
        return np.ones(shape, numpy_type)
    if dtype is ir.DataType.BOOL:
        return rng.integers(2, size=shape).astype(numpy_type)
    if dtype.is_integer():
        low, high = span or _integer_span(dtype)
        return rng.integers(int(low), int(high), size=shape, endpoint=True).astype(numpy_type)
    values = rng.standard_normal(shape) if span is None else rng.uniform(*span, size=shape)
    return np.asarray(values).astype(numpy_type)


def _integer_span(dtype: ir.DataType) -> tuple[int, int]:
    if dtype.bitwidth != 8:
        return 0, 1
    return (-128, 127) if dtype.is_signed() else (0, 255)


# --- memory ------------------------------------------------------------------------------------


def peak_memory(work: Sequence[str] | Callable[[], object]) -> int:
    """Bytes of physical memory that `work` takes at its peak, in a process of its own.

    Pages of memory-mapped files count while they are resident, as they do in the operating
    system's own figures.

    Args:
        work: A command; or a picklable function (of a module, or a `functools.partial` of one),
            whose figure includes the interpreter and what it imports.

    Raises:
        BurnishError: the work failed; its last line of error output is quoted.
    """
    if callable(work):
        return _in_child(work)[1]
    # A child inherits the peak of the process that forks it, even across exec. So the command is
    # started by a small interpreter, whose own few megabytes are the least that can be seen.
    return int(_python(_LAUNCHER, [*work]).decode().strip())


@dataclass(frozen=True)
class Memory:
    """Physical memory of a process that loads a model and runs it once, in bytes.

    Attributes:
        peak: The most it took.
        baseline: What it had taken before it loaded the model: interpreter, libraries, runtime.
    """

    peak: int
    baseline: int

    @property
    def added(self) -> int:
        """What loading and running the model added."""
        return self.peak - self.baseline


def inference_memory(
    path: Path,
    *,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    threads: int = 1,
    optimize: Optimize = "all",
) -> Memory:
    """Memory that an ONNX file takes to load and run once, on `random_feeds`, as deployed.

    Raises:
        BurnishError: it does not load or run.
    """
    work = functools.partial(_infer, str(path), seed, dict(dims or {}), threads, optimize)
    baseline, peak = _in_child(work)
    return Memory(peak, int(baseline))


def _infer(path: str, seed: int, dims: dict[str, int], threads: int, optimize: Optimize) -> int:
    # Part of the baseline, as this library's own needs are.
    import onnx_ir  # noqa: F401
    import onnxruntime  # noqa: F401

    from burnish.backends.onnxruntime import session

    baseline = _peak_of_this_process()
    with session(Path(path), threads=threads, optimize=optimize) as loaded:
        loaded.run(random_feeds(loaded, seed, dims))
    return baseline


def _peak_of_this_process() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux
        import resource

        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _call_and_weigh(work: Callable[[], object]) -> tuple[object, int]:
    return work(), _peak_of_this_process()


# The search path comes first: it is what the pickled function is found on. The answer leaves by
# what was standard output, which from then on is standard error, whatever the function prints.
_WORKER = """
import os, pickle, sys
answer = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
sys.path[:] = pickle.load(sys.stdin.buffer)
pickle.dump(pickle.load(sys.stdin.buffer)(), answer)
"""

_LAUNCHER = """
import os, sys
quiet = [(os.POSIX_SPAWN_DUP2, 2, 1)]
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(abs(os.waitstatus_to_exitcode(status)))
"""


def _in_child(work: Callable[[], object]) -> tuple[Any, int]:
    call = functools.partial(_call_and_weigh, work)
    answer: tuple[Any, int] = pickle.loads(
        _python(_WORKER, [], pickle.dumps(sys.path) + pickle.dumps(call))
    )
    return answer


def _python(code: str, arguments: Sequence[str], stdin: bytes = b"") -> bytes:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], input=stdin, capture_output=True, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no error output"]
        raise BurnishError(f"measuring memory failed (exit {done.returncode}): {lines[-1]}")
    return done.stdout
