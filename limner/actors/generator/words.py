"""Any prompt to one the built-in model can read, in Chinese or English; unknown words are named.

A fixed table (lexicon.py), longest match first: the model knows some seventy words.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from limner.actors.generator.description import article, describe
from limner.actors.generator.lexicon import (
    LEXICON,
    LONGEST,
    MODEL_WORDS,
    PHRASE_WORDS,
    SIMPLIFIED,
    UNTRAINED,
    Meaning,
)

MOST_CHARACTERS = 2000
"""What is read of a prompt; the model takes in 26 words."""

_PIECES = re.compile(
    r"(?P<space>\s+)"
    # Letters of scripts that write spaces between words; Chinese and Japanese ones do not.
    r"|(?P<word>[^\W\d_\u2e80-\u9fff\uf900-\ufaff]+(?:'[^\W\d_\u2e80-\u9fff\uf900-\ufaff]+)*)"
    r"|(?P<run>[\d_\u2e80-\u2fff\u3005-\u3007\u3040-\u9fff\uf900-\ufaff]+)"
    r"|(?P<mark>.)",
    re.DOTALL,
)
_ARTICLES = frozenset(("a", "an", "the"))
_LINKS = frozenset(("and", "on", "in", "at", "with", "of", "to", ","))
_RELATIONS = {"top": "above", "bottom": "below"}
_TRAINED = MODEL_WORDS - UNTRAINED


@dataclass(frozen=True, slots=True)
class Translation:
    """A prompt as the model reads it.

    ``unknown_words`` are the words without a meaning to it, in order, each once: they are left
    out of the prompt and belong in a warning.
    """

    prompt_for_model: str
    unknown_words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Word:
    """A word or phrase of the prompt and what it means: nothing if it is unknown."""

    text: str
    meanings: tuple[Meaning, ...] = ()


_BREAK = _Word(",", (Meaning("and"),))


def translate(prompt: str) -> Translation:
    """Return the prompt in the built-in model's own words.

    A scene in English that leaves nothing open is kept, but for synonyms and words without use;
    all else is said again: ``蓝色背景上的红色圆形`` becomes ``a red circle on a blue background``.
    """
    text = unicodedata.normalize("NFKC", prompt[:MOST_CHARACTERS]).translate(SIMPLIFIED)
    words = list(_scan(text.lower().replace("-", " ").replace("’", "'")))
    unknown = dict.fromkeys(word.text for word in words if not word.meanings)
    meanings = [meaning for word in words for meaning in word.meanings]
    description = describe(meanings)
    # "The circle is red" is English, but not the model's; an unknown word leaves a gap behind.
    is_plain = not unknown and all(meaning.kind != "is" for meaning in meanings)
    is_english = all(word.text.isascii() for word in words)
    is_kept = is_plain and is_english and description.is_whole_scene
    return Translation(_kept(words) if is_kept else description.phrase(), tuple(unknown))


def _scan(text: str) -> Iterator[_Word]:
    """Yield the words, phrases and breaks of lower-case ``text``."""
    found = [(match.lastgroup, match.group()) for match in _PIECES.finditer(text)]
    pieces = [(kind, piece) for kind, piece in found if kind != "space"]
    index = 0
    while index < len(pieces):
        kind, piece = pieces[index]
        taken = 1
        if kind == "word":
            ahead = [word for kind, word in pieces[index : index + PHRASE_WORDS] if kind == "word"]
            taken, word = _phrase(ahead)
            yield word
        elif kind == "run":
            yield from _run(piece)
        elif unicodedata.category(piece).startswith("P"):
            yield _BREAK
        else:
            yield _Word(piece)
        index += taken


def _phrase(ahead: Sequence[str]) -> tuple[int, _Word]:
    """Return the longest phrase of the table that ``ahead`` begins with, and its words' number."""
    for count in range(len(ahead), 0, -1):
        phrase = " ".join(ahead[:count])
        # A plural without an entry of its own means one of its kind.
        for form in (phrase, phrase.removesuffix("s")):
            if form in LEXICON:
                return count, _Word(form, LEXICON[form])
    return 1, _Word(ahead[0])


def _run(run: str) -> Iterator[_Word]:
    """Yield the words of a text without spaces; neighbouring unknown characters are one word."""
    position, unknown = 0, ""
    while position < len(run):
        pieces = (run[position : position + length] for length in range(LONGEST, 0, -1))
        piece = next((piece for piece in pieces if piece in LEXICON), "")
        if not piece:
            unknown += run[position]
            position += 1
            continue
        if unknown:
            yield _Word(unknown)
            unknown = ""
        yield _Word(piece, LEXICON[piece])
        position += len(piece)
    if unknown:
        yield _Word(unknown)


def _kept(words: Sequence[_Word]) -> str:
    """Return English words as they came, in the model's vocabulary."""
    said = [known for word in words for known in _known(word).split()]
    kept: list[str] = []
    for word, following in zip(said, [*said[1:], ","], strict=True):
        is_idle = word in _ARTICLES and (following in _ARTICLES or following in _LINKS)
        is_repeated = word in _LINKS and (not kept or kept[-1] == word)
        if not (is_idle or is_repeated):
            kept.append(word)
    while kept and kept[-1] in _LINKS:
        kept.pop()
    pairs = zip(kept, [*kept[1:], ""], strict=True)
    spoken = [article(after).split()[0] if word in ("a", "an") else word for word, after in pairs]
    return " ".join(spoken).replace(" ,", ",")


def _known(word: _Word) -> str:
    """Return the model's word or words for ``word``, or nothing."""
    if word == _BREAK or all(part in _TRAINED for part in word.text.split()):
        return word.text
    kind, name = word.meanings[0]
    if kind == "relation":
        return _RELATIONS.get(name, "above")
    return kind if kind == "background" else name
