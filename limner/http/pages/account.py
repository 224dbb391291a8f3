"""The pages of one's own account: profile and data here, the rest beside."""

import asyncio
from typing import Any

from aiohttp import web

from limner.core.defaults import OwnDefaults
from limner.core.errors import LimnerError
from limner.http.api import me
from limner.http.api.export import export
from limner.http.auth import cookies
from limner.http.auth.csrf import read_form
from limner.http.body import Form
from limner.http.call import Call
from limner.http.pages.account_keys import ROUTES as KEY_ROUTES
from limner.http.pages.account_notifications import ROUTES as NOTIFICATION_ROUTES
from limner.http.pages.account_rooms import DATA, PROFILE, RoomQuery, room, seen
from limner.http.pages.account_security import ROUTES as SECURITY_ROUTES
from limner.http.pages.account_sessions import ROUTES as SESSION_ROUTES
from limner.http.pages.declared import READ, WRITE, posted_to, shown_at
from limner.http.pages.form_state import EMPTY, FormState, fitted, refused
from limner.http.pages.rendering import see_other
from limner.http.results import link_to_avatar
from limner.http.routes import Result
from limner.storage.sql.accounts import User, active_user
from limner.storage.sql.providers import Provider

LANGUAGES = (("en", "English"), ("de", "Deutsch"), ("ru", "Русский"), ("zh", "中文"))
AS_SERVICE = ("", "as the service does")
PROVIDERS_SHOWN = 400
LOCAL = ("local", "the model on this server")


class ProfileForm(Form):
    """Who one is."""

    name: str = ""
    language: str = ""
    timezone: str = ""


class DefaultsForm(Form):
    """What counts for one's own sources; an empty field means the service's setting."""

    image_provider: str = ""
    video_provider: str = ""
    keywords: str = ""
    confidence_threshold: str = ""

    def wanted(self) -> dict[str, object]:
        """Give the values as the API takes them: keywords one a line, and null for none."""
        words = [line.strip() for line in self.keywords.splitlines() if line.strip()]
        return {
            "image_provider": self.image_provider or None,
            "video_provider": self.video_provider or None,
            "keywords": words or None,
            "confidence_threshold": self.confidence_threshold.strip() or None,
        }


class FarewellForm(Form):
    """The password, once more."""

    password: str = ""


async def show(call: Call, query: RoomQuery) -> Result:
    """Show the profile."""
    return await _profile(call, done=query.done)


async def change(call: Call) -> Result:
    """Change name, language and time zone."""
    typed = await read_form(call, ProfileForm)
    try:
        await me.change(call, fitted(me.MePatch, **typed.model_dump()))
    except LimnerError as error:
        return await _profile(call, refused(error, typed))
    return seen(PROFILE, "profile")


async def choose(call: Call) -> Result:
    """Choose what counts for one's own sources."""
    typed = await read_form(call, DefaultsForm)
    try:
        await me.change(call, me.MePatch(defaults=fitted(OwnDefaults, **typed.wanted())))
    except LimnerError as error:
        return await _profile(call, defaults_form=refused(error, typed))
    return seen(PROFILE, "defaults")


async def show_data(call: Call) -> Result:
    """Show how to take one's data along, and how to go."""
    return await _data(call)


async def take_along(call: Call) -> Result:
    """Give the export of the account as a file."""
    await read_form(call, Form)
    return await export(call)


async def delete(call: Call) -> Result:
    """Delete the account."""
    typed = await read_form(call, FarewellForm)
    try:
        await me.leave(call, typed.password or None)
    except LimnerError as error:
        return await _data(call, refused(error, names={"password_wrong": "password"}))
    response = see_other("/login?done=deleted")
    cookies.clear(call.front, response)
    return response


async def _profile(
    call: Call, form: FormState = EMPTY, *, defaults_form: FormState = EMPTY, done: str = ""
) -> web.Response:
    user = await active_user(call.caller.id)
    zones = sorted(await asyncio.to_thread(me.timezones))
    providers = await _providers()
    return await room(
        call,
        "account_profile.html",
        PROFILE,
        form if form.has_faults else defaults_form,
        done=done,
        user=user,
        avatar_url=await link_to_avatar(call, user),
        profile_form=form if form.has_faults else _profile_of(user),
        defaults_form=defaults_form if defaults_form.has_faults else _defaults_of(user),
        languages=LANGUAGES,
        zones=[(zone, zone.replace("_", " ")) for zone in zones],
        image_providers=_choices(providers, "image"),
        video_providers=_choices(providers, "video"),
    )


def _profile_of(user: User) -> FormState:
    return FormState({"name": user.name, "language": user.language, "timezone": user.timezone})


def _defaults_of(user: User) -> FormState:
    stored: dict[str, Any] = dict(user.defaults)
    stored["keywords"] = "\n".join(stored.get("keywords", ()))
    return FormState({name: str(value) for name, value in stored.items()})


async def _providers() -> list[tuple[str, str]]:
    """Give the providers that may be chosen, each with what it makes."""
    rows = Provider.filter(state="active").order_by("name").limit(PROVIDERS_SHOWN)
    return [(str(name), str(media)) for name, media in await rows.values_list("name", "media")]


def _choices(providers: list[tuple[str, str]], kind: str) -> list[tuple[str, str]]:
    """Give who can make this kind, as choices."""
    names = [name for name, media in providers if media in {kind, "both"}]
    return [AS_SERVICE, LOCAL, *((name, name) for name in names)]


async def _data(call: Call, form: FormState = EMPTY) -> web.Response:
    user = await active_user(call.caller.id)
    return await room(call, "account_data.html", DATA, form, has_password=user.has_password)


ROUTES = [
    shown_at(PROFILE, show, "Show my profile", READ, query=RoomQuery),
    posted_to(PROFILE, change, "Change my profile", WRITE),
    posted_to(f"{PROFILE}/defaults", choose, "Choose for my sources", WRITE),
    shown_at(DATA, show_data, "Show what can be done with my data", READ),
    posted_to(f"{DATA}/export", take_along, "Get my data", READ),
    posted_to(f"{DATA}/delete", delete, "Delete my account", WRITE),
    *SECURITY_ROUTES,
    *SESSION_ROUTES,
    *KEY_ROUTES,
    *NOTIFICATION_ROUTES,
]
