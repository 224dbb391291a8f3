"""A provider on loopback that takes orders, makes them slowly and misbehaves on request.

``async with FakeProvider() as provider: provider.submits("busy", "ok")`` answers the first
submission 429 and all further ones properly. It is strict: an order that does not look as
``config()`` maps it is refused with 422 and kept in ``complaints``. ``accepted`` counts, for each
of our ids, how many jobs were made for it: more than one is what must never happen.
"""

import asyncio
import struct
import zlib
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp
from aiohttp import web

Submission = Literal[
    "ok",  # takes the order
    "sync",  # takes it and has it made at once
    "busy",  # 429 with Retry-After
    "away",  # 503
    "refuses",  # 400 with a reason
    "broken",  # 500, order not taken
    "broken_after",  # 500, order taken
    "loses",  # takes the order and closes the connection without an answer
    "drops",  # closes the connection without having taken it
    "hangs",  # never answers, order not taken
    "late",  # never answers, and takes the order once ``release()`` was called
    "no_id",  # takes the order and does not say under which id
    "html",  # takes the order and answers with a page
    "conflict",  # 409: this key is being worked on
]
Answering = Literal["ok", "busy", "broken", "drops", "hangs", "html", "odd", "huge"]
Ending = Literal["done", "error", "never", "flaps"]
Serving = Literal["png", "html", "huge", "missing", "gone", "busy", "empty", "inside", "nothing"]

STATES = ("queued", "processing")
HUGE_BYTES = 6_000_000
PIECE = bytes(65_536)


def png(width: int = 2, height: int = 2, grey: int = 128) -> bytes:
    """Give a valid picture of one grey (PNG specification, sections 5 and 11)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = (b"\0" + bytes([grey]) * width) * height
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@dataclass
class FakeJob:
    """One order that was taken."""

    id: str
    client_id: str
    prompt: str
    kind: str
    callback_url: str
    checks: int = 0
    state: str = "queued"


class FakeProvider:
    """The server.

    ``polls`` checks come before the end of a job. ``honours_keys``: an order under a key that is
    known gives the job of the first. ``token``: demanded as bearer token, if not empty.
    """

    def __init__(
        self, *, polls: int = 2, honours_keys: bool = False, token: str = "", port: int = 0
    ) -> None:
        self.polls = polls
        self.honours_keys = honours_keys
        self.token = token
        self.ending: Ending = "done"
        self.serving: Serving = "png"
        self.retry_after = "7"
        self.calls_back = False
        self.finds_jobs = True
        self.picture = png()
        self.jobs: dict[str, FakeJob] = {}
        self.accepted: Counter[str] = Counter()
        self.submissions: list[str] = []
        self.checks: list[str] = []
        self.lookups: list[str] = []
        self.complaints: list[str] = []
        self.called_back: list[int] = []
        self._port = port
        self._submit_script: deque[Submission] = deque()
        self._submit_then: Submission = "ok"
        self._status_script: deque[Answering] = deque()
        self._status_then: Answering = "ok"
        self._lookup_script: deque[Answering] = deque()
        self._released = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None
        self.host = ""

    @property
    def url(self) -> str:
        """Give the base URL."""
        return f"http://{self.host}"

    def config(self, **changes: Any) -> dict[str, Any]:
        """Give the mapping that fits this provider; None leaves a key out."""
        mapping: dict[str, Any] = {
            "base_url": self.url,
            "submit_path": "/v1/jobs",
            "status_path": "/v1/jobs/{id}",
            "lookup_path": "/v1/jobs?client_id={id}",
            "request": {
                "client_id": "$.id",
                "input": {"prompt": "$.prompt", "type": "$.kind"},
                "callback": "$.callback_url",
            },
            "job_id": "$.id",
            "status": "$.status",
            "status_map": {
                "queued": "pending",
                "processing": "running",
                "done": "succeeded",
                "error": "failed",
            },
            "result_url": "$.output.url",
            "error": "$.message",
            "idempotent": self.honours_keys,
        }
        if self.token:
            mapping["headers"] = {"Authorization": "Bearer secret:acme"}
        mapping.update(changes)
        return {name: value for name, value in mapping.items() if value is not None}

    def submits(self, *modes: Submission, then: Submission = "ok") -> None:
        """Treat the next submissions so, and all others as ``then``."""
        self._submit_script, self._submit_then = deque(modes), then

    def answers(self, *modes: Answering, then: Answering = "ok") -> None:
        """Answer the next status checks so, and all others as ``then``."""
        self._status_script, self._status_then = deque(modes), then

    def looks_up(self, *modes: Answering) -> None:
        """Answer the next look-ups so, all others properly."""
        self._lookup_script = deque(modes)

    def release(self) -> None:
        """Let the orders arrive that came ``late``."""
        self._released.set()

    @property
    def duplicates(self) -> dict[str, int]:
        """Give our ids under which more than one job was made."""
        return {ident: count for ident, count in self.accepted.items() if count > 1}

    async def finish(self, job_id: str) -> None:
        """End a job now and, if the provider calls back, call."""
        job = self.jobs[job_id]
        job.state = "error" if self.ending == "error" else "done"
        if self.calls_back and job.callback_url:
            async with (
                aiohttp.ClientSession() as session,
                session.post(
                    job.callback_url, json={"id": job.id, "status": job.state}
                ) as answered,
            ):
                self.called_back.append(answered.status)

    async def settled(self) -> None:
        """Wait until no late order and no callback is on its way."""
        await asyncio.gather(*tuple(self._tasks))

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/jobs", self._submit)
        app.router.add_get("/v1/jobs", self._lookup)
        app.router.add_get("/v1/jobs/{id}", self._status)
        app.router.add_get("/files/{name}", self._serve)
        # A request that hangs is dropped at once when the test is over.
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.01, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self.host = "{}:{}".format(*self._runner.addresses[0][:2])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*tuple(self._tasks), return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()

    # Submitting

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        key = request.headers.get("Idempotency-Key", "")
        body = await request.json() if request.content_type == "application/json" else None
        problem = self._problem(request, key, body)
        if problem:
            self.complaints.append(problem)
            return web.json_response({"message": problem}, status=422)
        self.submissions.append(key)
        mode = self._submit_script.popleft() if self._submit_script else self._submit_then
        return await self._play(mode, request, key, body)

    async def _play(
        self, mode: Submission, request: web.Request, key: str, body: Any
    ) -> web.StreamResponse:
        refusals: dict[str, tuple[int, str]] = {
            "busy": (429, "too many orders"),
            "away": (503, "closed for repairs"),
            "refuses": (400, "the prompt is not allowed"),
            "broken": (500, "it broke"),
            "conflict": (409, "this key is being worked on"),
        }
        if mode in refusals:
            code, text = refusals[mode]
            headers = {"Retry-After": self.retry_after} if mode == "busy" else None
            return web.json_response({"message": text}, status=code, headers=headers)
        if mode == "late":
            self._start(self._take_later(key, body))
        if mode in {"late", "hangs"}:
            await asyncio.Event().wait()
        if mode == "drops":
            return _cut(request)
        job = self._take(key, body)
        if mode == "loses":
            return _cut(request)
        if mode == "broken_after":
            return web.json_response({"message": "it broke"}, status=500)
        if mode == "no_id":
            return web.json_response({"status": job.state}, status=202)
        if mode == "html":
            return web.Response(text="<html>thank you</html>", content_type="text/html")
        if mode == "sync":
            job.state = "done"
        return web.json_response(self._described(job), status=202)

    def _take(self, key: str, body: Mapping[str, Any]) -> FakeJob:
        if self.honours_keys:
            for job in self.jobs.values():
                if job.client_id == key:
                    return job
        self.accepted[key] += 1
        job = FakeJob(
            id=f"job/{len(self.jobs) + 1}",
            client_id=key,
            prompt=body["input"]["prompt"],
            kind=body["input"]["type"],
            callback_url=body.get("callback", ""),
        )
        self.jobs[job.id] = job
        return job

    async def _take_later(self, key: str, body: Mapping[str, Any]) -> None:
        await self._released.wait()
        self._take(key, body)

    def _problem(self, request: web.Request, key: str, body: Any) -> str:
        if not self._is_known(request):
            return "the bearer token is wrong"
        if not key:
            return "no Idempotency-Key"
        if not isinstance(body, dict) or set(body) != {"client_id", "input", "callback"}:
            return f"the body is not an order: {body!r}"
        if body["client_id"] != key:
            return "the body names another id than the header"
        wish = body["input"]
        if not isinstance(wish.get("prompt"), str) or not wish["prompt"]:
            return "no prompt"
        return "" if wish.get("type") in {"image", "video"} else f"no kind: {wish.get('type')!r}"

    def _is_known(self, request: web.Request) -> bool:
        return not self.token or request.headers.get("Authorization") == f"Bearer {self.token}"

    # Asking

    async def _status(self, request: web.Request) -> web.StreamResponse:
        ident = request.match_info["id"]
        self.checks.append(ident)
        mode = self._status_script.popleft() if self._status_script else self._status_then
        odd = await self._odd_answer(mode, request)
        if odd is not None:
            return odd
        job = self.jobs.get(ident)
        if job is None or not self._is_known(request):
            return web.json_response({"message": "no such job"}, status=404)
        job.checks += 1
        self._advance(job)
        return web.json_response(self._described(job))

    async def _lookup(self, request: web.Request) -> web.StreamResponse:
        ident = request.query.get("client_id", "")
        self.lookups.append(ident)
        mode = self._lookup_script.popleft() if self._lookup_script else "ok"
        odd = await self._odd_answer(mode, request)
        if odd is not None:
            return odd
        found = [self._described(job) for job in self.jobs.values() if job.client_id == ident]
        if not found and not self.finds_jobs:
            return web.json_response({"message": "not found"}, status=404)
        return web.json_response({"data": found, "next": None})

    async def _odd_answer(self, mode: Answering, request: web.Request) -> web.StreamResponse | None:
        match mode:
            case "busy":
                headers = {"Retry-After": self.retry_after}
                return web.json_response({"message": "slow down"}, status=429, headers=headers)
            case "broken":
                return web.json_response({"message": "it broke"}, status=500)
            case "drops":
                return _cut(request)
            case "hangs":
                await asyncio.Event().wait()
                raise AssertionError
            case "html":
                return web.Response(text="<html>maintenance</html>", content_type="text/html")
            case "odd":
                return web.json_response({"id": "job/1", "status": "thinking"})
            case "huge":
                return web.Response(body=bytes(HUGE_BYTES), content_type="application/json")
            case _:
                return None

    def _advance(self, job: FakeJob) -> None:
        if job.state in {"done", "error"}:
            return
        if self.ending == "flaps":
            job.state = STATES[job.checks % 2]
        elif self.ending == "never" or job.checks <= self.polls:
            job.state = STATES[min(1, job.checks - 1)]
        else:
            job.state = "error" if self.ending == "error" else "done"

    def _described(self, job: FakeJob) -> dict[str, Any]:
        described: dict[str, Any] = {"id": job.id, "status": job.state}
        if job.state == "done" and self.serving != "nothing":
            name = job.id.replace("/", "-")
            inside = "http://169.254.169.254/latest/meta-data"
            described["output"] = {"url": inside if self.serving == "inside" else f"/files/{name}"}
        if job.state == "error":
            described["message"] = "the  prompt was\nnot understood"
        return described

    # Serving

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        match self.serving:
            case "html":
                return web.Response(text="<html>sign in</html>", content_type="image/png")
            case "missing":
                return web.Response(status=404)
            case "gone":
                return web.Response(status=403)
            case "busy":
                return web.Response(status=503)
            case "empty":
                return web.Response(content_type="image/png")
            case "huge":
                return await self._serve_endlessly(request)
            case _:
                # As many servers do: the type says nothing, the bytes do.
                return web.Response(body=self.picture, content_type="application/octet-stream")

    async def _serve_endlessly(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(self.picture)
        try:
            while True:
                await answer.write(PIECE)
        except ConnectionError:
            return answer

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _cut(request: web.Request) -> web.StreamResponse:
    """Close the connection without a word."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
