"""Sending to a fake server as the tests of this folder do it."""

from dataclasses import replace

import pytest

from limner.actors.mailer.session import Limits
from limner.actors.mailer.smtp import Smtp
from limner.actors.mailer.transport import Attachment, Mail
from limner.core.errors import LimnerError
from tests.fakes.smtp import FakeSmtp

MAIL = Mail(
    message_id="<task_1.result.1@limner.test>",
    sender="Limner <limner@limner.test>",
    recipient="reader@example.org",
    subject="Your picture is ready",
    text="Here it is.",
)
# More than the kernel takes for a reader that has stopped (loopback: about 6 MB).
BULK = replace(
    MAIL, attachments=(Attachment("a.bin", "application/octet-stream", b"\xff" * 12_000_000),)
)
# One short limit at a time, so that a slow machine cannot end another phase than the one meant.
PATIENT = Limits(connect_s=30, command_s=30, content_s=30, answer_s=30, quit_s=30)
IMPATIENT: dict[str, Limits] = {
    **dict.fromkeys(("greeting", "ehlo", "starttls"), replace(PATIENT, connect_s=0.3)),
    **dict.fromkeys(("mail", "rcpt", "data"), replace(PATIENT, command_s=0.3)),
    "body": replace(PATIENT, content_s=0.8),
    "dot": replace(PATIENT, answer_s=0.3),
    "quit": replace(PATIENT, quit_s=0.3),
}


async def send(server: FakeSmtp, mail: Mail = MAIL, limits: Limits = PATIENT) -> str:
    return (await Smtp.from_url(server.url, limits=limits).send(mail)).reply


async def failure(server: FakeSmtp, mail: Mail = MAIL, *, stalls: str | None = None) -> LimnerError:
    """Send what will fail; ``stalls`` is the phase whose time limit shall be short."""
    with pytest.raises(LimnerError) as caught:
        await send(server, mail, IMPATIENT[stalls] if stalls else PATIENT)
    error = caught.value
    assert error.__cause__ is None
    for said in (str(error), error.detail, str(vars(error))):
        assert "reader" not in said
        assert "limner@" not in said
    return error
