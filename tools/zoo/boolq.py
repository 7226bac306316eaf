# SPDX-License-Identifier: Apache-2.0
"""BoolQ: questions, each with the passage of Wikipedia that answers it.

Its development set is the evaluation split and its test set the calibration split; they share no
passage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from burnish.tools.zoo.metric import Split


def read_questions(files: Mapping[str, Path], split: Split) -> Iterator[tuple[str, str]]:
    """Every question of a split with its passage, in the order of the file."""
    name = {"evaluation": "dev.jsonl", "calibration": "test.jsonl"}[split]
    with files[name].open(encoding="utf-8") as lines:
        for line in lines:
            sample = json.loads(line)
            yield sample["question"], sample["passage"]


def read_passages(files: Mapping[str, Path], split: Split, count: int | None = None) -> list[str]:
    """The first `count` passages of a split, each once."""
    distinct = dict.fromkeys(passage for _, passage in read_questions(files, split))
    return list(islice(distinct, count))


def sample_texts(files: Mapping[str, Path], count: int, seed: int) -> list[str]:
    """Draw `count` texts of the calibration split: passages and questions by turns."""
    import numpy as np

    pairs = list(read_questions(files, "calibration"))
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [pairs[order[i % len(pairs)]][(i + 1) % 2] for i in range(count)]
