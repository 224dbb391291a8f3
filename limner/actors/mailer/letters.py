"""Letters: turns a delivery into a mail, with its picture, its link and its way out."""

import asyncio
import io
from dataclasses import replace
from datetime import timedelta
from typing import Literal, cast

from PIL import Image

from limner.actors.mailer.accounts import PURPOSE, account_letter
from limner.actors.mailer.message import unsubscribe_headers
from limner.actors.mailer.rendering import Rendered, render_named, render_result
from limner.actors.mailer.transport import Attachment, Mail
from limner.core.clock import Clock
from limner.core.errors import Invalid, NotFound, TooLarge
from limner.core.objects import ObjectStore
from limner.core.signing import Signer
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.tasks import Task
from limner.storage.sql.tunables import TunableStore

PICTURE_CID = "picture@limner.invalid"
SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/webp": "webp"}


class Letters:
    """Writes mails."""

    def __init__(
        self,
        objects: ObjectStore,
        signer: Signer,
        tunables: TunableStore,
        clock: Clock,
        base_url: str,
        sender: str,
    ) -> None:
        self._objects = objects
        self._signer = signer
        self._tunables = tunables
        self._clock = clock
        self._base_url = base_url
        self._sender = sender

    async def write(self, delivery: Delivery, task: Task | None) -> Mail:
        """Give the mail of a delivery.

        Raises:
            Invalid: its template or variables do not fit.
            Permanent: it is about an account, and its link cannot be used any more.
        """
        if delivery.purpose == PURPOSE:
            rendered = await account_letter(delivery, self._signer, self._base_url, self._clock)
            return self._mail(delivery, rendered)
        token = self._signer.token("unsubscribe", {"address": delivery.address})
        unsubscribe_url = f"{self._base_url}/unsubscribe/{token}"
        attachments: tuple[Attachment, ...] = ()
        if task is not None:
            picture, width_px = await self._picture(task)
            attachments = (picture,) if picture else ()
            rendered = await self._result(task, width_px, unsubscribe_url)
        else:
            rendered = _message(delivery)
        headers = unsubscribe_headers(unsubscribe_url)
        return replace(self._mail(delivery, rendered), attachments=attachments, headers=headers)

    def _mail(self, delivery: Delivery, rendered: Rendered) -> Mail:
        return Mail(
            message_id=delivery.message_id,
            sender=self._sender,
            recipient=delivery.address,
            subject=rendered.subject,
            text=rendered.text,
            html=rendered.html or None,
        )

    async def _result(self, task: Task, picture_width_px: int, unsubscribe_url: str) -> Rendered:
        ttl_s = (await self._tunables.current()).result_link_ttl_s
        link = self._signer.token(
            "result",
            {"task": task.id},
            self._clock.now() + timedelta(seconds=ttl_s),
        )
        return render_result(
            language="zh" if task.language == "zh" else "en",
            kind=cast("Literal['image', 'video']", task.media),
            prompt=task.prompt,
            result_url=f"{self._base_url}/r/{link}",
            expires_in_s=ttl_s,
            unsubscribe_url=unsubscribe_url,
            picture_cid=PICTURE_CID if picture_width_px else None,
            picture_width_px=picture_width_px,
        )

    async def _picture(self, task: Task) -> tuple[Attachment | None, int]:
        """Give the picture, or a video's first frame, with its width in pixels.

        There is none if it is missing, too large, or nothing that a mail can show: the link
        leads to it all the same.
        """
        key = task.result_key if task.media == "image" else task.poster_key
        limit = (await self._tunables.current()).inline_picture_max_bytes
        if not key or not limit:
            return None, 0
        try:
            info = await self._objects.stat(key)
            content = await self._objects.read(key, limit)
        except (NotFound, TooLarge):
            return None, 0
        suffix = SUFFIXES.get(info.content_type)
        width_px = await asyncio.to_thread(_width_px, content) if suffix else 0
        if not width_px:
            return None, 0
        name = f"{task.media}.{suffix}"
        return Attachment(name, info.content_type, content, cid=PICTURE_CID), width_px


def _message(delivery: Delivery) -> Rendered:
    variables = {name: str(value) for name, value in delivery.variables.items()}
    language = variables.pop("language", "en")
    if delivery.template:
        return render_named(delivery.template, language, variables)
    if not variables.get("subject") or not variables.get("text"):
        raise Invalid("the delivery has neither a template nor a text")
    return Rendered(variables["subject"], variables["text"], variables.get("html", ""))


def _width_px(content: bytes) -> int:
    """Read the width from the header, 0 if there is none; the mail shows no picture wider."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "GIF", "WEBP")) as it:
            return it.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0
