"""Finished tasks whose mails shall go out, and what the mailbox got of them."""

import io
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from PIL import Image

from limner.actors.mailer.messages import Deliver
from limner.actors.ports import Ports
from limner.core.ids import new_id
from limner.storage.sql.deliveries import Delivery, create_delivery
from limner.storage.sql.mailbox import MailboxMail
from limner.storage.sql.tasks import Task

ADDRESS = "reader@example.org"
DOMAIN = "limner.test"


def picture(width: int = 96, height: int = 64) -> bytes:
    """Give a small PNG."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 40, 40)).save(file, "PNG")
    return file.getvalue()


async def finished(ports: Ports, *, address: str = ADDRESS, **fields: Any) -> Task:
    """Store a task whose picture is there."""
    task = Task(
        **{
            "id": new_id("task"),
            "state": "succeeded",
            "user_id": "user_1",
            "comment_id": new_id("comment"),
            "source_id": "source_1",
            "email": address,
            "prompt": "a red fox in the snow",
            "result_key": f"results/{new_id('object')}.png",
            "result_type": "image/png",
            **fields,
        }
    )
    if task.media == "image" and task.result_key:
        await ports.objects.put(task.result_key, picture(), "image/png", size_limit_bytes=100_000)
    work = ports.units.open("test")
    work.add(task)
    await ports.units.commit(work)
    return task


async def mailed(ports: Ports, task: Task, attempt: int = 1) -> Delivery:
    """Store the delivery of a task and tell the mailer."""
    work = ports.units.open("test")
    delivery = create_delivery(work, task, DOMAIN, attempt)
    work.send(Deliver(delivery_id=delivery.id))
    await ports.units.commit(work)
    return delivery


async def kept(ports: Ports) -> list[EmailMessage]:
    """Give the mails in the mailbox, oldest first."""
    rows = await MailboxMail.all().order_by("created_at", "id")
    raw = [await ports.objects.read(row.raw_key, 10_000_000) for row in rows]
    return [message_from_bytes(each, policy=policy.default) for each in raw]


def words(mail: EmailMessage, kind: str = "plain") -> str:
    """Give the text or the HTML of a mail."""
    body = mail.get_body((kind,))
    assert body is not None, f"there is no {kind} part"
    return str(body.get_content())
