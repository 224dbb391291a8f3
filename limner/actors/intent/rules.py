"""Layer 1 of intent: keywords, deny words and addresses decide alone, without a model.

Pure. Words from users are literal and never patterns, so that no setting can stall the service.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from limner.actors.intent.addresses import (
    ADDRESSES_MAX,
    CJK,
    LENGTH_MAX,
    Folded,
    Found,
    distinct,
    find_addresses,
    fold,
    normalise,
    scan,
)
from limner.actors.intent.wishes import ADDRESS, CUT, KEYWORD, LEFT, RIGHT, clean
from limner.core.errors import Invalid
from limner.core.tunables import DEFAULT_DENY_WORDS, DEFAULT_KEYWORDS

__all__ = [
    "DEFAULT_DENY_WORDS",
    "DEFAULT_KEYWORDS",
    "LENGTH_MAX",
    "WORDS_MAX",
    "WORD_LENGTH_MAX",
    "Kind",
    "Language",
    "Reading",
    "Rules",
    "Verdict",
    "find_addresses",
    "names_address",
    "normalise",
]

Kind = Literal["image", "video"]
Language = Literal["zh", "en"]
Verdict = Literal["ignored", "no_address", "task", "needs_review"]

WORDS_MAX = 500
WORD_LENGTH_MAX = 64

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_IS_CJK = re.compile(f"[{CJK}]")
_MENTION = re.compile(r"(?<![A-Za-z0-9])@[A-Za-z0-9_.-]{1,40}+")
# A colour such as #ff0000 is part of the wish; "name#qq.com" is no topic.
_TOPIC = re.compile(
    r"(?<![A-Za-z0-9#])#(?!(?:[0-9A-Fa-f]{3}){1,2}\b)"
    r"(?:[^#\s\x01-\x03]{1,40}#|[^#\s\x01-\x03,，.。!！?？;；:：、]{1,40}+)"
)
_VIDEO = re.compile(
    r" ?(?:(?:for me|me|us|a|an|the|one|short|little|small|quick|nice) ){0,4}+videos?"
    r"(?: of\b|(?= (?:with|showing|about|where|that|in)\b| ?(?:[,.:!?;\x02]|$)))"
    r"|(?:一个|一段|一条|个|段|条)?[小短]?视频(?=[ ,:;。!?\x02]|$)"
)
_NO_WISH = re.compile(
    rf"(?:{LEFT}(?:how (?:do|does|did|can|could|would|should|to)|why (?:do|does|did)"
    rf"|what (?:to|should)|learn(?:ing)? to|(?<!why )don't|do not|never|stop)"
    rf"(?: (?:i|you|u|we|they|one|he|she|people)(?: (?:guys|all))?)?"
    rf"|怎么才?能?|怎样才?能?|如何|为什么|谁[能会]|教我|不要|(?<![特分区级个])别|不用|不想)"
    rf"(?:你|我|们|再){{0,3}} ?$"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the rules see in one comment, and what they make of it.

    ``reason`` says why it is not a task; ``confidence`` is 1.0 for a task and 0.0 otherwise.
    """

    keyword: str | None
    denied_by: str | None
    addresses: tuple[str, ...]
    prompt: str
    kind: Kind
    language: Language
    verdict: Verdict
    reason: str | None
    confidence: float

    @property
    def email(self) -> str | None:
        """The address to answer to, if there is exactly one."""
        return self.addresses[0] if len(self.addresses) == 1 else None


class _Words:
    """A list of literal words as one pattern.

    Words with Chinese, Japanese or Korean characters are found anywhere, also with spaces between
    their characters; others only as whole words. Letter case does not matter.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._named: dict[str, str] = {}
        plains: set[str] = set()
        for word in words:
            plain = _lower(normalise(word))
            if len(plain) > WORD_LENGTH_MAX:
                raise Invalid(f"A word is longer than {WORD_LENGTH_MAX} characters.")
            if not plain:
                continue
            plains.add(plain)
            self._named.setdefault(plain.replace(" ", ""), word)
            if len(plains) > WORDS_MAX:
                raise Invalid(f"There are more than {WORDS_MAX} words.")
        # The longest first: of two words that begin alike the longer one is meant.
        longest_first = sorted(plains, key=len, reverse=True)
        anywhere = [_spaced(plain) for plain in longest_first if _IS_CJK.search(plain)]
        whole = [re.escape(plain) for plain in longest_first if not _IS_CJK.search(plain)]
        branches = [*anywhere, *([f"{LEFT}(?:{'|'.join(whole)}){RIGHT}"] if whole else [])]
        self._pattern = re.compile("|".join(branches) or r"(?!)")

    def first(self, lowered: str) -> str | None:
        """Give the word, as it was configured, that comes first in the text."""
        match = self._pattern.search(lowered)
        return self._named[match[0].replace(" ", "")] if match else None

    def chain(self, lowered: str) -> tuple[int, int, tuple[str, ...]] | None:
        """Give the place of the first word and of what overlaps or touches it, and their names.

        "帮我画一张" holds 帮我画 and 画一张: both ask, neither is part of the wish.
        """
        match = self._pattern.search(lowered)
        if match is None:
            return None
        names, end, place = [self._named[match[0].replace(" ", "")]], match.end(), match.start() + 1
        while place <= end:
            more = self._pattern.match(lowered, place)
            if more and more.end() > end:
                names.append(self._named[more[0].replace(" ", "")])
                end = more.end()
            place += 1
        return match.start(), end, tuple(names)


class Rules:
    """Keywords and deny words, compiled once.

    Raises Invalid for more than 500 words of one kind or a word over 64 characters.
    """

    def __init__(
        self,
        keywords: Iterable[str] = DEFAULT_KEYWORDS,
        deny_words: Iterable[str] = DEFAULT_DENY_WORDS,
    ) -> None:
        self._keywords = _Words(keywords)
        self._deny_words = _Words(deny_words)

    def read(self, text: str) -> Reading:
        """Say what a comment wants and where it wants it sent.

        Addresses, mentions and topics are not searched for keywords; what a keyword overlaps in
        the text is taken out of the prompt with it.
        """
        folded = fold(text)
        lowered = _lower(folded.plain)
        found = scan(folded.plain)
        masked = _mask(lowered, found)
        chain = self._keywords.chain(masked)
        denied_by = self._deny_words.first(lowered)
        addresses = tuple(distinct(found))
        keyword, kind, prompt, is_wish = None, _kind(""), "", False
        if chain is not None:
            start, end, names = chain
            keyword = names[0]
            video = _VIDEO.match(masked, end)
            kind = "video" if video else _kind(" ".join(names))
            prompt = clean(_mark(folded, masked, start, video.end() if video else end))
            is_wish = not _NO_WISH.search(masked[max(0, start - 48) : start])
        verdict, reason = _judge(keyword, denied_by, addresses, prompt, folded, is_wish=is_wish)
        return Reading(
            keyword=keyword,
            denied_by=denied_by,
            addresses=addresses,
            prompt=prompt,
            kind=kind,
            language="zh" if _HAN.search(folded.plain) else "en",
            verdict=verdict,
            reason=reason,
            confidence=1.0 if verdict == "task" else 0.0,
        )


def _judge(
    keyword: str | None,
    denied_by: str | None,
    addresses: tuple[str, ...],
    prompt: str,
    folded: Folded,
    *,
    is_wish: bool,
) -> tuple[Verdict, str | None]:
    """Give the verdict and its reason: a task needs a wish and one address."""
    cases: tuple[tuple[bool, Verdict, str], ...] = (
        (denied_by is not None, "ignored", "deny word"),
        (keyword is None, "ignored", "no keyword"),
        (not addresses, "no_address", "no address"),
        (folded.is_cut, "needs_review", "text too long"),
        (len(addresses) > 1, "needs_review", "several addresses"),
        (not prompt, "needs_review", "empty prompt"),
        (not is_wish, "needs_review", "unclear wish"),
    )
    return next(((verdict, reason) for holds, verdict, reason in cases if holds), ("task", None))


SLICE = 500
"""Characters that are folded at once: none becomes more than 18, so that nothing is cut."""
BEFORE, STEP, BEHIND = 100, 100, 300
"""A long text is read in steps, each with what is before it and behind it; together they hold
less than 100 candidates of an address, so that none is passed over."""


def names_address(text: str, forms: Collection[str]) -> bool:
    """Whether a text of any length names one of these addresses, also in words.

    ``forms`` are in lower case. Unlike ``find_addresses`` this reads all of it.
    """
    plain = _folded(text)
    # No spelling changes the letters between the dots of a host name.
    hosts = {form.rpartition("@")[2].partition(".")[0] for form in forms}
    for start in range(0, len(plain), STEP):
        first = max(0, start - BEFORE)
        window = plain[first : start + STEP + BEHIND]
        if any(host in window.lower() for host in hosts) and _names(window, start - first, forms):
            return True
    return False


def _names(window: str, left: int, forms: Collection[str]) -> bool:
    """Whether a window has one of the addresses, beginning within its step, which is at ``left``.

    What begins before may be the end of a longer address, and was in the step before.
    """
    offset = 0
    while found := scan(window[offset:]):
        for one in found:
            if left <= offset + one.start < left + STEP and one.address.lower() in forms:
                return True
        if len(found) < ADDRESSES_MAX:
            break
        offset += found[-1].end
    return False


def _folded(text: str) -> str:
    """Give a text of any length in the form in which addresses are found."""
    slices = [text[start : start + SLICE] for start in range(0, len(text), SLICE)]
    pieces = [
        f"{' ' * one[:1].isspace()}{fold(one).plain}{' ' * one[-1:].isspace()}" for one in slices
    ]
    return re.sub(" +", " ", "".join(pieces)).strip()


def _kind(words: str) -> Kind:
    return "video" if "视频" in words or "video" in words.lower() else "image"


def _lower(text: str) -> str:
    """Give lower case of equal length, so that places stay valid ("İ" would become two)."""
    return "".join(low if len(low := one.lower()) == 1 else one for one in text)


def _spaced(plain: str) -> str:
    """Give a pattern for a word whose Chinese characters may stand apart: "加 微 信"."""
    return " ?".join(re.escape(one) for one in re.findall(rf"[{CJK}]|[^ {CJK}]+", plain))


def _mask(lowered: str, found: list[Found]) -> str:
    """Blot out addresses, then mentions and topics, at equal length."""
    characters = list(lowered)
    for start, end, _ in found:
        characters[start:end] = ADDRESS * (end - start)
    masked = "".join(characters)
    for pattern in (_MENTION, _TOPIC):
        masked = pattern.sub(lambda match: CUT * len(match[0]), masked)
    return masked


def _mark(folded: Folded, masked: str, start: int, end: int) -> str:
    """Give the wording with one mark for every part that is not the wish."""
    characters = [
        blot if blot in (ADDRESS, CUT) else one
        for one, blot in zip(folded.wording, masked, strict=True)
    ]
    characters[start:end] = KEYWORD * (end - start)
    return re.sub(r"([\x01-\x03])\1+", r"\1", "".join(characters))
