"""Mail addresses in running text, also those that people spell out to hide them from harvesters.

Pure and linear: every repetition in the patterns is possessive or bounded, and no more than
``LENGTH_MAX`` characters are read.
"""

import re
import unicodedata
from typing import NamedTuple

from email_validator import EmailNotValidError, validate_email

LENGTH_MAX = 10_000
CANDIDATES_MAX = 100
ADDRESSES_MAX = 20

CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff"

# Invisible, but not of a category that says so: joiners, fillers and variation selectors.
_INVISIBLE = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0}
_INVISIBLE |= set(range(0xFE00, 0xFE10)) | set(range(0xE0100, 0xE01F0))
_DROPPED = {"Cc", "Cf", "Cs"}

# NFKC would turn Chinese punctuation into ASCII; for the wish it stays as it was written.
_MARKS = "，！？：；（）～"
_MARK = re.compile(f"([{_MARKS}])")
_TO_ASCII = str.maketrans(_MARKS, ",!?:;()~")

# What an address can consist of: cut with the rest, so that half an address is never found.
_CUTTABLE = "".join(map(chr, range(0x21, 0x7F))) + "点"

_OPEN, _CLOSE = r" ?[(\[{<【] ?", r" ?[)\]}>】] ?"
_RUN = r"[A-Za-z0-9_%+][A-Za-z0-9._%+'-]*+"
_LABEL = r"[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*+"
_JOINT = re.compile(rf"({_OPEN}(?:dot|\.|点|。){_CLOSE}| dot | ?点 ?|\.|。)", re.IGNORECASE)
_LINK = re.compile(
    rf"({_OPEN}(?:dot|\.|点){_CLOSE}| (?:dot|underscore|dash|hyphen|plus) | ?(?:点|下划线) ?)",
    re.IGNORECASE,
)
_LINKED = {"underscore": "_", "下划线": "_", "dash": "-", "hyphen": "-", "plus": "+"}
_CLEAR_AT = rf"{_OPEN}(?:at|@|a|艾特){_CLOSE}| ?艾特 ?"
_LOOSE_AT = " at | @ ?|@ "
_ADDRESS = re.compile(
    r"(?<![A-Za-z0-9._%+'-])[.'-]*+"
    rf"(?:(?P<local>{_RUN})@"
    rf"|(?P<spelled>{_RUN}(?:{_LINK.pattern}{_RUN}){{0,9}}+)"
    rf"(?:(?P<loose>{_LOOSE_AT})|{_CLEAR_AT}))"
    rf"(?P<domain>{_LABEL}(?:{_JOINT.pattern}{_LABEL}){{1,8}}+)",
    re.IGNORECASE,
)
_TOP_LEVEL = re.compile(r"[A-Za-z]{2,63}|xn--[A-Za-z0-9-]{1,59}")
_GLUED = re.compile(rf"@[A-Za-z0-9]|_[A-Za-z0-9]|[^\W_{CJK}]|[\u0300-\u036f]")


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# A bare "at" or "dot" is an English word first. Two-letter names that are words are left out:
# "look at the dot in the middle" names nobody.
_SPOKEN_TOP_LEVEL = _words(
    "com net org edu gov info io cn co uk de fr jp kr tw hk sg ru br au ca eu nl es ch se fi pl"
    " nz app dev xyz ai cc tv biz name mobi online site tech"
)
_WEBMAIL = _words(
    "qq.com vip.qq.com foxmail.com 163.com 126.com yeah.net 139.com 189.cn sina.com sina.cn"
    " sohu.com aliyun.com gmail.com googlemail.com outlook.com hotmail.com live.com msn.com"
    " icloud.com me.com yahoo.com yahoo.co.uk proton.me protonmail.com gmx.de gmx.net web.de"
    " mail.ru yandex.ru naver.com fastmail.com zoho.com"
)
_NOT_A_MAILBOX = _words(
    "me us him her them it is am are was were be look looks looking stare staring point pointing"
    " mail email e-mail address contact reach send sent find see meet home here there this that"
    " a an the one two red green blue yellow orange purple pink white black gray grey brown cyan"
    " small tiny big large"
)
_NOT_A_HOST = _words("the a an this that my your his her our their one polka")
_GENERIC = _words("com net org edu gov")
_AFTERWARDS = re.compile(r"[A-Z][a-z]+|thanks|thank|thx|please|pls|plz")


class Folded(NamedTuple):
    """One text in two forms of equal length: ``wording`` keeps Chinese punctuation."""

    wording: str
    plain: str
    is_cut: bool


class Found(NamedTuple):
    """An address and the characters of the normalised text that spell it."""

    start: int
    end: int
    address: str


def fold(text: str) -> Folded:
    """Give the text in NFKC (Unicode annex 15) without invisible characters.

    Whitespace is folded to single spaces. Only the first 10,000 characters are kept; a text cut
    there loses its last word, which may be half an address.
    """
    is_cut = len(text) > LENGTH_MAX
    seen = "".join(filter(_is_seen, text[:LENGTH_MAX]))
    pieces = [
        piece if piece in _MARKS else unicodedata.normalize("NFKC", piece)
        for piece in _MARK.split(seen)
    ]
    wording = " ".join("".join(pieces).split())
    if is_cut or len(wording) > LENGTH_MAX:
        is_cut = True
        wording = wording[:LENGTH_MAX].rstrip().rstrip(_CUTTABLE).rstrip()
    return Folded(wording, wording.translate(_TO_ASCII), is_cut)


def _is_seen(character: str) -> bool:
    if ord(character) in _INVISIBLE:
        return False
    return character.isspace() or unicodedata.category(character) not in _DROPPED


def normalise(text: str) -> str:
    """Give the form that words and addresses are looked up in: NFKC, visible, single spaces."""
    return fold(text).plain


def find_addresses(text: str) -> list[str]:
    """Give the mail addresses of a text in order, each once, domains in lower case.

    Only ASCII addresses (RFC 5321 without quoted local parts) whose syntax email-validator
    accepts; no look-up is made. At most 20 are told, from the first 100 candidates.
    """
    return distinct(scan(normalise(text)))


def distinct(found: list[Found]) -> list[str]:
    """Give each address once: the same mailbox in other letter case is the same person."""
    first: dict[str, str] = {}
    for one in found:
        first.setdefault(one.address.lower(), one.address)
    return list(first.values())


def scan(plain: str) -> list[Found]:
    """Give the addresses of a normalised text with their places, at most 20."""
    found: list[Found] = []
    for count, match in enumerate(_ADDRESS.finditer(plain[:LENGTH_MAX])):
        if count == CANDIDATES_MAX or len(found) == ADDRESSES_MAX:
            break
        one = _examine(plain, match)
        if one is not None:
            found.append(one)
    return found


def _examine(plain: str, match: re.Match[str]) -> Found | None:
    """Give the address of one candidate, or nothing if taking it would be guessing.

    A part of something longer is refused: mail to ``b@x.org`` for ``éb@x.org`` reaches a stranger.
    """
    if match.start() > 0 and _GLUED.match(plain[match.start() - 1] + "a"):
        return None
    domain = _domain(match["domain"])
    if domain is None:
        return None
    host, length, is_spelled = domain
    end = match.start("domain") + length
    if end == match.end() and _GLUED.match(plain, end):
        return None
    start, local = match.start("local"), match["local"]
    if local is None:
        parts = _LINK.split(match["spelled"])
        if match["loose"]:
            if not _is_plausible(parts[-1], host, is_spelled=is_spelled):
                return None
            while parts[0].lower() in _NOT_A_MAILBOX:  # "draw a red dot anna at …"
                del parts[:2]
        start = match.end("spelled") - sum(map(len, parts))
        local = "".join(
            _LINKED.get(part.strip().lower(), ".") if odd % 2 else part
            for odd, part in enumerate(parts)
        )
    try:
        valid = validate_email(
            f"{local}@{host}", check_deliverability=False, strict=True, test_environment=True
        )
    except EmailNotValidError:
        return None
    return Found(start, end, f"{local}@{valid.ascii_domain.lower()}")


def _domain(spelled: str) -> tuple[str, int, bool] | None:
    """Give the host name, how many characters spell it and whether a dot was spelled out."""
    parts = _JOINT.split(spelled)
    labels, joints = parts[::2], parts[1::2]
    if "。" in joints[1:]:  # a full stop as a dot only in "qq。com"; later it ends the sentence
        del labels[joints.index("。", 1) + 1 :]
    while len(labels) > 1 and _is_beyond(joints[len(labels) - 2], labels):
        labels.pop()
    del joints[len(labels) - 1 :]
    if not joints or not _TOP_LEVEL.fullmatch(labels[-1]):
        return None
    is_spelled = any(joint != "." for joint in joints)
    return ".".join(labels), sum(map(len, labels + joints)), is_spelled


def _is_beyond(joint: str, labels: list[str]) -> bool:
    """Say whether the last label is no longer part of the domain, as in "a@qq.com 点10个赞"."""
    last = labels[-1]
    if joint.lower() == " dot ":
        return last.lower() not in _SPOKEN_TOP_LEVEL
    if joint == ".":
        return len(labels) > 2 and labels[-2] in _GENERIC and bool(_AFTERWARDS.fullmatch(last))
    return not _TOP_LEVEL.fullmatch(last)


def _is_plausible(mailbox: str, host: str, *, is_spelled: bool) -> bool:
    """Say whether words around a bare "at" are an address: "look at example.com" is none."""
    host = host.lower()
    if mailbox.lower() in _NOT_A_MAILBOX or host.partition(".")[0] in _NOT_A_HOST:
        return False
    return is_spelled or host in _WEBMAIL
