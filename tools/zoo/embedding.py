# SPDX-License-Identifier: Apache-2.0
"""Sentence vectors: is a question's own passage the nearest, and are near texts alike to people?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.errors import InputError
from burnish.tools.zoo.boolq import read_passages, read_questions, sample_texts
from burnish.tools.zoo.metric import Arrays, Metric, Run, Split, Task, only
from burnish.tools.zoo.tokens import tokenizer

if TYPE_CHECKING:
    import numpy as np

    Judgement = tuple[str, str, float]
    """Two texts, and how alike people find them."""

PASSAGES = 600
"""Passages to find each question's own among, unless told otherwise."""

LONGEST = 192
"""Tokens of a text that are read."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def embedding(model: Path, files: Mapping[str, Path]) -> Task:  # noqa: ARG001 - a task's signature
    """Make the task of a sentence encoder.

    Metrics: R@1 and MRR@10 of retrieval on BoolQ, where a sample is a passage with all its
    questions; and Spearman's correlation with human ratings on three sets of pairs.
    """

    def feeds(count: int, seed: int) -> Iterator[Arrays]:
        encode = tokenizer(files["tokenizer.json"], INPUTS, LONGEST)
        return map(encode, sample_texts(files, count, seed))

    def embed(run: Run, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors `[texts, width]`."""
        import numpy as np

        encode = tokenizer(files["tokenizer.json"], INPUTS, LONGEST)
        # A text goes alone, without padding, so the mean over its tokens needs no mask.
        vectors = np.stack([only(run(encode(text)))[0].mean(axis=0) for text in texts])
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    def ranks(run: Run, split: Split, count: int) -> np.ndarray:
        """The rank of each question's own passage, from 1."""
        import numpy as np

        passages = read_passages(files, split, count)
        place = {passage: index for index, passage in enumerate(passages)}
        asked = [(q, place[p]) for q, p in read_questions(files, split) if p in place]
        own = np.array([index for _, index in asked])
        scores = embed(run, [question for question, _ in asked]) @ embed(run, passages).T
        nearer = scores > scores[np.arange(len(own)), own][:, None]
        return np.asarray(nearer.sum(axis=1) + 1)

    def recall(run: Run, split: Split, count: int) -> float:
        return float((ranks(run, split, count) == 1).mean())

    def reciprocal_rank(run: Run, split: Split, count: int) -> float:
        found = ranks(run, split, count)
        return float(((found <= 10) / found).mean())

    def correlation(
        read: Callable[[Mapping[str, Path]], Iterator[Judgement]],
        run: Run,
        split: Split,
        count: int,
    ) -> float:
        import numpy as np

        if split != "evaluation":
            raise InputError("human ratings are there for the evaluation split only")
        judged = list(islice(read(files), count))
        texts = list(dict.fromkeys(text for a, b, _ in judged for text in (a, b)))
        vectors = dict(zip(texts, embed(run, texts), strict=True))
        cosines = np.array([vectors[a] @ vectors[b] for a, b, _ in judged])
        return spearman(cosines, np.array([rating for _, _, rating in judged]))

    return Task(
        feeds,
        (
            Metric("R@1", True, PASSAGES, recall),
            Metric("MRR@10", True, PASSAGES, reciprocal_rank),
            Metric("Spearman, Lee", True, 1225, partial(correlation, read_lee)),
            Metric("Spearman, WordSim-353", True, 353, partial(correlation, read_wordsim)),
            Metric("Spearman, SimLex-999", True, 999, partial(correlation, read_simlex)),
        ),
    )


def read_lee(files: Mapping[str, Path]) -> Iterator[Judgement]:
    """Every pair of Lee's 50 news texts."""
    texts = files["lee.cor"].read_text("latin-1").splitlines()
    rows = files["similarities0-1.txt"].read_text("latin-1").splitlines()
    ratings = [[float(cell) for cell in row.split()] for row in rows]
    for a, b in combinations(range(len(texts)), 2):
        yield texts[a], texts[b], ratings[a][b]


def read_wordsim(files: Mapping[str, Path]) -> Iterator[Judgement]:
    """The pairs of words of WordSim-353."""
    return _word_pairs(files["wordsim353.tsv"])


def read_simlex(files: Mapping[str, Path]) -> Iterator[Judgement]:
    """The pairs of words of SimLex-999."""
    return _word_pairs(files["simlex999.txt"])


def _word_pairs(path: Path) -> Iterator[Judgement]:
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            a, b, rating = line.split("\t")
            yield a, b, float(rating)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation: Pearson's, of the ranks, ties sharing their mean rank."""
    import numpy as np

    def rank(values: np.ndarray) -> np.ndarray:
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        last = counts.cumsum()
        return np.asarray((last - (counts - 1) / 2)[place])

    ranks_a, ranks_b = rank(a), rank(b)
    if np.ptp(ranks_a) == 0 or np.ptp(ranks_b) == 0:
        return 0.0  # undefined; a model that finds everything equally alike has told nothing
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])
