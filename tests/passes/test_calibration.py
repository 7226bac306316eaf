# SPDX-License-Identifier: Apache-2.0
"""Calibration data: its three forms, streaming, and one clear line for each thing wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.errors import InputError
from burnish.passes.calibration import CalibrationSource
from burnish.testing import parse

INPUTS = parse("g (float[N,3] x, int64[N] ids) => (float[N,3] y) { y = Identity(x) }").graph.inputs


def sample(index: int, rows: int = 2) -> dict[str, np.ndarray]:
    return {
        "x": np.full((rows, 3), index, np.float32),
        "ids": np.arange(rows, dtype=np.int64) + index,
    }


def write_folder(folder: Path, samples: list[dict[str, Any]]) -> str:
    for index, feeds in enumerate(samples):
        np.savez(folder / f"{index:03}.npz", **feeds)
    return str(folder)


def test_folder_gives_the_files_in_order_of_name_and_again(tmp_path: Path) -> None:
    # Sample sizes may differ along symbolic dimensions.
    where = write_folder(tmp_path, [sample(i, rows=i + 1) for i in range(4)])
    source = CalibrationSource.open(where, INPUTS)
    for _ in range(2):
        assert [feeds["x"].shape for feeds in source] == [(1, 3), (2, 3), (3, 3), (4, 3)]
    assert len(source) == 4


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_file_is_read_along_its_samples_axis(
    tmp_path: Path, save: Callable[..., None], order: Any
) -> None:
    x = np.arange(5 * 2 * 3, dtype=np.float32).reshape(5, 2, 3)
    ids = np.arange(10, dtype=np.int64).reshape(5, 2)
    save(tmp_path / "all.npz", x=np.asarray(x, order=order), ids=ids)
    found = list(CalibrationSource.open(str(tmp_path / "all.npz"), INPUTS))
    assert len(found) == 5
    for index, feeds in enumerate(found):
        np.testing.assert_array_equal(feeds["x"], x[index])
        np.testing.assert_array_equal(feeds["ids"], ids[index])


def test_file_without_a_batch_axis_gives_batches_of_one(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.savez(tmp_path / "all.npz", x=x, ids=np.arange(4))
    found = list(CalibrationSource.open(str(tmp_path / "all.npz"), INPUTS))
    assert [feeds["x"].tolist() for feeds in found] == [[row] for row in x.tolist()]
    assert [feeds["ids"].tolist() for feeds in found] == [[0], [1], [2], [3]]


def test_file_is_streamed(tmp_path: Path) -> None:
    import tracemalloc

    x = np.zeros((64, 512, 1024), np.float32)  # 128 MiB, 2 MiB a sample
    np.savez_compressed(tmp_path / "all.npz", x=x)
    del x
    inputs = parse("g (float[N,1024] x) => (float[N,1024] y) { y = Identity(x) }").graph.inputs
    tracemalloc.start()
    try:
        assert sum(1 for _ in CalibrationSource.open(str(tmp_path / "all.npz"), inputs)) == 64
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 * 2**20


def test_function_is_imported_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_samples_a.py").write_text(
        "import numpy as np\n"
        "def samples():\n"
        "    for i in range(3):\n"
        "        yield {'x': np.full((1, 3), i, np.float32), 'ids': np.array([i])}\n"
        "def broken():\n"
        "    yield from samples()\n"
        "    raise RuntimeError('disk\\non fire')\n"
        "def nothing():\n"
        "    return None\n"
    )
    monkeypatch.chdir(tmp_path)
    source = CalibrationSource.open("my_samples_a:samples", INPUTS)
    assert [feeds["ids"].tolist() for feeds in source] == [[0], [1], [2]]
    assert len(source) == 3
    with pytest.raises(InputError, match="no attribute 'sample'; did you mean 'samples'"):
        CalibrationSource.open("my_samples_a:sample", INPUTS)
    with pytest.raises(InputError, match="failed: RuntimeError: disk on fire"):
        list(CalibrationSource.open("my_samples_a:broken", INPUTS))
    with pytest.raises(InputError, match="it must return an iterable of dicts"):
        CalibrationSource.open("my_samples_a:nothing", INPUTS)
    with pytest.raises(InputError, match="module 'my_samples_b' cannot be imported"):
        CalibrationSource.open("my_samples_b:samples", INPUTS)


def test_limit_takes_the_first_samples() -> None:
    source = CalibrationSource.from_iterable(
        lambda: (sample(i) for i in range(10)), INPUTS, limit=3
    )
    assert len(source) == len(list(source)) == 3


def test_digest_depends_on_the_contents_and_their_order_alone(tmp_path: Path) -> None:
    samples = [sample(i) for i in range(3)]
    from_memory = CalibrationSource.from_iterable(lambda: samples, INPUTS)
    from_disk = CalibrationSource.open(write_folder(tmp_path, samples), INPUTS)
    reversed_ = CalibrationSource.from_iterable(lambda: samples[::-1], INPUTS)
    assert from_memory.digest == from_disk.digest
    assert from_memory.digest != reversed_.digest


def test_an_input_with_a_default_may_be_left_out() -> None:
    model = parse("g (float[N,3] x, float[3] b = {1, 2, 3}) => (float[N,3] y) { y = Add(x, b) }")
    x = np.zeros((1, 3), np.float32)
    source = CalibrationSource.from_iterable(lambda: [{"x": x}], model.graph.inputs)
    assert [list(feeds) for feeds in source] == [["x"]]


def changed(**arrays: Any) -> dict[str, Any]:
    return {key: value for key, value in {**sample(0), **arrays}.items() if value is not None}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (changed(x=None), "input 'x' is missing"),
        (changed(idx=np.zeros(2, np.int64)), "no input 'idx'; did you mean 'ids'"),
        (changed(x=np.zeros((2, 3))), "is float64, the model takes float32; convert it"),
        (changed(x=np.zeros((2, 4), np.float32)), r"shape \[2, 4\], the model takes float32\[\?,3"),
        (changed(x=np.zeros(3, np.float32)), r"shape \[3\], the model takes"),
        (changed(x=np.zeros((0, 3), np.float32)), "input 'x' is empty"),
        (changed(x=np.full((2, 3), np.nan, np.float32)), "input 'x' contains NaN"),
        (changed(x=np.full((2, 3), -np.inf, np.float32)), "contains infinity; mask by a large"),
        ([1, 2], "is a list, not a dict"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(bad: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"calibration data: sample 0.*{message}") as first:
        CalibrationSource.from_iterable(lambda: [bad], INPUTS)
    assert "\n" not in str(first.value)
    # Also when it comes later, once it is read.
    later = CalibrationSource.from_iterable(lambda: [sample(0), bad], INPUTS)
    with pytest.raises(InputError, match=f"sample 1.*{message}"):
        list(later)


def test_a_file_of_a_folder_is_named(tmp_path: Path) -> None:
    where = write_folder(tmp_path, [sample(0), changed(ids=None)])
    with pytest.raises(InputError, match=r"001\.npz: input 'ids' is missing"):
        list(CalibrationSource.open(where, INPUTS))


def test_no_samples(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no samples"):
        CalibrationSource.from_iterable(lambda: [], INPUTS)
    with pytest.raises(InputError, match=r"has no \.npz files"):
        CalibrationSource.open(str(tmp_path), INPUTS)


def test_places_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a folder"):
        CalibrationSource.open(str(tmp_path / "missing"), INPUTS)
    with pytest.raises(InputError, match="does not exist"):
        CalibrationSource.open(str(tmp_path / "missing.npz"), INPUTS)


@pytest.mark.parametrize("where", ["", " "])
def test_an_empty_name_is_not_the_current_folder(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, [sample(0)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the name of the calibration data is empty"):
        CalibrationSource.open(where, INPUTS)


def test_a_number_has_no_axis_of_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.float32(3))
    with pytest.raises(InputError, match=r"s\.npz: x\.npy is a single number"):
        CalibrationSource.open(str(tmp_path / "s.npz"), INPUTS)


def test_files_that_are_not_archives_of_plain_arrays(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    for name in ("text.npz", "objects.npz"):
        with pytest.raises(InputError, match=f"{name} is not a readable .npz file") as caught:
            CalibrationSource.open(str(tmp_path / name), INPUTS)
        assert "\n" not in str(caught.value)


def test_a_truncated_file(tmp_path: Path) -> None:
    whole = tmp_path / "whole.npz"
    np.savez(whole, x=np.zeros((4, 2, 3), np.float32), ids=np.zeros((4, 2), np.int64))
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"cut\.npz is not a readable \.npz file"):
        CalibrationSource.open(str(cut), INPUTS)


def test_inputs_with_different_numbers_of_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2, 3), np.float32), ids=np.zeros((3, 2), np.int64))
    with pytest.raises(InputError, match="different numbers of samples: ids 3, x 4"):
        CalibrationSource.open(str(tmp_path / "a.npz"), INPUTS)


def test_what_can_be_read_only_once_is_refused() -> None:
    once: Iterator[dict[str, np.ndarray]] = iter([sample(0), sample(1)])
    with pytest.raises(InputError, match="can be read only once"):
        CalibrationSource.from_iterable(lambda: once, INPUTS)


def test_a_source_that_changes_is_found_out() -> None:
    counts = iter([3, 2])
    source = CalibrationSource.from_iterable(lambda: [sample(0)] * next(counts), INPUTS)
    assert len(source) == 3
    with pytest.raises(InputError, match="3 samples the first time, 2 now"):
        list(source)


STRINGS = "g (string[N] words) => (string[N] y) { y = Identity(words) }"


def test_strings_are_read_as_files_hold_them(tmp_path: Path) -> None:
    words = np.array(["alpha", "be"])
    np.savez(tmp_path / "0.npz", words=words)
    (sample,) = CalibrationSource.open(str(tmp_path), parse(STRINGS).graph.inputs)
    assert sample["words"].dtype == object
    assert sample["words"].tolist() == ["alpha", "be"]


def test_pickled_strings_and_numbers_for_strings_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", words=np.array(["alpha", "be"], object))
    with pytest.raises(InputError, match=r"input_name=array\.astype\(str\)"):
        list(CalibrationSource.open(str(tmp_path), parse(STRINGS).graph.inputs))
    np.savez(tmp_path / "0.npz", words=np.zeros(2, np.float32))
    with pytest.raises(InputError, match=r"takes strings.*'str'"):
        list(CalibrationSource.open(str(tmp_path), parse(STRINGS).graph.inputs))
