"""Writes the words of our mails: subject, plain text and HTML that needs nothing from the network.

What people wrote is only ever a value of a template, never a template.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast, get_args

from jinja2 import FileSystemLoader, StrictUndefined, select_autoescape
from jinja2.sandbox import SandboxedEnvironment

from limner.actors.mailer.account_phrases import ACCOUNT_WORDS, EXPIRY, WHY
from limner.actors.mailer.phrases import PHRASES, Kind, Language, duration
from limner.core.errors import Invalid

# With every character escaped to five and encoded as base64, twice over, this stays under 100 KB.
MAX_PROMPT_CHARS = 4000
MAX_ALT_CHARS = 200
MAX_PICTURE_WIDTH_PX = 496

# One URL, as the address bar would show it: no space, quote or angle bracket that could end it.
_URL = re.compile(r"https?://[A-Za-z0-9\[][^\s\"'<>`\\\x00-\x1f\x7f]{0,1990}")

NAMED: dict[str, tuple[str, ...]] = {"message": ("subject", "text")}
"""The templates that ``mailer.send`` may name, and the variables each needs."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The words of one mail."""

    subject: str
    text: str
    html: str


def render_result(
    *,
    language: Language,
    kind: Kind,
    prompt: str,
    result_url: str,
    expires_in_s: int,
    unsubscribe_url: str,
    picture_cid: str | None = None,
    picture_width_px: int = MAX_PICTURE_WIDTH_PX,
) -> Rendered:
    """Write the mail that brings a finished picture or video.

    ``prompt`` appears as it was written, up to 4,000 characters. ``picture_cid`` names the
    attachment that is shown: the picture itself or the video's first frame, as wide as it is but
    no wider than the mail. ``expires_in_s`` is how long ``result_url`` opens the result.

    Raises:
        Invalid: a URL that is not ``http`` or ``https``.
    """
    phrases = PHRASES[language]
    prompt = _cut(prompt.strip(), MAX_PROMPT_CHARS)
    subject = phrases.ready[kind]
    return _render(
        "result",
        language,
        subject,
        kind=kind,
        prompt=prompt,
        alt=f"{phrases.shows[kind]} {_cut(' '.join(prompt.split()), MAX_ALT_CHARS)}",
        result_url=_url(result_url, "result_url"),
        expiry=phrases.expiry.format(duration=duration(expires_in_s, language)),
        unsubscribe_url=_url(unsubscribe_url, "unsubscribe_url"),
        picture_cid=picture_cid,
        width_px=min(picture_width_px, MAX_PICTURE_WIDTH_PX),
    )


def render_account(
    kind: str, language: Language, *, url: str = "", expires_in_s: int = 0
) -> Rendered:
    """Write a mail about an account; ``url`` is the link that works for ``expires_in_s`` seconds.

    Raises:
        Invalid: a URL that is not ``http`` or ``https``.
    """
    words = ACCOUNT_WORDS[kind][language]
    return _render(
        "account",
        language,
        words.subject,
        words=words,
        url=_url(url, "url") if url else "",
        expiry=EXPIRY[language].format(duration=duration(expires_in_s, language)),
        why=WHY[language],
    )


def render_named(template: str, language: str, variables: Mapping[str, object]) -> Rendered:
    """Write the mail that a caller of ``mailer.send`` chose by name; see ``NAMED``.

    Raises:
        Invalid: no such template or language, or variables that are missing, not text or unknown;
            all faults at once, as JSON Pointers into the command.
    """
    faults = _faults(template, language, variables)
    if faults:
        raise Invalid("the mail cannot be written from this template", faults=faults)
    values = {name: cast("str", value) for name, value in variables.items()}
    subject = values.pop("subject")
    return _render(template, cast("Language", language), subject, **values)


def _faults(template: str, language: str, variables: Mapping[str, object]) -> list[tuple[str, str]]:
    faults = []
    if language not in get_args(Language):
        faults.append(("/language", f"is not one of {', '.join(get_args(Language))}"))
    needed = NAMED.get(template)
    if needed is None:
        faults.append(("/template", f"is not one of {', '.join(sorted(NAMED))}"))
        return faults
    for name in needed:
        if name not in variables:
            faults.append((_pointer(name), "is missing"))
        elif not isinstance(variables[name], str):
            faults.append((_pointer(name), "is not text"))
    faults.extend((_pointer(name), "is unknown") for name in variables if name not in needed)
    return faults


def _pointer(name: str) -> str:
    """Give the JSON Pointer of a variable (RFC 6901 section 3)."""
    return "/variables/" + str(name).replace("~", "~0").replace("/", "~1")


@cache
def _environment() -> SandboxedEnvironment:
    """Make the environment at first use; templates are read once."""
    return SandboxedEnvironment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _render(template: str, language: Language, subject: str, **values: object) -> Rendered:
    environment = _environment()
    values.update(subject=subject, phrases=PHRASES[language])
    return Rendered(
        subject=subject,
        text=environment.get_template(f"{template}.txt").render(values),
        html=environment.get_template(f"{template}.html").render(values),
    )


def _url(text: str, field: str) -> str:
    if not _URL.fullmatch(text):
        raise Invalid(f"{field} is not an http or https URL")
    return text


def _cut(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
