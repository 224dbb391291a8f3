"""The sentences of the mails about accounts, in both languages.

None holds what a person wrote, not even their name: whoever registers with somebody else's address
would have us send that person their words.
"""

from dataclasses import dataclass

from limner.actors.mailer.phrases import Language


@dataclass(frozen=True, slots=True)
class Words:
    """A mail: subject, what has happened, the link's label if there is a link, and what if not."""

    subject: str
    lead: str
    otherwise: str
    open: str = ""


EXPIRY: dict[Language, str] = {
    "en": "This link works once, for {duration}.",
    "zh": "此链接仅可使用一次，在 {duration}内有效。",
}
WHY: dict[Language, str] = {
    "en": "This mail is about your account and was sent automatically.",
    "zh": "此邮件与您的账号有关，由系统自动发送。",
}

ACCOUNT_WORDS: dict[str, dict[Language, Words]] = {
    "verify-email": {
        "en": Words(
            subject="Confirm your mail address",
            lead="Somebody, probably you, has registered at Limner with this address. Open the "
            "link to confirm that it is yours.",
            open="Confirm the address",
            otherwise="If that was not you, do nothing: without the link nobody gets in.",
        ),
        "zh": Words(
            subject="请确认您的邮箱地址",
            lead="有人（可能是您）用此邮箱地址在 Limner 注册了账号。请打开链接，确认这是您的邮箱。",
            open="确认邮箱地址",
            otherwise="如果不是您本人，请忽略此邮件：没有此链接，任何人都无法登录。",
        ),
    },
    "reset-password": {
        "en": Words(
            subject="Set a new password",
            lead="Somebody, probably you, has asked for a new password of your account at Limner.",
            open="Set a new password",
            otherwise="If that was not you, do nothing: your password stays as it is.",
        ),
        "zh": Words(
            subject="设置新密码",
            lead="有人（可能是您）请求为您的 Limner 账号设置新密码。",
            open="设置新密码",
            otherwise="如果不是您本人，请忽略此邮件：您的密码不会改变。",
        ),
    },
    "change-email": {
        "en": Words(
            subject="Confirm your new mail address",
            lead="An account at Limner shall have this address from now on. Open the link to "
            "confirm that it is yours.",
            open="Confirm the new address",
            otherwise="If you did not ask for that, do nothing: the address is not changed.",
        ),
        "zh": Words(
            subject="请确认新的邮箱地址",
            lead="一个 Limner 账号将改用此邮箱地址。请打开链接，确认这是您的邮箱。",
            open="确认新的邮箱地址",
            otherwise="如果您没有提出此请求，请忽略此邮件：邮箱地址不会改变。",
        ),
    },
    "already-registered": {
        "en": Words(
            subject="You have an account already",
            lead="Somebody, probably you, has tried to use this address for an account at Limner. "
            "It has one already: sign in with it.",
            otherwise="If you forgot the password, have a link sent at the sign-in page. If it was "
            "not you, do nothing: your account is as it was.",
        ),
        "zh": Words(
            subject="您已有账号",
            lead="有人（可能是您）想用此邮箱地址在 Limner 使用账号，但该地址已有账号，请直接登录。",
            otherwise="如果忘记了密码，请在登录页面申请重设链接。如果不是您本人，请忽略此邮件："
            "您的账号没有任何变化。",
        ),
    },
    "password-changed": {
        "en": Words(
            subject="Your password was changed",
            lead="The password of your account at Limner was changed, and everybody else who was "
            "signed in to it was signed out.",
            otherwise="If that was not you, set a new password at once: have a link sent at the "
            "sign-in page.",
        ),
        "zh": Words(
            subject="您的密码已更改",
            lead="您的 Limner 账号密码已更改，其他已登录的设备均已退出。",
            otherwise="如果不是您本人操作，请立即在登录页面申请链接，重新设置密码。",
        ),
    },
    "email-change-asked": {
        "en": Words(
            subject="Your mail address shall be changed",
            lead="Somebody who is signed in to your account at Limner wants it to have another "
            "address. It counts as soon as that address is confirmed.",
            otherwise="If that was not you, set a new password now, with a link from the sign-in "
            "page: that also stops the change.",
        ),
        "zh": Words(
            subject="您的邮箱地址即将更改",
            lead="有人登录了您的 Limner 账号，并请求更改邮箱地址。新地址确认后即生效。",
            otherwise="如果不是您本人，请立即在登录页面申请链接，重新设置密码，更改也会随之取消。",
        ),
    },
    "email-changed": {
        "en": Words(
            subject="Your mail address was changed",
            lead="Your account at Limner has another address from now on. This one gets no more "
            "mails about it.",
            otherwise="If that was not you, write to whoever runs this service.",
        ),
        "zh": Words(
            subject="您的邮箱地址已更改",
            lead="您的 Limner 账号已改用另一个邮箱地址，此邮箱不再收到相关邮件。",
            otherwise="如果不是您本人操作，请联系本服务的运营者。",
        ),
    },
    "second-factor-changed": {
        "en": Words(
            subject="Your second factor was changed",
            lead="How you sign in to your account at Limner was changed: a second factor was "
            "added, replaced or removed, or new recovery codes were made.",
            otherwise="If that was not you, set a new password at once: have a link sent at the "
            "sign-in page.",
        ),
        "zh": Words(
            subject="您的两步验证已更改",
            lead="您的 Limner 账号的登录方式有变化：两步验证被启用、更换或关闭，"
            "或生成了新的恢复码。",
            otherwise="如果不是您本人操作，请立即在登录页面申请链接，重新设置密码。",
        ),
    },
}
