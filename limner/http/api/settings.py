"""Settings that change while the service runs, their history, and secrets nobody reads back."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, RootModel
from pydantic_core import CoreSchema

from limner.actors.submitter.rules import LOCAL
from limner.core.errors import Invalid, NotFound
from limner.core.tunables import Tunables
from limner.http.body import Form
from limner.http.call import Call
from limner.http.listing import Listing, Page, page_of, rows_of
from limner.http.routes import Result, Route
from limner.storage.sql.aggregate import ID_LENGTH
from limner.storage.sql.providers import NAME_LENGTH, Provider
from limner.storage.sql.tunables import SECRET_NAME, TunableChange

HISTORY_SHOWN = 10
HISTORY_READ = 1000
SECRET_LENGTH = 10_000


class ChangeOut(BaseModel):
    """One change of one setting; null means the default."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    before: Any
    after: Any
    at: datetime
    by: str


class SettingOut(BaseModel):
    """A setting: its value, where that comes from, and its latest changes, newest first."""

    value: Any
    default: Any
    source: str
    updated_at: datetime | None
    updated_by: str | None
    description: str | None
    history: list[ChangeOut]


class SettingsOut(RootModel[dict[str, SettingOut]]):
    """All settings by name."""


class SettingsIn(RootModel[dict[str, Any]]):
    """The settings to change, by name; null sets the default again."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = Tunables.model_json_schema()
        properties = {
            name: {"anyOf": [one, {"type": "null"}]} for name, one in schema["properties"].items()
        }
        return {
            "type": "object",
            "description": "The settings to change; null sets the default again.",
            "properties": properties,
            "additionalProperties": False,
        }


class HistoryQuery(Listing):
    """Filters of the history."""

    name: str | None = None


class Revert(Form):
    """The change to take back."""

    change_id: Annotated[str, Field(max_length=ID_LENGTH)]


class SecretIn(Form):
    """A secret's value."""

    value: Annotated[str, Field(min_length=1, max_length=SECRET_LENGTH)]


class SecretOut(BaseModel):
    """What is known of a secret; never its value."""

    name: str
    updated_at: datetime


class SecretsOut(BaseModel):
    """All secrets by name."""

    data: list[SecretOut]
    next_cursor: None = None


async def shown(call: Call) -> SettingsOut:
    """Give all settings with their sources and latest changes."""
    latest: dict[str, list[ChangeOut]] = defaultdict(list)
    for change in await TunableChange.all().order_by("-at", "-id").limit(HISTORY_READ):
        if len(latest[change.name]) < HISTORY_SHOWN:
            latest[change.name].append(ChangeOut.model_validate(change))
    described = await call.front.tunables.describe()
    return SettingsOut(
        {name: SettingOut(**line, history=latest.get(name, [])) for name, line in described.items()}
    )


async def show(call: Call) -> Result:
    """Show all."""
    return await shown(call)


async def put(call: Call, body: SettingsIn) -> Result:
    """Change the named ones, all or none."""
    await _change(call, body.root)
    return await shown(call)


async def _change(call: Call, changes: dict[str, Any]) -> None:
    await check_providers(changes)
    work = call.work()
    await call.front.tunables.put(work, changes, call.caller.id)
    work.audit("settings.changed", data={"names": sorted(changes)})
    await call.commit(work, taken="somebody else has changed them just now")


async def check_providers(changes: Mapping[str, Any], place: str = "") -> None:
    """Return if the providers that are named exist and make what they shall.

    ``place`` is the JSON Pointer of ``changes`` in the body.

    Raises:
        Invalid: one does not.
    """
    faults = []
    for setting, kind in (("image_provider", "image"), ("video_provider", "video")):
        name = changes.get(setting)
        if isinstance(name, str) and name != LOCAL:
            makes: dict[str, Any] = {"state": "active", "media__in": [kind, "both"]}
            # A name longer than its column is nobody's.
            if len(name) > NAME_LENGTH or not await Provider.exists(name=name, **makes):
                faults.append((f"{place}/{setting}", f"no provider of this name makes {kind}s"))
    if faults:
        raise Invalid("the settings are not valid", faults=faults)


async def history(call: Call, query: HistoryQuery) -> Result:
    """List the changes."""
    rows = await rows_of(TunableChange.filter(**query.filters()), query, "at")
    return page_of(call, query, rows, ChangeOut.model_validate, "at")


async def revert(call: Call, body: Revert) -> Result:
    """Set a setting to what it was before a change."""
    change = await TunableChange.get_or_none(id=body.change_id)
    if change is None or change.name not in Tunables.model_fields:
        raise NotFound("there is no such change")
    await _change(call, {change.name: change.before})
    return await shown(call)


async def put_secret(call: Call, body: SecretIn) -> Result:
    """Store a secret."""
    name = call.param("name")
    if not SECRET_NAME.fullmatch(name):
        raise Invalid("a secret's name has 1 to 64 letters, digits, dots, dashes and underscores")
    work = call.work()
    await call.front.secrets.put(work, name, body.value, call.caller.id)
    work.audit("secret.stored", data={"name": name})
    await call.commit(work, taken="somebody else has stored it just now")
    return None


async def secrets(call: Call) -> Result:
    """List the names."""
    names = await call.front.secrets.names()
    return SecretsOut(data=[SecretOut(**one) for one in names])


ROUTES = [
    Route("GET", "/api/settings", show, "Show the settings", "settings:read", answer=SettingsOut),
    Route(
        "PUT",
        "/api/settings",
        put,
        "Change the settings that are named",
        "settings:write",
        answer=SettingsOut,
        body=SettingsIn,
    ),
    Route(
        "GET",
        "/api/settings/history",
        history,
        "List the changes of settings",
        "settings:read",
        answer=Page[ChangeOut],
        query=HistoryQuery,
    ),
    Route(
        "POST",
        "/api/settings/revert",
        revert,
        "Take a change back",
        "settings:write",
        answer=SettingsOut,
        body=Revert,
        also={404: "There is no such change"},
    ),
    Route(
        "GET",
        "/api/settings/secrets",
        secrets,
        "List the names of the secrets",
        "settings:read",
        answer=SecretsOut,
    ),
    Route(
        "PUT",
        "/api/settings/secrets/{name}",
        put_secret,
        "Store a secret; it is never shown again",
        "settings:write",
        status=204,
        body=SecretIn,
    ),
]
