"""Intent: reads a comment and decides whether it is a wish, for whom, and how sure that is.

Layer 1 are the rules, which need nothing. Layer 2 is a language model, asked only about comments
that the rules took for a wish with an address, and only while its monthly budget lasts.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from limner.actors.intent.messages import Read
from limner.actors.intent.prompting import Decision, Extraction, cache_key, chat, reconcile
from limner.actors.intent.rules import Reading, Rules
from limner.actors.ports import Ports
from limner.actors.submitter.messages import Submit
from limner.core.actor import Actor
from limner.core.clock import Clock
from limner.core.defaults import with_defaults
from limner.core.errors import EngineUnavailable, LimnerError, NotFound
from limner.core.ids import new_id
from limner.core.llm import ChatModel
from limner.core.logs import get_logger
from limner.core.metrics import Metrics
from limner.core.tunables import Tunables
from limner.core.unit import UnitOfWork
from limner.storage.sql.comments import Comment
from limner.storage.sql.language import LanguageAnswer, month_of, remember, spent_tokens
from limner.storage.sql.sources import Source
from limner.storage.sql.tasks import PENDING, PROMPT_LENGTH, Task
from limner.storage.sql.tunables import TunableStore
from limner.storage.sql.users import own_defaults

log = get_logger("intent")

COMPILED_LIMIT = 64
"""Sets of words that rules are kept compiled for: the settings' and those of some owners."""

Words = tuple[tuple[str, ...], tuple[str, ...]]


class Reader:
    """Decides what a text asks for; shared by the actor and the tester page."""

    def __init__(
        self, tunables: TunableStore, llm: ChatModel, clock: Clock, metrics: Metrics
    ) -> None:
        self._tunables = tunables
        self._llm = llm
        self._clock = clock
        self._metrics = metrics
        self._compiled: OrderedDict[Words, Rules] = OrderedDict()

    async def decide(
        self, text: str, work: UnitOfWork | None, own: Mapping[str, Any] | None = None
    ) -> tuple[Reading, Decision, str]:
        """Give what the rules read, the decision, and who made it: ``rules`` or the model's name.

        What the model answered and cost is stored in ``work``, if there is one. ``own`` are what
        the owner of the source has chosen in place of the settings.
        """
        tunables = with_defaults(await self._tunables.current(), own or {})
        reading = self._rules(tunables).read(text)
        if reading.verdict not in {"task", "needs_review"} or not self._llm.configured:
            return reading, reconcile(reading, None), "rules"
        try:
            answer = await self._ask(text, tunables, work)
        except EngineUnavailable:
            raise
        except LimnerError as error:
            self._metrics.llm_requests.labels("failed").inc()
            log.warning("the language model did not help", code=error.code, error=error.detail)
            return reading, _for_review(reading, error.code), "rules"
        decision = reconcile(reading, answer, tunables.confidence_threshold)
        return reading, decision, self._llm.name if answer else "rules"

    def _rules(self, tunables: Tunables) -> Rules:
        words = (tunables.keywords, tunables.deny_words)
        rules = self._compiled.pop(words, None) or Rules(*words)
        self._compiled[words] = rules
        if len(self._compiled) > COMPILED_LIMIT:
            self._compiled.popitem(last=False)
        return rules

    async def _ask(
        self, text: str, tunables: Tunables, work: UnitOfWork | None
    ) -> Extraction | None:
        """Give the stored or a fresh answer; None when the month's budget is spent."""
        key = cache_key(self._llm.name, text)
        stored = await LanguageAnswer.get_or_none(id=key)
        if stored is not None:
            self._metrics.llm_requests.labels("cached").inc()
            return Extraction.model_validate(stored.answer)
        now = self._clock.now()
        if await spent_tokens(month_of(now)) >= tunables.llm_monthly_tokens:
            self._metrics.llm_requests.labels("over_budget").inc()
            log.warning("the month's budget of the language model is spent; the rules decide")
            return None
        reply = await self._llm.ask(
            chat(text), Extraction, "extraction", timeout_s=tunables.llm_timeout_s
        )
        self._metrics.llm_requests.labels("answered").inc()
        if work is not None:
            tokens = reply.prompt_tokens + reply.completion_tokens
            work.step(remember(key, reply.content.model_dump(mode="json"), tokens, now))
        return reply.content

    async def test(self, text: str) -> dict[str, object]:
        """Read ``text`` as a comment would be, without making anything of it."""
        reading, decision, decided_by = await self.decide(text, None)
        return {
            "verdict": decision.verdict,
            "reason": decision.reason,
            "confidence": decision.confidence,
            "decided_by": decided_by,
            "keyword": reading.keyword,
            "denied_by": reading.denied_by,
            "addresses": list(reading.addresses),
            "email": decision.email,
            "prompt": decision.prompt,
            "kind": decision.kind,
            "language": reading.language,
        }


class Intent:
    """Turns comments into tasks."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def handle(self, message: Read, work: UnitOfWork) -> None:
        """Decide about a fresh comment, or take on its task that is pending again."""
        comment = await Comment.found(message.comment_id)
        if comment is None:
            raise NotFound(f"there is no comment {message.comment_id}")
        work.follow(comment.trace_id)
        task = await Task.get_or_none(comment_id=comment.id)
        if task is not None and task.state != PENDING:
            return
        if task is not None and task.prompt and task.email:
            work.move(task, expected=PENDING, to="extracted", detail="taken on again")
            work.send(Submit(task_id=task.id))
            return
        own = await own_defaults(comment.user_id)
        reading, decision, decided_by = await self._reader.decide(comment.text, work, own)
        if decision.verdict in {"ignored", "no_address"} and task is None:
            work.move(
                comment, expected="new", to=decision.verdict, reason=(decision.reason or "")[:255]
            )
            return
        if task is None:
            task = _task_of(comment, await _provider_of(comment.source_id))
            work.add(task)
            work.move(comment, expected="new", to="task", task_id=task.id)
        self._settle(task, reading, decision, decided_by, work)

    def _settle(
        self, task: Task, reading: Reading, decision: Decision, decided_by: str, work: UnitOfWork
    ) -> None:
        found: dict[str, Any] = {
            "prompt": decision.prompt[:PROMPT_LENGTH],
            "email": decision.email or "",
            "media": decision.kind,
            "language": reading.language,
            "confidence": decision.confidence,
        }
        too_long = len(decision.prompt) > PROMPT_LENGTH
        if decision.verdict == "task" and not too_long:
            work.move(
                task, expected=PENDING, to="extracted", detail=f"decided by {decided_by}", **found
            )
            work.send(Submit(task_id=task.id))
        else:
            reason = decision.reason or ("prompt too long" if too_long else decision.verdict)
            work.move(task, expected=PENDING, to="needs_review", detail=reason, **found)

    async def abandon(self, message: Read, reason: str, work: UnitOfWork) -> None:
        """Fail a pending task whose comment could not be read again."""
        task = await Task.get_or_none(comment_id=message.comment_id)
        if task is not None and task.state == PENDING:
            work.move(task, expected=PENDING, to="failed", detail=reason, error=reason[:1000])


async def _provider_of(source_id: str) -> str:
    """Give the provider that the source's options name; empty: the setting decides."""
    source = await Source.found(source_id)
    return str(source.options.get("provider", "")) if source else ""


def _task_of(comment: Comment, provider: str) -> Task:
    return Task(
        id=new_id("task"),
        state=PENDING,
        user_id=comment.user_id,
        trace_id=comment.trace_id,
        comment_id=comment.id,
        source_id=comment.source_id,
        comment_text=comment.text,
        author=comment.author,
        provider=provider,
    )


def _for_review(reading: Reading, code: str) -> Decision:
    """Give what the rules found to a person, because the model could not be asked."""
    return Decision(
        "needs_review", reading.email, reading.prompt, reading.kind, 0.0, f"no answer: {code}"
    )


def build(ports: Ports) -> Actor[Read]:
    """Intent needs the settings and, if configured, a language model."""
    reader = Reader(ports.tunables, ports.llm, ports.clock, ports.metrics)
    return Actor(name="intent", inbox=Read, handler=Intent(reader))
