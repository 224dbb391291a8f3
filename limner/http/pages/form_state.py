"""What a form shows when it is shown again: the typed values, and what is wrong with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from limner.core.errors import Invalid, LimnerError, TooMany
from limner.http.body import faults_of

M = TypeVar("M", bound=BaseModel)

SECRETS = ("password", "code", "token", "ticket")
"""Fields with these words in their names are never sent back."""
FORGED = frozenset({"csrf", "foreign_origin"})
INSIDE = "defaults/"
"""Objects in a body whose members are fields of a form by themselves."""
SERVER_ERROR = 500
LABELS = {
    "code": "Code",
    "confidence_threshold": "Sure enough from",
    "current_password": "Present password",
    "email": "E-mail",
    "expires": "Ends",
    "factor_password": "Your password",
    "image_provider": "Pictures are made by",
    "keywords": "Keywords",
    "language": "Language",
    "name": "Name",
    "new_password": "New password",
    "password": "Password",
    "scopes": "May",
    "timezone": "Time zone",
    "video_provider": "Videos are made by",
}
"""What the pages call the fields; a fault of any other has no field to lead to."""
WRONG = "Something is not right yet"


@dataclass(frozen=True)
class FormState:
    """Values and faults by field; a fault of no field that the page has stands in the summary."""

    values: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    summary: str = ""
    code: str = ""
    status: int = 200
    retry_after_s: float | None = None

    @property
    def has_faults(self) -> bool:
        """Whether there is something to mend."""
        return bool(self.summary or self.faults)

    @property
    def listed(self) -> list[tuple[str, str]]:
        """The faults for the summary, as (field or an empty string, sentence with its name)."""
        return [
            (name if name in LABELS else "", f"{LABELS[name]}: {text}" if name in LABELS else text)
            for name, text in self.faults.items()
        ]

    def value(self, name: str) -> str:
        """Give what was typed."""
        return self.values.get(name, "")

    def fault(self, name: str) -> str:
        """Give what is wrong with a field, or nothing."""
        return self.faults.get(name, "")


EMPTY = FormState()


def refused(
    error: LimnerError,
    typed: BaseModel | Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
) -> FormState:
    """Give the state of a form that ``error`` has refused.

    ``names`` says which field a fault of another name belongs to, or an error's code.

    Raises:
        LimnerError: the same, where it is none that whoever typed can mend: a forged form, or an
            engine that is away.
    """
    if error.code in FORGED or error.status >= SERVER_ERROR:
        raise error
    faults = list(error.faults) if isinstance(error, Invalid) else []
    names = names or {}
    if not faults and error.code in names:
        faults = [(f"/{error.code}", error.detail)]
    return FormState(
        values=_kept(typed),
        faults=_by_field(faults, names),
        summary=WRONG if faults else sentence_of(error.detail),
        code=error.code,
        status=error.status,
        retry_after_s=error.retry_after_s if isinstance(error, TooMany) else None,
    )


def sentence_of(text: str) -> str:
    """Give a problem's detail as a sentence: a capital first, a full stop last."""
    text = text.strip()
    if not text:
        return WRONG
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _kept(typed: BaseModel | Mapping[str, str] | None) -> dict[str, str]:
    values = typed.model_dump() if isinstance(typed, BaseModel) else dict(typed or {})
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, str) and not any(word in name for word in SECRETS)
    }


def _by_field(faults: Sequence[tuple[str, str]], names: Mapping[str, str]) -> dict[str, str]:
    """Give one sentence for each field; a place inside a field is the field's."""
    found: dict[str, str] = {}
    for pointer, text in faults:
        parts = pointer.removeprefix("/").removeprefix(INSIDE).split("/")
        name = names.get(parts[0], parts[0])
        found.setdefault(name, sentence_of(text))
    return found


def fitted(model: type[M], **values: object) -> M:
    """Give ``model`` made of what a form had.

    Raises:
        Invalid: it does not fit; ``faults`` names all places.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise Invalid("the form does not fit", faults=faults_of(error)) from None
