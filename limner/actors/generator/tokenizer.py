"""Text to token ids, read from the ``tokenizer.json`` of a model folder.

Word-level vocabularies only: lower case, words and runs of punctuation, one id each. The ids are
those of the ``tokenizers`` package (0.22), which is not needed at run time.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

from limner.core.errors import NotConfigured

SUPPORTED = (
    "a WordLevel model, Lowercase normalizer, Whitespace pre-tokenizer, TemplateProcessing with "
    "special tokens around the text, truncation and fixed padding at the right"
)

_SPACES = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {
    chr(code) for code in range(0x2000, 0x200B)
}
"""Unicode's White_Space. Python's ``str.isspace`` also counts four ASCII separators."""

_WORD_CATEGORIES = frozenset(
    ("Lu", "Ll", "Lt", "Lm", "Lo", "Nl", "Nd", "Mn", "Mc", "Me", "Pc"),
)
_JOINERS = "\u200c\u200d"
_CIRCLED_LETTERS = (
    range(0x24B6, 0x24EA),
    range(0x1F130, 0x1F14A),
    range(0x1F150, 0x1F16A),
    range(0x1F170, 0x1F18A),
)
"""Symbols that Unicode calls alphabetic all the same."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """A text as the model reads it.

    ``unknown`` are its words outside the vocabulary, in order, each once; ``words_cut`` counts
    the words at the end for which there was no room.
    """

    ids: tuple[int, ...]
    unknown: tuple[str, ...]
    words_cut: int


class Tokenizer:
    """A word-level tokenizer with a fixed length."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        """Read the parsed ``tokenizer.json``.

        Raises:
            NotConfigured: it is of a type that is not supported; the sentence names what is.
        """
        try:
            self._read(description)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise NotConfigured(
                f"tokenizer.json is damaged or of another type ({error!r}); supported: {SUPPORTED}."
            ) from error

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read ``path``, a ``tokenizer.json``.

        Raises:
            NotConfigured: it is missing, not JSON, or of a type that is not supported.
        """
        try:
            return cls(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise NotConfigured(f"The tokenizer cannot be read from {path}: {error}") from error

    def encode(self, text: str) -> Encoding:
        """Return the ids of ``text``: always ``length`` of them."""
        words = tuple(split(text))
        room = self.length - len(self._before) - len(self._after)
        ids = [self._vocabulary.get(word, self._unknown_id) for word in words[:room]]
        ids = [*self._before, *ids, *self._after]
        ids += [self._pad_id] * (self.length - len(ids))
        unknown = dict.fromkeys(word for word in words if word not in self._vocabulary)
        return Encoding(tuple(ids), tuple(unknown), max(0, len(words) - room))

    def _read(self, description: Mapping[str, Any]) -> None:
        model = description["model"]
        _require("model", model["type"], "WordLevel")
        _require("normalizer", description["normalizer"]["type"], "Lowercase")
        _require("pre-tokenizer", description["pre_tokenizer"]["type"], "Whitespace")
        _require("post-processor", description["post_processor"]["type"], "TemplateProcessing")
        if description["added_tokens"]:
            _refuse("added tokens")
        self._vocabulary: dict[str, int] = {
            str(word): int(number) for word, number in model["vocab"].items()
        }
        self._unknown_id = self._vocabulary[model["unk_token"]]
        self._before, self._after = _template(description["post_processor"])
        truncation, padding = description["truncation"], description["padding"]
        _require("truncation", truncation["direction"], "Right")
        _require("padding", padding["direction"], "Right")
        self._pad_id = int(padding["pad_id"])
        self.length = int(padding["strategy"]["Fixed"])
        _require("truncation to", int(truncation["max_length"]), self.length)
        if self.length <= len(self._before) + len(self._after):
            _refuse(f"a length of {self.length}")


def _template(processor: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Return the ids that go before and after the text."""
    before: list[int] = []
    after: list[int] = []
    ids = before
    for part in processor["single"]:
        if "Sequence" in part:
            if ids is after:
                _refuse("a template that repeats the text")
            ids = after
        else:
            ids += processor["special_tokens"][part["SpecialToken"]["id"]]["ids"]
    if ids is before:
        _refuse("a template without the text")
    return before, after


def split(text: str) -> Iterator[str]:
    r"""Yield the words and the runs of punctuation of ``text``, in lower case.

    Source: the pattern ``\w+|[^\w\s]+`` as Rust's regex reads it (Unicode UTS 18, which counts
    marks as parts of words where Python does not), after lower-casing each character alone.
    """
    lowered = "".join(character.lower() for character in text)
    for kind, run in groupby(lowered, _kind):
        if kind != "space":
            yield "".join(run)


def _kind(character: str) -> str:
    if character in _SPACES:
        return "space"
    if unicodedata.category(character) in _WORD_CATEGORIES or character in _JOINERS:
        return "word"
    code = ord(character)
    return "word" if any(code in letters for letters in _CIRCLED_LETTERS) else "other"


def _require(what: str, found: object, expected: object) -> None:
    if found != expected:
        _refuse(f"{what} {found}")


def _refuse(what: str) -> NoReturn:
    raise NotConfigured(f"tokenizer.json asks for {what}; supported: {SUPPORTED}.")
