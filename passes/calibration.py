# SPDX-License-Identifier: Apache-2.0
"""Sample inputs of a model, streamed: read again for each sweep, never all in memory.

Three forms can be named on a command line:

    DIR               a folder of .npz files, one sample each, keyed by input name
    FILE.npz          one array an input, with a leading axis that counts the samples
    module:function   a function without arguments that returns an iterable of feed dicts
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from burnish.errors import BurnishError, InputError
from burnish.passes.sample_files import Factory, Feeds, of_archive, of_folder, of_function

if TYPE_CHECKING:
    from burnish.backends.base import Session


def run_sample(
    session: Session, feeds: Mapping[str, np.ndarray], names: Sequence[str], number: int
) -> dict[str, np.ndarray]:
    """Return outputs of a model by name, for one calibration sample.

    Args:
        session: The model.
        feeds: The sample: an array per input.
        names: The outputs wanted; without any, nothing is run.
        number: Of the sample, from 0, for the error.

    Raises:
        InputError: the model does not run on it.
    """
    if not names:
        return {}
    try:
        return session.run(feeds, names)
    except BurnishError as error:
        raise InputError(
            f"the model does not run on calibration sample {number}: {error}",
            hint="check the sizes of its inputs",
        ) from error


@dataclass(frozen=True)
class InputSpec:
    """What a model expects for one input.

    Attributes:
        name: Name of the input.
        dtype: Its NumPy type, or None if the model does not say.
        shape: One entry a dimension: a size, or None for a symbolic one; None if the rank is free.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | None, ...] | None

    @staticmethod
    def of(value: ir.Value) -> InputSpec:
        """Read the specification of a graph input."""
        dims = None if value.shape is None else tuple(value.shape)
        return InputSpec(
            value.name or "",
            None if value.dtype is None else np.dtype(value.dtype.numpy()),
            None if dims is None else tuple(d if isinstance(d, int) else None for d in dims),
        )

    def __str__(self) -> str:
        dtype = "any type" if self.dtype is None else self.dtype.name
        if self.shape is None:
            return dtype
        return f"{dtype}[{','.join('?' if dim is None else str(dim) for dim in self.shape)}]"


class CalibrationSource:
    """A re-iterable of feed dicts `{input name: array}`, each checked against the model's inputs.

    Iterating raises `InputError` at the first sample that does not fit: a missing, unknown, empty
    or NaN array, a wrong dtype or shape; or if there are no samples at all.
    """

    def __init__(
        self,
        factory: Factory,
        inputs: Iterable[ir.Value],
        *,
        label: str = "calibration data",
        name_of: Callable[[int], str] = "sample {}".format,
        length: int | None = None,
        limit: int | None = None,
    ) -> None:
        self._factory = factory
        # An input with an initializer has a default: samples need not give it.
        values = list(inputs)
        self._known = {spec.name: spec for spec in map(InputSpec.of, values)}
        self._required = [v.name or "" for v in values if not v.is_initializer()]
        self._label = label
        self._name_of = name_of
        self._limit = limit
        self._length = self._limited(length)
        self._digest: str | None = None

    @staticmethod
    def open(
        where: str, inputs: Iterable[ir.Value], *, limit: int | None = None
    ) -> CalibrationSource:
        """Open `DIR`, `FILE.npz` or `module:function`; see the module's description.

        Args:
            where: One of the three forms.
            inputs: The graph inputs of the model the samples are for.
            limit: Take the first `limit` samples only.

        Raises:
            InputError: there is no such thing, or its first sample does not fit the model.
        """
        inputs = list(inputs)
        if not where.strip():
            raise InputError(
                "the name of the calibration data is empty",
                hint="name a folder, an .npz file or module:function",
            )
        path = Path(where)
        if path.is_dir():
            files = sorted(path.glob("*.npz"))
            source = CalibrationSource(
                of_folder(path, files),
                inputs,
                label=where,
                name_of=lambda index: files[index].name,
                length=len(files),
                limit=limit,
            )
        elif path.suffix == ".npz" or path.is_file():
            ranks = {v.name or "": None if v.shape is None else len(v.shape) for v in inputs}
            source = CalibrationSource(of_archive(path, ranks), inputs, label=where, limit=limit)
        elif ":" in where:
            source = CalibrationSource(of_function(where), inputs, label=where, limit=limit)
        else:
            raise InputError(
                f"calibration data {where!r} is neither a folder, an .npz file nor module:function",
                hint="check the path",
            )
        source._check_first()
        return source

    @staticmethod
    def from_iterable(
        factory: Factory, inputs: Iterable[ir.Value], *, limit: int | None = None
    ) -> CalibrationSource:
        """Wrap a function that returns a fresh iterable of feed dicts each time it is called.

        Raises:
            InputError: its first sample does not fit the model.
        """
        source = CalibrationSource(factory, inputs, limit=limit)
        source._check_first()
        return source

    def __iter__(self) -> Iterator[Feeds]:
        """Yield the samples in order."""
        count = 0
        for index, sample in enumerate(itertools.islice(self._factory(), self._limit)):
            yield self._checked(sample, index)
            count += 1
        if count == 0 and not self._length:
            raise InputError(f"{self._label}: there are no samples")
        if self._length is not None and count != self._length:
            raise InputError(
                f"{self._label}: {self._length} samples the first time, {count} now",
                hint="pass a function that makes a fresh iterable, not an iterator",
            )
        self._length = count

    @property
    def known_length(self) -> int | None:
        """The number of samples if it is known without reading them."""
        return self._length

    def __len__(self) -> int:
        """Return the number of samples; reads them once if that is not known yet."""
        if self._length is None:
            for _ in self:
                pass
        assert self._length is not None
        return self._length

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, over names, dtypes, shapes and contents in order."""
        if self._digest is None:
            sha = hashlib.sha256()
            for feeds in self:
                add_to_digest(sha, feeds)
            self._digest = sha.hexdigest()
        return self._digest

    def _check_first(self) -> None:
        made = self._factory()
        if isinstance(made, Iterator) and made is self._factory():
            raise InputError(
                f"{self._label} can be read only once, and quantization reads it several times",
                hint="pass a list, or a function that makes a fresh iterable",
            )
        if isinstance(made, Sized):
            self._length = self._limited(len(made))
        first = next(iter(made), None)
        if first is None:
            raise InputError(f"{self._label}: there are no samples")
        self._checked(first, 0)

    def _limited(self, length: int | None) -> int | None:
        return length if length is None or self._limit is None else min(length, self._limit)

    def _checked(self, sample: Mapping[str, Any], index: int) -> Feeds:
        where = f"{self._label}: {self._name_of(index)}"
        if not isinstance(sample, Mapping):
            raise InputError(f"{where} is a {type(sample).__name__}, not a dict of input arrays")
        for name in sample:
            if name not in self._known:
                near = difflib.get_close_matches(str(name), list(self._known), n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"inputs: {', '.join(self._known)}"
                raise InputError(f"{where}: the model has no input {name!r}", hint=hint)
        for name in self._required:
            if name not in sample:
                raise InputError(f"{where}: input {name!r} is missing")
        return {
            name: _checked_array(np.asarray(sample[name]), self._known[name], where)
            for name in self._known
            if name in sample
        }


def _is_float(dtype: np.dtype[Any]) -> bool:
    # bfloat16 and the like are of kind "V", and NumPy calls them no floats.
    return dtype.kind == "f" or dtype.name in ("bfloat16",)


def add_to_digest(sha: hashlib._Hash, feeds: Mapping[str, np.ndarray]) -> None:
    """Add one sample to a digest, as `CalibrationSource.digest` does."""
    for name, array in sorted(feeds.items()):
        sha.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        if array.dtype.hasobject:  # strings
            sha.update("\0".join(map(str, array.reshape(-1))).encode())
        else:
            sha.update(np.ascontiguousarray(array).data)


def _checked_array(array: np.ndarray, spec: InputSpec, where: str) -> np.ndarray:
    where = f"{where}: input {spec.name!r}"
    if spec.dtype is not None and spec.dtype.hasobject and array.dtype.kind == "U":
        array = array.astype(object)  # strings, as files hold them without pickling
    if spec.dtype is not None and array.dtype != spec.dtype:
        raise InputError(
            f"{where} is {array.dtype.name}, the model takes "
            f"{'strings' if spec.dtype.hasobject else spec.dtype.name}",
            hint=f"convert it with .astype({'str' if spec.dtype.hasobject else spec.dtype.name!r})",
        )
    if spec.shape is not None:
        fits = len(array.shape) == len(spec.shape) and all(
            wanted is None or wanted == size
            for wanted, size in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            raise InputError(f"{where} has shape {list(array.shape)}, the model takes {spec}")
    if array.size == 0:
        raise InputError(f"{where} is empty: shape {list(array.shape)}")
    if _is_float(array.dtype) and not bool(np.isfinite(array).all()):
        if bool(np.isnan(array).any()):
            raise InputError(f"{where} contains NaN")
        raise InputError(
            f"{where} contains infinity",
            hint="mask by a large negative number, such as -1e4, instead",
        )
    return array
