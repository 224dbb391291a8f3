"""The AsyncAPI 3.0 description of what travels over the broker, made from the message classes."""

from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from limner.core.message import BODY_LIMIT_BYTES, Event, Message
from limner.http.examples import AT, DIGITS, Examples

REF = "#/components/schemas/{model}"
EVENTS = {
    "task": "a task has reached a state",
    "job": "a job has reached a state, made progress or has a preview",
    "file": "a file has reached a state",
    "post": "a post has reached a state",
    "schedule": "a schedule has fired",
    "session": "a session was revoked",
    "notification": "there is something that a person shall know",
}
EVENT_EXAMPLE = {
    "id": DIGITS,
    "type": "task.emailed",
    "at": AT,
    "user_id": f"user_{DIGITS}",
    "subject": {"kind": "task", "id": f"task_{DIGITS}"},
    "data": {"state": "emailed"},
}
PROPERTIES = {
    "type": "object",
    "required": ["message_id"],
    "properties": {
        "message_id": {
            "type": "string",
            "description": "The idempotency key: a repeat is dropped for 14 days.",
        },
        "type": {"type": "string", "description": "Defaults to the routing key."},
        "content_type": {"type": "string", "const": "application/json"},
        "app_id": {"type": "string"},
        "correlation_id": {"type": "string"},
        "traceparent": {"type": "string"},
    },
}


def document(
    messages: Sequence[type[Message]], version: str, broker_host: str = "localhost:5672"
) -> dict[str, Any]:
    """Give the description of ``messages``, the commands, and of the events."""
    commands = [message for message in messages if message.topic]
    described: list[type[Message]] = [*commands, Event]
    references, whole = models_json_schema(
        [(message, "validation") for message in described], ref_template=REF
    )
    schemas = whole.get("$defs", {})
    examples = Examples(schemas)
    channels, operations = _traffic(commands)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Limner",
            "version": version,
            "description": "Commands cause and have one consumer; events announce. Bodies are "
            f"JSON of at most {BODY_LIMIT_BYTES} bytes.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {"broker": {"host": broker_host, "protocol": "amqp"}},
        "channels": channels,
        "operations": operations,
        "components": {
            "schemas": schemas,
            "messages": {
                **{
                    _name(message.topic): _message(message, references, examples)
                    for message in commands
                },
                "event": {
                    "name": "event",
                    "summary": "Something has happened",
                    "headers": PROPERTIES,
                    "payload": references[Event, "validation"],
                    "examples": [{"payload": EVENT_EXAMPLE}],
                },
            },
        },
    }


def _traffic(commands: Sequence[type[Message]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the channels of commands and events, and what is done with them."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for message in commands:
        name = _name(message.topic)
        channels[name] = _command_channel(message)
        actor = message.topic.split(".")[0]
        operations[f"receive_{name}"] = _operation("receive", name, f"The {actor} acts")
    for kind, summary in EVENTS.items():
        name = f"{kind}_events"
        channels[name] = _event_channel(kind, summary)
        operations[f"send_{name}"] = _operation("send", name, f"Announce that {summary}")
    return channels, operations


def _name(topic: str) -> str:
    return topic.replace(".", "_")


def _message(message: type[Message], references: Any, examples: Examples) -> dict[str, Any]:
    payload = references[message, "validation"]
    return {
        "name": message.topic,
        "summary": (message.__doc__ or "").strip().partition("\n")[0],
        "headers": PROPERTIES,
        "payload": payload,
        "examples": [
            {"headers": {"message_id": DIGITS}, "payload": examples.of(payload)},
        ],
        "tags": [{"name": "public" if message.public else "internal"}],
    }


def _command_channel(message: type[Message]) -> dict[str, Any]:
    name = _name(message.topic)
    return {
        "address": message.topic,
        "description": "Public: any producer may send it."
        if message.public
        else "Internal: it carries ids of this service's own records.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": _binding("limner.commands"),
    }


def _event_channel(kind: str, summary: str) -> dict[str, Any]:
    return {
        "address": f"{kind}.{{what}}",
        "description": f"Tells that {summary}.",
        "parameters": {"what": {"description": "The state or what else has happened"}},
        "messages": {"event": {"$ref": "#/components/messages/event"}},
        "bindings": _binding("limner.events"),
    }


def _binding(exchange: str) -> dict[str, Any]:
    return {
        "amqp": {
            "is": "routingKey",
            "exchange": {"name": exchange, "type": "topic", "durable": True},
            "bindingVersion": "0.3.0",
        }
    }


def _operation(action: str, channel: str, summary: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
    }
