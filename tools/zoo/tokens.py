# SPDX-License-Identifier: Apache-2.0
"""Text to the arrays a language model takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.errors import require

if TYPE_CHECKING:
    from burnish.tools.zoo.metric import Arrays


def tokenizer(path: Path, inputs: Sequence[str], longest: int) -> Callable[[str], Arrays]:
    """Make a function from text to feeds: int64 `[1, tokens]` each, without padding.

    Args:
        path: A `tokenizer.json`.
        inputs: Which of `input_ids`, `attention_mask` and `token_type_ids` the model takes.
        longest: Tokens to cut a text to.
    """
    import numpy as np

    inner = require("tokenizers", extra="zoo").Tokenizer.from_file(str(path))
    inner.no_padding()
    inner.enable_truncation(longest)

    def encode(text: str) -> Arrays:
        encoding = inner.encode(text)
        columns = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        return {name: np.array([columns[name]], np.int64) for name in inputs}

    return encode
