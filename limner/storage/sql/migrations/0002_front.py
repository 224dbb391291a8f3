import functools
from json import dumps, loads

from tortoise import fields, migrations
from tortoise.indexes import Index
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    dependencies = [("limner", "0001_initial")]

    initial = False

    operations = [
        ops.CreateModel(
            name="ActionLink",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=48),
                ),
                ("user_id", fields.CharField(db_index=True, max_length=48)),
                ("purpose", fields.CharField(max_length=24)),
                ("email", fields.CharField(default="", max_length=320)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                (
                    "expires_at",
                    fields.DatetimeField(db_index=True, auto_now=False, auto_now_add=False),
                ),
                ("used_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "action_links",
                "app": "limner",
                "pk_attr": "id",
                "table_description": "A link for one use, for one person and one purpose.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Authorization",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=48),
                ),
                ("provider", fields.CharField(max_length=16)),
                ("state_sha256", fields.CharField(unique=True, max_length=64)),
                ("browser_sha256", fields.CharField(max_length=64)),
                ("sealed", fields.BinaryField()),
                ("redirect", fields.CharField(default="", max_length=500)),
                ("linking_user_id", fields.CharField(null=True, max_length=48)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                (
                    "expires_at",
                    fields.DatetimeField(db_index=True, auto_now=False, auto_now_add=False),
                ),
                ("used_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "authorizations",
                "app": "limner",
                "pk_attr": "id",
                "table_description": "A sign-in that was begun at a provider: state and browser by hash, used once.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="IdempotentRequest",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=48),
                ),
                ("user_id", fields.CharField(default="", max_length=48)),
                ("fingerprint", fields.CharField(max_length=64)),
                ("token", fields.IntField(default=1)),
                ("lease_until", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("status", fields.IntField(null=True)),
                ("answer_sealed", fields.BinaryField(null=True)),
                (
                    "created_at",
                    fields.DatetimeField(db_index=True, auto_now=False, auto_now_add=False),
                ),
            ],
            options={
                "table": "idempotent_requests",
                "app": "limner",
                "pk_attr": "id",
                "table_description": "One key of one account: under way while it has a lease, answered when it has a status.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Identity",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=48),
                ),
                ("user_id", fields.CharField(db_index=True, max_length=48)),
                ("provider", fields.CharField(max_length=16)),
                ("issuer", fields.CharField(max_length=255)),
                ("subject", fields.CharField(max_length=255)),
                ("email", fields.CharField(default="", max_length=320)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                (
                    "last_used_at",
                    fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
                ),
            ],
            options={
                "table": "identities",
                "app": "limner",
                "unique_together": (("issuer", "subject"),),
                "pk_attr": "id",
                "table_description": "An account at an OAuth provider that belongs to one of ours.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Notification",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=48),
                ),
                ("user_id", fields.CharField(max_length=48)),
                ("kind", fields.CharField(max_length=64)),
                ("subject", fields.CharField(default="", max_length=48)),
                (
                    "data",
                    fields.JSONField(
                        default=dict,
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("read_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "notifications",
                "app": "limner",
                "indexes": [Index(fields=["user_id", "created_at"]), Index(fields=["created_at"])],
                "pk_attr": "id",
                "table_description": "One thing to know, kind says which, data what it is about.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="RecoveryCode",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=48),
                ),
                ("user_id", fields.CharField(max_length=48)),
                ("sha256", fields.CharField(max_length=64)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("used_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "recovery_codes",
                "app": "limner",
                "unique_together": (("user_id", "sha256"),),
                "pk_attr": "id",
                "table_description": "A code, only its hash is stored.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="RefreshToken",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=48),
                ),
                ("session_id", fields.CharField(db_index=True, max_length=48)),
                ("user_id", fields.CharField(db_index=True, max_length=48)),
                ("sha256", fields.CharField(unique=True, max_length=64)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                (
                    "expires_at",
                    fields.DatetimeField(db_index=True, auto_now=False, auto_now_add=False),
                ),
                ("used_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={
                "table": "refresh_tokens",
                "app": "limner",
                "pk_attr": "id",
                "table_description": "A refresh token of a session, used once, a second use revokes the session.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Session",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=48),
                ),
                ("user_id", fields.CharField(db_index=True, max_length=48)),
                ("kind", fields.CharField(max_length=8)),
                ("sha256", fields.CharField(null=True, unique=True, max_length=64)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("last_seen_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("idle_until", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                (
                    "expires_at",
                    fields.DatetimeField(db_index=True, auto_now=False, auto_now_add=False),
                ),
                ("revoked_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("revoked_because", fields.CharField(default="", max_length=64)),
                ("signed_in_by", fields.CharField(default="", max_length=32)),
                ("user_agent", fields.CharField(default="", max_length=255)),
                ("address", fields.CharField(default="", max_length=64)),
            ],
            options={
                "table": "sessions",
                "app": "limner",
                "pk_attr": "id",
                "table_description": "One signed-in browser or program, only the hash of a browser's token is stored.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="SigningKey",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=48),
                ),
                ("algorithm", fields.CharField(default="ES256", max_length=16)),
                (
                    "public",
                    fields.JSONField(
                        encoder=functools.partial(dumps, separators=(",", ":")), decoder=loads
                    ),
                ),
                ("private_sealed", fields.BinaryField()),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("signs_from", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                (
                    "expires_at",
                    fields.DatetimeField(
                        null=True, db_index=True, auto_now=False, auto_now_add=False
                    ),
                ),
            ],
            options={
                "table": "signing_keys",
                "app": "limner",
                "pk_attr": "id",
                "table_description": "An ES256 key pair, the kid of its tokens is in its public half.",
            },
            bases=["Model"],
        ),
        ops.AddIndex(
            model_name="Comment",
            index=Index(fields=["state", "updated_at"]),
        ),
        ops.AddIndex(
            model_name="Job",
            index=Index(fields=["user_id", "created_at"]),
        ),
        ops.AlterModelOptions(
            name="Suppression",
            options={
                "table": "suppressions",
                "app": "limner",
                "pk_attr": "id",
                "table_description": "One address, lower case, or its hash, reason is unsubscribed, bounced, complained, manual.",
            },
        ),
        ops.AddIndex(
            model_name="Task",
            index=Index(fields=["user_id", "created_at"]),
        ),
        ops.AddField(
            model_name="User",
            name="avatar_key",
            field=fields.CharField(default="", max_length=255),
        ),
        ops.AddField(
            model_name="User",
            name="defaults",
            field=fields.JSONField(
                default=dict, encoder=functools.partial(dumps, separators=(",", ":")), decoder=loads
            ),
        ),
        ops.AddField(
            model_name="User",
            name="language",
            field=fields.CharField(default="en", max_length=16),
        ),
        ops.AddField(
            model_name="User",
            name="last_sign_in_at",
            field=fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
        ),
        ops.AddField(
            model_name="User",
            name="password_hash",
            field=fields.CharField(null=True, max_length=255),
        ),
        ops.AddField(
            model_name="User",
            name="timezone",
            field=fields.CharField(default="UTC", max_length=64),
        ),
        ops.AddField(
            model_name="User",
            name="totp_enabled_at",
            field=fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
        ),
        ops.AddField(
            model_name="User",
            name="totp_last_step",
            field=fields.BigIntField(default=0),
        ),
        ops.AddField(
            model_name="User",
            name="totp_sealed",
            field=fields.BinaryField(null=True),
        ),
        ops.AddField(
            model_name="User",
            name="verified_at",
            field=fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
        ),
    ]
