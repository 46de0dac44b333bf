"""A small HTTP server that speaks the part of Ray's jobs API that `submit` uses, and fails when a test wants it to."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.ports import free_port


@dataclass
class Job:
    """One job: its log grows by a line each time somebody reads it, until it ends with `exit_code`."""

    submission: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    status: str = "RUNNING"
    exit_code: int | None = None


@dataclass
class JobsServer:
    """What the server does, and what it was asked."""

    port: int
    token: str = ""
    script: list[tuple[str, int]] = field(default_factory=list)
    """For each job: its log, and its exit code (0: SUCCEEDED, -1: STOPPED)."""
    cuts: int = 0
    """Number of log connections that are cut after one line."""
    silences: int = 0
    """Number of log connections that do not answer after one line, until another one comes or 5 seconds are over."""
    refusals: int = 0
    """Number of requests that are answered with 503, after the first log connection."""
    loses_jobs: bool = False
    """Forget all jobs after the first log connection, as a head that is started again does."""
    jobs: dict[str, Job] = field(default_factory=dict)
    attached: int = 0
    uploaded: int = 0

    def app(self) -> web.Application:
        """The routes of Ray's dashboard."""
        app = web.Application(middlewares=[self._guard], client_max_size=1 << 30)
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/jobs/", self._list)
        app.router.add_post("/api/jobs/", self._submit)
        app.router.add_get("/api/jobs/{job}", self._info)
        app.router.add_post("/api/jobs/{job}/stop", self._stop)
        app.router.add_get("/api/jobs/{job}/logs/tail", self._tail)
        app.router.add_get("/api/packages/{protocol}/{name}", self._no_package)
        app.router.add_put("/api/packages/{protocol}/{name}", self._upload)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.token and self.token not in request.headers.get("Authorization", ""):
            return web.Response(status=401, text="Unauthorized: Missing or invalid authentication token")
        if self.attached and self.refusals:
            self.refusals -= 1
            return web.Response(status=503, text="the head is starting")
        return await handler(request)

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2.60.0", "ray_commit": "x"})

    async def _no_package(self, request: web.Request) -> web.Response:
        return web.Response(status=404)

    async def _upload(self, request: web.Request) -> web.Response:
        self.uploaded = len(await request.read())
        return web.Response()

    async def _submit(self, request: web.Request) -> web.Response:
        name = f"raysubmit_{len(self.jobs)}"
        self.jobs[name] = Job(await request.json())
        return web.json_response({"job_id": name, "submission_id": name})

    def _details(self, name: str) -> dict[str, Any]:
        job = self.jobs[name]
        return {
            "type": "SUBMISSION",
            "submission_id": name,
            "status": job.status,
            "entrypoint": job.submission["entrypoint"],
            "metadata": job.submission.get("metadata"),
            "message": f"the driver ended with {job.exit_code}",
            "driver_exit_code": job.exit_code,
        }

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response([self._details(name) for name in self.jobs])

    async def _info(self, request: web.Request) -> web.Response:
        name = request.match_info["job"]
        if name not in self.jobs:
            return web.Response(status=404, text=f"Job {name} does not exist")
        return web.json_response(self._details(name))

    async def _stop(self, request: web.Request) -> web.Response:
        self.jobs[request.match_info["job"]].status = "STOPPED"
        return web.json_response({"stopped": True})

    async def _tail(self, request: web.Request) -> web.StreamResponse:
        self.attached += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        name = request.match_info["job"]
        job = self.jobs.get(name)
        if job is None:
            return socket
        text, code = self.script[min(int(name.rpartition("_")[2]), len(self.script) - 1)]
        for line in text.splitlines(keepends=True):
            await socket.send_str(line)
            if self.silences:
                self.silences -= 1
                attached, until = self.attached, time.monotonic() + 5
                while attached == self.attached and time.monotonic() < until:
                    await asyncio.sleep(0.05)  # without `receive` it answers no ping
            if self.cuts and line in text.splitlines(keepends=True)[self.attached - 1 :]:
                self.cuts -= 1
                if self.loses_jobs:
                    self.jobs = {f"lost_{number}": old for number, old in enumerate(self.jobs.values())}
                    for old in self.jobs.values():
                        old.status = "FAILED"
                request.transport.abort()  # type: ignore[union-attr]
                return socket
        job.exit_code = max(code, 0)
        job.status = {0: "SUCCEEDED", -1: "STOPPED"}.get(code, "FAILED")
        await socket.close()
        return socket


@contextmanager
def running_jobs_server(secure: ssl.SSLContext | None = None, **options: Any) -> Iterator[JobsServer]:
    """Starts the server in a thread, and stops it at the end."""
    server = JobsServer(free_port(), **options)
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(server.app())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", server.port, ssl_context=secure).start()
        started.set()
        return runner

    runner: list[web.AppRunner] = []

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner.append(loop.run_until_complete(start()))
        loop.run_forever()
        loop.run_until_complete(runner[0].cleanup())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
