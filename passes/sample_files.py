# SPDX-License-Identifier: Apache-2.0
"""Where calibration samples come from: a folder of files, one file of all, a function."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from burnish.errors import InputError
from burnish.references import resolve_function

Feeds = dict[str, np.ndarray]
"""One sample: input name -> array."""

Factory = Callable[[], Iterable[Mapping[str, Any]]]
"""Gives all samples, anew each time."""


def of_folder(folder: Path, files: Sequence[Path]) -> Factory:
    """Return what reads .npz files of one sample each, keyed by input name.

    Raises:
        InputError: there are none; reading them, one is no .npz file of plain arrays.
    """
    if not files:
        raise InputError(f"calibration folder {folder} has no .npz files")

    def samples() -> Iterator[Feeds]:
        for path in files:
            with _reading(path), np.load(path, allow_pickle=False) as archive:
                sample = {name: archive[name] for name in archive.files}
            yield sample

    return samples


def of_archive(path: Path, ranks: Mapping[str, int | None]) -> Factory:
    """Return what reads one .npz file of arrays, with an axis in front that counts the samples.

    Args:
        path: The file.
        ranks: Input name -> number of axes of one sample, if that is known.

    Raises:
        InputError: there is no such file; reading it, it is no .npz file of plain arrays, or they
            have different numbers of samples.
    """
    if not path.is_file():
        raise InputError(f"calibration file {path} does not exist")

    def samples() -> Iterator[Feeds]:
        with contextlib.ExitStack() as stack:
            with _reading(path):
                archive = stack.enter_context(zipfile.ZipFile(path))
                members = {
                    name.removesuffix(".npy"): _Member(
                        name, stack.enter_context(archive.open(name))
                    )
                    for name in archive.namelist()
                }
            lengths = {name: member.length(path) for name, member in members.items()}
            if len(set(lengths.values())) > 1:
                listed = ", ".join(f"{name} {count}" for name, count in sorted(lengths.items()))
                raise InputError(f"{path}: the inputs have different numbers of samples: {listed}")
            for _ in range(next(iter(lengths.values()), 0)):
                with _reading(path):
                    sample = {name: m.read(ranks.get(name)) for name, m in members.items()}
                yield sample

    return samples


class _Member:
    """One array of an .npz file, read a sample at a time along its first axis."""

    def __init__(self, name: str, stream: IO[bytes]) -> None:
        self._name = name
        self._stream = stream
        version = np.lib.format.read_magic(stream)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        self.shape, self._fortran, self.dtype = read_header(stream)
        if self.dtype.hasobject:
            raise ValueError(f"{name} holds Python objects")
        self._whole: Iterator[np.ndarray] | None = None

    def length(self, path: Path) -> int:
        """Return the number of samples."""
        if not self.shape:
            raise InputError(
                f"{path}: {self._name} is a single number, without an axis that counts the samples",
                hint="give it a leading axis: numpy.stack([sample, ...])",
            )
        return int(self.shape[0])

    def read(self, rank: int | None) -> np.ndarray:
        """Read the next sample, for an input of that rank.

        In an array of the input's own rank the first axis counts batches of size one: it stays.
        """
        sample = self._next()
        return sample[None] if rank == len(self.shape) else sample

    def _next(self) -> np.ndarray:
        if self._fortran:  # samples are interleaved, so there is no reading one alone
            if self._whole is None:
                flat = np.frombuffer(self._stream.read(), dtype=self.dtype)
                self._whole = iter(flat.reshape(self.shape, order="F"))
            return np.ascontiguousarray(next(self._whole))
        shape = self.shape[1:]
        size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        data = self._stream.read(size)
        if len(data) != size:
            raise ValueError(f"{self._name} is truncated")
        return np.frombuffer(data, dtype=self.dtype).reshape(shape)


def of_function(where: str) -> Factory:
    """Return what calls `module:function`, which returns an iterable of feeds.

    Raises:
        InputError: there is no such function; calling it, it fails.
    """
    try:
        function = resolve_function(where)
    except InputError as error:
        raise InputError(f"calibration data {where!r}: {error}") from error

    def samples() -> Iterator[Mapping[str, Any]]:
        try:
            yield from function()
        except InputError:
            raise
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(
                f"calibration data {where!r} failed: {said}",
                hint="it must return an iterable of dicts from input name to array",
            ) from error

    return samples


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        plain = "array.astype(str)" if "Object arrays" in reason else "array"
        raise InputError(
            f"{path} is not a readable .npz file of plain arrays: {reason}",
            hint=f"write it with numpy.savez(path, input_name={plain})",
        ) from error
