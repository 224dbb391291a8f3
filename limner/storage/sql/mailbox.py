"""The mailbox: mails kept in the database instead of being sent, for development and the demo."""

from tortoise import fields
from tortoise.models import Model

from limner.storage.sql.aggregate import ID_LENGTH


class MailboxMail(Model):
    """A mail as it would have gone out, message_id is unique, so that a repeat is none."""

    id = fields.CharField(ID_LENGTH, primary_key=True)
    message_id = fields.CharField(255, unique=True)
    sender = fields.CharField(320)
    recipient = fields.CharField(320, db_index=True)
    subject = fields.CharField(998, default="")
    raw_key = fields.CharField(512)
    size_bytes = fields.IntField()
    created_at = fields.DatetimeField(db_index=True)

    class Meta:
        table = "mailbox"
