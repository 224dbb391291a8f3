"""What must hold when a journey has come to rest, whatever happened on its way.

Each check reads what the world can see (SQL read only, REST, the mailbox, the fakes' own books,
the log) and gives its findings as sentences, each with the name of its invariant in front. No
finding means that the invariant holds.
"""

import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from limner.core.clock import SystemClock
from limner.core.errors import LimnerError
from limner.core.objects import ObjectStore
from limner.core.signing import Signer
from limner.storage.objects.local import local_objects
from limner.storage.sql.aggregate import Leased
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.jobs import Job
from limner.storage.sql.tasks import Task
from tests.journeys.story import LLM_KEY, MAIL_PASSWORD, SECRET, Journey, Wish, wishes

MAX_BYTES = 100_000_000
MAGIC = {"image/png": b"\x89PNG\r\n\x1a\n", "video/webm": b"\x1a\x45\xdf\xa3"}
LEASED: tuple[type[Leased], ...] = (Task, Delivery, Job)
AT_REST = {"emailed", "failed", "cancelled", "expired", "unknown", "needs_review"}
FAILED_ON_PURPOSE = "FailpointReached"

Rows = list[dict[str, Any]]


class Books:
    """A home's database, read only."""

    def __init__(self, home: Path) -> None:
        self._path = home / "limner.db"

    def rows(self, sql: str, *values: Any) -> Rows:
        """Give the rows of a query."""
        connection = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)
        try:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql, values)]
        finally:
            connection.close()

    def count(self, sql: str, *values: Any) -> int:
        """Give the number of rows of a query."""
        return len(self.rows(sql, *values))


@dataclass(frozen=True)
class Allowed:
    """What a journey may leave behind.

    ``unknown``: so many mails or orders nobody can know of; ``failures``: whether failpoints that
    raise may show in the log as errors; ``dead``: reasons of dead letters that were provoked;
    ``logged``: what drivers log as errors about engines that were taken away.
    """

    unknown: int = 0
    failures: bool = False
    dead: frozenset[str] = frozenset()
    logged: tuple[str, ...] = ()


NOTHING = Allowed()


async def hold(journey: Journey, allowed: Allowed = NOTHING) -> None:
    """Check everything of a journey that has settled; stops its server.

    Raises:
        AssertionError: with all findings.
    """
    books = Books(journey.limner.home)
    findings = [finding async for finding in over_rest(books, journey)]
    await journey.limner.stop()
    findings += await findings_of(journey, allowed)
    assert not findings, "\n".join([*findings, journey.limner.stderr()[-3000:]])


async def findings_of(journey: Journey, allowed: Allowed = NOTHING) -> list[str]:
    """Give what is wrong in the books of a journey whose server has ended."""
    books, expected, found = Books(journey.limner.home), wishes(), list[str]()
    for check in (comments, rest, timelines, leases, jobs, audit):
        found += check(books, expected, allowed)
    found += mails(books, journey, allowed)
    found += orders(books, journey)
    found += outbox(books, allowed)
    found += [finding async for finding in objects(books, _folder(journey))]
    found += streams(books, journey)
    found += log(journey.limner.stderr_lines(), canaries(books, journey), allowed)
    return found


async def over_rest(books: Books, journey: Journey) -> Any:
    """I-REST: what the API shows of each task is what the books say, and its result opens."""
    limner = journey.limner
    for row in books.rows("SELECT id, state, result_key FROM tasks"):
        shown = await limner.get(f"/api/tasks/{row['id']}")
        if shown["state"] != row["state"]:
            yield f"I-REST {row['id']} is {row['state']} and shown as {shown['state']}"
        if row["result_key"]:
            status, content_type, content = await limner.fetch(shown["result_url"])
            if status != 200 or not content.startswith(MAGIC.get(content_type, b"?")):
                yield f"I-REST the result of {row['id']} opens with {status} {content_type}"
    second = await limner.listed("/api/comments")
    if len(second) != len(journey.world.feed.comments):
        yield f"I-REST {len(second)} comments are shown"


def comments(books: Books, expected: list[Wish], allowed: Allowed) -> Iterable[str]:
    """I-COM: each comment once, a task for each wish, none for the others, each as expected."""
    stored = Counter(row["external_id"] for row in books.rows("SELECT external_id FROM comments"))
    if stored != Counter(wish.id for wish in expected):
        yield f"I-COM the comments are {dict(stored)}"
    sources = books.count("SELECT 1 FROM sources")
    if sources != 1:
        yield f"I-COM there are {sources} sources"
    tasks = books.rows(
        "SELECT comments.external_id, tasks.state, tasks.error FROM tasks "
        "JOIN comments ON comments.id = tasks.comment_id AND comments.task_id = tasks.id"
    )
    states = {row["external_id"]: row["state"] for row in tasks}
    if len(states) != books.count("SELECT 1 FROM tasks"):
        yield "I-COM a comment has two tasks, or a task no comment"
    wanted = {wish.id for wish in expected if wish.expect in {"emailed", "needs_review"}}
    if set(states) != wanted:
        yield f"I-COM tasks for {sorted(states)}, wanted {sorted(wanted)}"
    unknown = [ident for ident, state in states.items() if state == "unknown"]
    if len(unknown) > allowed.unknown:
        yield f"I-COM unknown are {unknown}, allowed {allowed.unknown}"
    for row in tasks:
        wish = next((wish for wish in expected if wish.id == row["external_id"]), None)
        if wish and row["state"] not in {wish.expect, "unknown"}:
            yield f"I-COM {wish.id} shall be {wish.expect}, is {row['state']}: {row['error']}"
    for row in books.rows("SELECT external_id, state FROM comments WHERE task_id IS NULL"):
        wish = next((wish for wish in expected if wish.id == row["external_id"]), None)
        if wish and row["state"] != wish.expect:
            yield f"I-COM {wish.id} shall be {wish.expect}, is {row['state']}"


def rest(books: Books, _: list[Wish], __: Allowed) -> Iterable[str]:
    """I-TERM: everything has ended or visibly waits."""
    for row in books.rows("SELECT id, state FROM tasks"):
        if row["state"] not in AT_REST:
            yield f"I-TERM {row['id']} is {row['state']}"
    for row in books.rows("SELECT id, state FROM jobs"):
        if row["state"] not in Job.ended_states():
            yield f"I-TERM {row['id']} is {row['state']}"
    for row in books.rows("SELECT id, state FROM deliveries"):
        if row["state"] in {"pending", "sending"}:
            yield f"I-TERM {row['id']} is {row['state']}"
    for row in books.rows("SELECT poll_id, broken, last_error FROM sources"):
        if row["poll_id"] or row["broken"] or row["last_error"]:
            yield f"I-TERM the poll has not ended well: {row}"


def leases(books: Books, _: list[Wish], __: Allowed) -> Iterable[str]:
    """I-TERM: nobody holds anything."""
    for table in ("tasks", "jobs", "deliveries", "sources"):
        held = books.rows(f"SELECT id, state FROM {table} WHERE lease_until IS NOT NULL")  # noqa: S608
        if held:
            yield f"I-TERM leases are left in {table}: {held}"


def timelines(books: Books, _: list[Wish], __: Allowed) -> Iterable[str]:
    """I-MONO: each timeline, replayed, goes along allowed edges to the state of its row."""
    for model in (Task, Job):
        table = model._meta.db_table
        for row in books.rows(f"SELECT id, state, line_count FROM {table}"):  # noqa: S608
            lines = books.rows(
                "SELECT n, type, state FROM timeline WHERE object_id = ? ORDER BY id", row["id"]
            )
            yield from _replayed(model, row, lines)


def _replayed(model: type[Leased], row: Mapping[str, Any], lines: Rows) -> Iterable[str]:
    ident = row["id"]
    numbers = [line["n"] for line in lines]
    if numbers != list(range(1, row["line_count"] + 1)):
        yield f"I-MONO the numbers of {ident} are {numbers}, its counter is {row['line_count']}"
    states = [line["state"] for line in lines if line["type"] == "status"]
    for before, after in pairwise(states):
        if after not in model.transitions[before]:
            yield f"I-MONO {ident} went from {before} to {after}: {states}"
    if not states or states[0] not in {"pending", "queued"} or states[-1] != row["state"]:
        yield f"I-MONO {ident} is {row['state']}, its timeline says {states}"
    ends = [line for line in lines if line["type"] == "done"]
    if len(ends) != int(model.ended(row["state"])) or (ends and lines[-1] != ends[0]):
        yield f"I-MONO {ident} ({row['state']}) has {len(ends)} ends"


def jobs(books: Books, _: list[Wish], __: Allowed) -> Iterable[str]:
    """I-ONCE: one job per task that the generator made, and it succeeded if the task did."""
    made = Counter(row["task_id"] for row in books.rows("SELECT task_id FROM jobs"))
    local = {row["id"] for row in books.rows("SELECT id FROM tasks WHERE provider = 'local'")}
    if made != Counter(local):
        yield f"I-ONCE the generator made {made.total()} jobs for {len(local)} tasks"
    orphans = books.rows(
        "SELECT jobs.id FROM jobs JOIN tasks ON tasks.id = jobs.task_id "
        "WHERE tasks.state = 'emailed' AND jobs.state <> 'succeeded'"
    )
    if orphans:
        yield f"I-ONCE mailed without a job that succeeded: {orphans}"


def mails(books: Books, journey: Journey, allowed: Allowed) -> Iterable[str]:
    """I-MAIL: at most one copy per mail, one mail per emailed task, to the right address."""
    rows = books.rows("SELECT task_id, address, message_id, state FROM deliveries")
    by_state = Counter(row["state"] for row in rows)
    emailed = {
        row["id"]: row["email"]
        for row in books.rows("SELECT id, email FROM tasks WHERE state = 'emailed'")
    }
    sent = [row for row in rows if row["state"] == "sent"]
    if Counter(row["task_id"] for row in sent) != Counter(emailed.keys()):
        yield f"I-MAIL {len(sent)} mails sent for {len(emailed)} tasks emailed"
    if any(row["address"] != emailed.get(row["task_id"]) for row in sent):
        yield "I-MAIL a mail went to another address than its task's"
    if by_state["unknown"] > allowed.unknown or set(by_state) - {"sent", "unknown"}:
        yield f"I-MAIL the deliveries are {dict(by_state)}"
    hidden = books.rows(
        "SELECT deliveries.id FROM deliveries JOIN tasks ON tasks.id = deliveries.task_id "
        "WHERE deliveries.state = 'unknown' AND tasks.state <> 'unknown'"
    )
    if hidden:
        yield f"I-MAIL nobody sees that these are unknown: {hidden}"
    smtp = journey.world.smtp
    kept = Counter(row["message_id"] for row in books.rows("SELECT message_id FROM mailbox"))
    copies = smtp.copies if smtp is not None else kept
    cleared = journey.world.variant.clears
    if any(count > 1 for count in copies.values()):
        yield f"I-MAIL copies: {copies}"
    if cleared and kept:
        yield f"I-MAIL the mailbox was cleared and has {len(kept)} mails"
    known = {row["message_id"] for row in rows}
    certain = set() if cleared else {row["message_id"] for row in sent}
    if not certain <= set(copies) <= known:
        yield f"I-MAIL sent {len(certain)}, delivered {len(copies)}, deliveries {len(known)}"
    told = books.rows("SELECT subject FROM audit WHERE event = 'mail.sent'")
    if len(told) != len(sent):
        yield f"I-MAIL the audit log tells of {len(told)} mails, {len(sent)} were sent"


def orders(books: Books, journey: Journey) -> Iterable[str]:
    """I-ORDER: no provider made anything twice, and each task made there has its one order."""
    provider = journey.world.provider
    if provider is None:
        return
    if provider.duplicates or provider.complaints:
        yield f"I-ORDER twice: {provider.duplicates}; refused: {provider.complaints}"
    asked = {row["client_id"] for row in books.rows("SELECT client_id FROM tasks")} - {""}
    if set(provider.accepted) != asked:
        yield f"I-ORDER {len(provider.accepted)} orders were taken for {len(asked)} tasks"


def outbox(books: Books, allowed: Allowed) -> Iterable[str]:
    """I-OUT: nothing waits to be sent, nothing was given up."""
    waiting = books.rows("SELECT topic, attempt, due_at FROM outbox")
    if waiting:
        yield f"I-OUT the outbox has {waiting}"
    dead = books.rows("SELECT topic, reason, detail FROM dead_letters WHERE state = 'open'")
    surprising = [row for row in dead if row["reason"] not in allowed.dead]
    if surprising:
        yield f"I-OUT dead letters: {surprising}"


def _folder(journey: Journey) -> ObjectStore:
    signer = Signer([b"a key that signs nothing here, 32"])
    return local_objects(
        f"file://{journey.limner.home / 'objects'}", signer, "http://127.0.0.1", SystemClock()
    )


async def objects(books: Books, store: ObjectStore) -> Any:
    """I-OBJ: everything a row names is in the object store, whole and of its kind."""
    named: list[tuple[str, str, int]] = []
    for job in books.rows("SELECT outputs FROM jobs WHERE state = 'succeeded'"):
        outputs = json.loads(job["outputs"])
        if not outputs:
            yield "I-OBJ a job succeeded without outputs"
        named += [(one["key"], one["content_type"], one["size_bytes"]) for one in outputs]
        named += [(one["poster_key"], "image/png", 0) for one in outputs if "poster_key" in one]
    for task in books.rows("SELECT result_key, result_type FROM tasks WHERE state = 'emailed'"):
        named.append((task["result_key"], task["result_type"], 0))
    for mail in books.rows("SELECT raw_key, size_bytes FROM mailbox"):
        named.append((mail["raw_key"], "message/rfc822", mail["size_bytes"]))
    for key, content_type, size_bytes in named:
        try:
            info = await store.stat(key)
            content = await store.read(key, MAX_BYTES)
        except LimnerError as error:
            yield f"I-OBJ {key}: {error.detail}"
            continue
        if info.content_type != content_type or (size_bytes and len(content) != size_bytes):
            yield f"I-OBJ {key} is {info}, not {content_type} of {size_bytes} bytes"
        if not content.startswith(MAGIC.get(content_type, b"")):
            yield f"I-OBJ {key} is no {content_type}"


def audit(books: Books, _: list[Wish], __: Allowed) -> Iterable[str]:
    """I-AUDIT: the chain holds, reckoned anew from the columns; see docs/adr/0010."""
    before, last = "0" * 64, 0
    for row in books.rows("SELECT * FROM audit WHERE seq IS NOT NULL ORDER BY seq"):
        content = {name: row[name] for name in ("seq", "id", "event", "actor", "subject")}
        content |= {name: row[name] for name in ("request_id", "trace_id")}
        at = datetime.fromisoformat(row["at"]).isoformat(timespec="microseconds")
        content |= {"at": at, "data": json.loads(row["data"])}
        plain = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        before = hashlib.sha256(f"{before}{plain}".encode()).hexdigest()
        if row["seq"] != last + 1 or row["hash"] != before:
            yield f"I-AUDIT the chain breaks at {row['seq']}"
            return
        last = row["seq"]
    if not last:
        yield "I-AUDIT no line has been sealed"


def streams(books: Books, journey: Journey) -> Iterable[str]:
    """I-SSE: numbers rise within a connection, and nothing stored after the snapshot is missing."""
    for ident, listener in journey.listeners.items():
        stored = [
            row["n"]
            for row in books.rows("SELECT n FROM timeline WHERE object_id = ? ORDER BY n", ident)
        ]
        snapshots = [one.id for one in listener.heard if one.event == "snapshot"]
        numbered = [one.id for one in listener.heard if one.id and one.event != "snapshot"]
        if numbered != sorted(set(numbered)):
            yield f"I-SSE {ident} was told {numbered}"
        first = max(snapshots, default=0)
        if numbered != [n for n in stored if n > first]:
            yield f"I-SSE {ident} has {stored}, the client heard {snapshots} and {numbered}"
        ends = sum(one.event == "done" for one in listener.heard)
        if ends != (0 if listener.waits else 1):
            yield f"I-SSE {ident} was told {ends} ends"


def canaries(books: Books, journey: Journey, printed: str = "") -> set[str]:
    """Give what no line of a log may tell; ``printed`` is what other processes said on stdout."""
    signed_in = re.findall(r"/sign-in/(\S+)", journey.limner.stdout() + printed)
    found = {journey.limner.key, SECRET, MAIL_PASSWORD, LLM_KEY, *signed_in}
    return (found | {row["email"] for row in books.rows("SELECT email FROM tasks")}) - {""}


def log(lines: list[str], secret: set[str], allowed: Allowed) -> Iterable[str]:
    """I-LEAK: each line is JSON, tells no secret and no address, and of no defect."""
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            yield f"I-LEAK not JSON: {line[:300]}"
            continue
        if any(canary in line for canary in secret):
            yield f"I-LEAK tells a secret or an address: {line[:300]}"
        expected = (allowed.failures and FAILED_ON_PURPOSE in line) or any(
            words in line for words in allowed.logged
        )
        if told.get("level") in {"error", "critical"} and not expected:
            yield f"I-LEAK an error: {line[:1000]}"
