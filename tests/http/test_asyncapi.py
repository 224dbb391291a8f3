"""The description of the messages: whole, its references sound, its schemas those that validate."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # ships no types

from limner.actors import registry
from limner.actors.mailer.messages import Send
from limner.actors.poller.messages import Poll
from limner.core.message import Event
from limner.http.asyncapi import document


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return document(registry.messages(), "1.2.3")


def references(value: Any) -> list[str]:
    """Give every reference in a document."""
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for one in value.values() for ref in references(one)]
    if isinstance(value, list):
        return [ref for one in value for ref in references(one)]
    return []


def test_it_says_what_it_is(described: dict[str, Any]) -> None:
    assert described["asyncapi"] == "3.0.0"
    assert described["info"]["version"] == "1.2.3"
    assert described["defaultContentType"] == "application/json"


def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    found = references(described)
    assert found
    for reference in found:
        place: Any = described
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_every_command_has_a_channel_and_who_may_send_it(described: dict[str, Any]) -> None:
    messages = registry.messages()
    addresses = {channel["address"] for channel in described["channels"].values()}
    assert {message.topic for message in messages} <= addresses
    public = {
        one["name"]
        for one in described["components"]["messages"].values()
        if {"name": "public"} in one.get("tags", [])
    }
    assert public == {message.topic for message in messages if message.public}
    assert "mailer.send" in public


def test_channels_say_where_messages_go(described: dict[str, Any]) -> None:
    command = described["channels"]["poller_poll"]["bindings"]["amqp"]["exchange"]
    event = described["channels"]["task_events"]["bindings"]["amqp"]["exchange"]
    assert (command["name"], event["name"]) == ("limner.commands", "limner.events")


def test_every_message_has_an_example_that_is_one(described: dict[str, Any]) -> None:
    for name, message in described["components"]["messages"].items():
        whole = {**message["payload"], "components": described["components"]}
        for example in message["examples"]:
            Draft202012Validator(whole).validate(example["payload"])
            assert name == "event" or example["headers"]["message_id"]


def test_two_actors_may_have_a_message_of_the_same_name(described: dict[str, Any]) -> None:
    messages = described["components"]["messages"]
    assert messages["mailer_reconcile"]["payload"] != messages["submitter_reconcile"]["payload"]


@pytest.mark.parametrize(
    ("name", "body", "is_valid"),
    [
        ("poller_poll", Poll(source_id="source_1").model_dump(), True),
        ("poller_poll", {"source_id": "source_1", "surprise": 1}, False),
        ("poller_poll", {}, False),
        ("mailer_send", Send(to="a@x.test", subject="s", text="t").model_dump(), True),
        ("mailer_send", {"subject": "s"}, False),
    ],
)
def test_the_schema_takes_what_the_class_takes(
    described: dict[str, Any], name: str, body: dict[str, Any], is_valid: bool
) -> None:
    schema = described["components"]["messages"][name]["payload"]
    whole = {**schema, "components": described["components"]}
    assert Draft202012Validator(whole).is_valid(body) is is_valid


def test_without_messages_the_events_are_left() -> None:
    described = document([], "1")
    assert all(name.endswith("_events") for name in described["channels"])
    assert set(described["components"]["messages"]) == {"event"}
    assert Event.__name__ in described["components"]["schemas"]
