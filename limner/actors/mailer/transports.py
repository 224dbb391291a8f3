"""Which transport a mail URL's scheme picks: one line per adapter."""

from collections.abc import Callable

from limner.actors.mailer.mailbox import Mailbox
from limner.actors.mailer.message import is_domain, sender_address
from limner.actors.mailer.smtp import Smtp
from limner.actors.mailer.transport import Transport
from limner.actors.ports import Ports
from limner.core.errors import NotConfigured


def sender_domain(mail_from: str) -> str:
    """Give the host name of the sender's address, in ASCII: it ends every Message-ID.

    Raises:
        Invalid: ``mail_from`` holds no address.
    """
    domain = sender_address(mail_from).rpartition("@")[2]
    return domain if is_domain(domain) else "localhost"


def _mailbox(_: str, ports: Ports) -> Transport:
    return Mailbox(ports.database, ports.objects, ports.clock)


def _smtp(url: str, ports: Ports) -> Transport:
    return Smtp.from_url(
        url,
        domain=sender_domain(ports.settings.mail_from),
        production=ports.settings.environment == "production",
        clock=ports.clock,
    )


TRANSPORTS: dict[str, Callable[[str, Ports], Transport]] = {
    "mailbox": _mailbox,
    "smtp": _smtp,
    "smtps": _smtp,
}


def transport(url: str, ports: Ports) -> Transport:
    """Open the transport that ``LIMNER_MAIL_URL`` names.

    Raises:
        NotConfigured: no adapter has this scheme.
        Invalid: the URL is not well-formed.
    """
    scheme = url.partition(":")[0].lower()
    try:
        make = TRANSPORTS[scheme]
    except KeyError:
        known = ", ".join(f"{name}:" for name in TRANSPORTS)
        raise NotConfigured(
            f"LIMNER_MAIL_URL: {scheme!r} is no known transport; known are {known}",
            code="settings",
        ) from None
    return make(url, ports)
