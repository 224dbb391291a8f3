"""The registry: which actors there are, what they may be told, and what each costs to import."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from limner.actors import registry
from limner.actors.generator.messages import Generate
from limner.actors.mailer.messages import Send
from limner.actors.registry import ACTORS, EVERYWHERE, builder, chosen, messages
from limner.core.actor import Actor
from limner.core.errors import Invalid
from limner.core.message import Message
from tests.fakes.ports import open_ports


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("all", tuple(ACTORS)),
        ("none", ()),
        ("mailer", ("mailer", "relay", "sweeper")),
        (" mailer , poller ", ("poller", "mailer", "relay", "sweeper")),
        ("sweeper", ("relay", "sweeper")),
        ("mailer,mailer", ("mailer", "relay", "sweeper")),
    ],
)
def test_names_choose_actors_and_those_that_run_everywhere(
    text: str, names: tuple[str, ...]
) -> None:
    assert chosen(text) == names


@pytest.mark.parametrize("text", ["", "mailers", "mailer,painter", "All", "mailer,none"])
def test_an_unknown_name_is_named_with_those_there_are(text: str) -> None:
    with pytest.raises(Invalid, match="no such actor") as caught:
        chosen(text)
    assert caught.value.code == "usage"
    assert all(name in caught.value.detail for name in ACTORS)


async def test_every_actor_can_be_built_under_its_name(tmp_path: Path, migrated_file: Path) -> None:
    async with open_ports(tmp_path, migrated=migrated_file) as ports:
        for name in ACTORS:
            actor: Actor[Message] = builder(name)(ports)
            assert actor.name == name
            assert actor.handlers or actor.loops
            assert all(topic.startswith(f"{name}.") for topic in actor.handlers)
            if actor.close is not None:
                await actor.close()


async def test_every_message_has_exactly_one_actor_that_takes_it(
    tmp_path: Path, migrated_file: Path
) -> None:
    taken: list[str] = []
    async with open_ports(tmp_path, migrated=migrated_file) as ports:
        for name in ACTORS:
            actor = builder(name)(ports)
            taken += actor.handlers
            if actor.close is not None:
                await actor.close()
    assert sorted(taken) == [message.topic for message in messages()]


def test_messages_are_known_by_topic_and_two_are_public() -> None:
    known = messages()
    assert [message.topic for message in known] == sorted({message.topic for message in known})
    assert [message for message in known if message.public] == [Generate, Send]
    assert all(message.topic.partition(".")[0] in ACTORS for message in known)


def test_only_some_actors_messages_can_be_asked_for() -> None:
    assert {message.topic.partition(".")[0] for message in messages(["mailer"])} == {"mailer"}
    assert messages(EVERYWHERE) == messages(["sweeper"])
    assert messages([]) == []


def test_a_messages_module_that_cannot_be_imported_is_no_missing_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "an_actor_with_a_fault"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "messages.py").write_text("import a_driver_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.ACTORS, "faulty", "an_actor_with_a_fault.actor")
    with pytest.raises(ModuleNotFoundError, match="a_driver_that_is_not_there"):
        messages(["faulty"])


BUILD_ALL_BUT_THE_GENERATOR = """
import asyncio, sys
from pathlib import Path
import limner.app
from limner.actors import registry
from limner.core.settings import Settings
from limner.storage.sql import schema

async def main():
    settings = Settings(home=Path(sys.argv[1]))
    async with limner.app.open_engines(settings, check_schema=False) as engines:
        await schema.migrate(engines.ports.database)
        for name in registry.ACTORS:
            if name != "generator":
                actor = registry.builder(name)(engines.ports)
                if actor.close is not None:
                    await actor.close()
    registry.messages()

asyncio.run(main())
heavy = {"onnxruntime", "av", "blurhash_rs", "limner.actors.generator.actor"}
print(sorted(heavy & set(sys.modules)))
"""


async def test_a_process_that_does_not_generate_never_imports_the_models_runtime(
    tmp_path: Path,
) -> None:
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", BUILD_ALL_BUT_THE_GENERATOR, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "[]"
