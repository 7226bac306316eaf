# SPDX-License-Identifier: Apache-2.0
"""Models that come quantized: they must answer as before, whatever is done to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from burnish.tools.zoo.agreement import Feeds, agreement, cosine
from burnish.tools.zoo.boolq import read_passages, sample_texts
from burnish.tools.zoo.metric import Arrays, Metric, Split, Task, only
from burnish.tools.zoo.tokens import tokenizer

TEXTS = 50
"""Texts the metric reads unless told otherwise."""

LONGEST = 64
"""Tokens of a text that are read."""

INPUTS = ("input_ids", "attention_mask")


def tagger(model: Path, files: Mapping[str, Path]) -> Task:
    """Make the task of the grammar tagger: a tag for each token."""
    return _task(model, files, partial(_encode, files), agreement)


def encoder(model: Path, files: Mapping[str, Path]) -> Task:
    """Make the task of T5's encoder: a vector for each token."""
    return _task(model, files, partial(_encode, files), cosine)


def decoder(model: Path, files: Mapping[str, Path]) -> Task:
    """Make the task of T5's decoder: the next token, given a text and its own first tokens."""

    def prepare(texts: Iterable[str]) -> Iterator[Arrays]:
        import numpy as np

        from burnish.backends import onnxruntime

        start = np.zeros((1, 1), np.int64)  # T5 starts a text with its padding token
        with onnxruntime.session(files["encoder.onnx"]) as session:
            for tokens in _encode(files, texts):
                yield {
                    "input_ids": np.concatenate([start, tokens["input_ids"][:, :8]], axis=1),
                    "encoder_hidden_states": only(session.run(tokens)),
                    "encoder_attention_mask": tokens["attention_mask"],
                }

    return _task(model, files, prepare, agreement)


def _encode(files: Mapping[str, Path], texts: Iterable[str]) -> Iterator[Arrays]:
    return map(tokenizer(files["tokenizer.json"], INPUTS, LONGEST), texts)


def _task(
    model: Path,
    files: Mapping[str, Path],
    prepare: Callable[[Iterable[str]], Iterator[Arrays]],
    likeness: Callable[[Path, Feeds, int], Metric],
) -> Task:
    def feeds(count: int, seed: int) -> Iterator[Arrays]:
        return prepare(sample_texts(files, count, seed))

    def samples(split: Split, count: int) -> Iterator[Arrays]:
        return prepare(read_passages(files, split, count))

    return Task(feeds, (likeness(model, samples, TEXTS),))
