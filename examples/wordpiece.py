"""WordPiece, as BERT's uncased models use it: lower case, words and punctuation apart,
and of each word the longest known piece first.

Source: Wu et al., "Google's Neural Machine Translation System" (2016), section 4.1, and
the vocabulary's own convention that a piece inside a word begins with ``##``.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np

_MAX_WORD = 100


def tokens(text: str, idOf: dict[str, int]) -> list[int]:
    """The ids of `text`, without the markers of beginning and end."""
    plain = "".join(
        char
        for char in unicodedata.normalize("NFD", text.lower())
        if unicodedata.category(char) != "Mn"
    )
    return [piece for word in re.findall(r"\w+|[^\w\s]", plain) for piece in _pieces(word, idOf)]


def _pieces(word: str, idOf: dict[str, int]) -> list[int]:
    pieces: list[int] = []
    start = 0
    while start < len(word) <= _MAX_WORD:
        end = next(
            (
                end
                for end in range(len(word), start, -1)
                if ("##" * (start > 0)) + word[start:end] in idOf
            ),
            None,
        )
        if end is None:
            return [idOf["[UNK]"]]
        pieces.append(idOf[("##" * (start > 0)) + word[start:end]])
        start = end
    return pieces or [idOf["[UNK]"]]


def embedded(sentences: list[str], vocabulary: str, weights: np.ndarray) -> np.ndarray:
    """One vector per sentence: the mean of its pieces' embeddings, of length 1."""
    idOf = {piece: index for index, piece in enumerate(vocabulary.split("\n"))}
    means = np.stack([weights[tokens(sentence, idOf)].mean(axis=0) for sentence in sentences])
    vectors: np.ndarray = means / np.linalg.norm(means, axis=1, keepdims=True)
    return vectors
