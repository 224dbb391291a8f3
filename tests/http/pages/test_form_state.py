"""Forms that were refused, and paths to go on to."""

import pytest
from pydantic import BaseModel

from limner.core.errors import (
    Conflict,
    EngineUnavailable,
    Forbidden,
    Invalid,
    LimnerError,
    TooMany,
)
from limner.http.local_paths import START, local_path
from limner.http.pages.form_state import WRONG, fitted, refused, sentence_of


class Typed(BaseModel):
    """What somebody typed."""

    email: str = "anna"
    new_password: str = "secret"
    ticket: str = "secret"
    many: list[str] = []


def test_faults_go_to_their_fields_and_secrets_nowhere() -> None:
    error = Invalid("no", faults=[("/email", "is none"), ("/email/0", "twice"), ("/x/y", "is odd")])
    form = refused(error, Typed())
    assert form.values == {"email": "anna"}
    assert form.faults == {"email": "Is none.", "x": "Is odd."}
    assert form.listed == [("email", "E-mail: Is none."), ("", "Is odd.")]
    assert (form.status, form.summary, form.has_faults) == (422, WRONG, True)
    assert (form.value("none"), form.fault("none")) == ("", "")


def test_an_error_without_faults_is_the_summary_or_a_named_fields() -> None:
    error = Forbidden("the password is not right", code="password_wrong")
    assert refused(error).summary == "The password is not right."
    form = refused(error, names={"password_wrong": "current_password"})
    assert form.faults == {"current_password": "The password is not right."}


def test_a_members_fault_is_the_fields_that_shows_it() -> None:
    form = refused(Invalid("no", faults=[("/defaults/keywords/3", "is long")]))
    assert form.faults == {"keywords": "Is long."}


def test_waiting_is_told_in_seconds() -> None:
    assert refused(TooMany("wait", retry_after_s=3.2)).retry_after_s == 3.2
    assert refused(Conflict("no")).retry_after_s is None


@pytest.mark.parametrize(
    "error",
    [Forbidden("x", code="csrf"), Forbidden("x", code="foreign_origin"), EngineUnavailable()],
)
def test_what_nobody_can_mend_by_typing_stays_an_error(error: LimnerError) -> None:
    with pytest.raises(type(error)):
        refused(error)


@pytest.mark.parametrize(
    ("text", "said"), [("a b", "A b."), ("Why?", "Why?"), (" x. ", "X."), ("", WRONG)]
)
def test_details_are_read_as_sentences(text: str, said: str) -> None:
    assert sentence_of(text) == said


def test_a_form_that_does_not_fit_names_the_places() -> None:
    with pytest.raises(Invalid) as caught:
        fitted(Typed, email=3)
    assert [place for place, _ in caught.value.faults] == ["/email"]
    assert fitted(Typed, email="x").email == "x"


@pytest.mark.parametrize("path", ["/", "/tasks", "/tasks?state=a&b=%2F%2Fx", "/a//b", "/ä"])
def test_a_path_of_ours_is_kept(path: str) -> None:
    assert local_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tasks",
        "//evil.test",
        "///evil.test",
        "/\\evil.test",
        "\\\\evil.test",
        "/\t/evil.test",
        "/\n/evil.test",
        " //evil.test",
        "https://evil.test",
        "javascript:alert(1)",
        "//[",
        "/" + "x" * 500,
    ],
)
def test_anything_else_leads_to_the_start(path: str) -> None:
    assert local_path(path) == START
    assert local_path(path, "/account") == "/account"
