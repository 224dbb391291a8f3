"""Notifications in words."""

from collections.abc import Mapping
from typing import Any, Protocol

from limner.http.pages.account_rooms import KEYS, PROFILE, SECURITY, SESSIONS

TASK = "task."
REUSED = (
    "Somebody used a sign-in of yours a second time, so that it was ended. If that was not you, "
    "change your password."
)
WORDS: Mapping[str, tuple[str, str]] = {
    "key.created": ("A new API key was made.", KEYS),
    "session.refresh_reused": (REUSED, SESSIONS),
    "user.totp_enabled": ("The second factor was turned on.", SECURITY),
    "user.totp_disabled": ("The second factor was taken away.", SECURITY),
    "user.recovery_codes_renewed": ("New recovery codes were made.", SECURITY),
    "user.recovery_code_used": ("A recovery code was used to sign in.", SECURITY),
    "user.role_changed": ("What you may do here was changed.", PROFILE),
    "user.password_changed": ("Your password was changed.", SECURITY),
    "user.password_reset": ("Your password was set anew by a mailed link.", SECURITY),
    "user.email_changed": ("Your e-mail address was changed.", SECURITY),
    "identity.linked": ("Another way to sign in was linked.", SECURITY),
    "identity.unlinked": ("A way to sign in was removed.", SECURITY),
    "task.failed": ("A task has failed.", ""),
    "task.needs_review": ("A wish waits for your review.", ""),
}
"""What each kind says, and the page where more can be seen."""


class Told(Protocol):
    """What is needed of a notification."""

    kind: str
    subject: str
    data: dict[str, Any]


def told(notification: Told) -> tuple[str, str]:
    """Give a notification's sentence, and the page to look at or nothing."""
    words, address = WORDS.get(notification.kind, ("", ""))
    if not words:
        words = notification.kind.replace(".", ": ").replace("_", " ").capitalize() + "."
    if notification.kind.startswith(TASK) and notification.subject:
        address = f"/tasks/{notification.subject}"
    return words, address
