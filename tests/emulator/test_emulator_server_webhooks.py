"""Webhook deliveries of the emulator's server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from helpers.emulator_server import BALANCE, FETCH, other_server, running_emulator

from modelslab_async.emulator import Fault, Rule


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        (None, ["success"]),
        (Fault.WEBHOOK_TWICE, ["success", "success"]),
        (Fault.WEBHOOK_FORGED, ["failed", "success"]),
        (Fault.WEBHOOK_LATE, ["success"]),
        (Fault.WEBHOOK_MISSING, []),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
async def test_deliveries_arrive(fault: Fault | None, statuses: list[str]) -> None:
    """Deliveries carry the job's id and track_id, and arrive once, twice, after a forgery, late, or never."""
    payloads: list[Any] = []
    last_arrived, job_was_successful = asyncio.Event(), []

    async with running_emulator(faults=[Rule(fault, times=1, seconds=30.0)] if fault else []) as running:

        async def receive(request: web.Request) -> web.Response:
            payload = await request.json()
            if payload["track_id"] == "last":
                last_arrived.set()
            else:
                payloads.append(payload)
                job_was_successful.append((await running.post(f"{FETCH}{payload['id']}"))[1]["status"] == "success")
            return web.Response()

        async with other_server(hook=receive) as other:
            job_id, _ = await running.finish_job(webhook=f"{other}/hook", track_id="mine")
            while len(payloads) < len(statuses):
                await running.post(BALANCE)
            await running.submit(webhook=f"{other}/hook", track_id="last")
            await last_arrived.wait()
    assert [payload["status"] for payload in payloads] == statuses
    assert {(payload["id"], payload["track_id"]) for payload in payloads} <= {(job_id, "mine")}
    assert all(
        successful
        for payload, successful in zip(payloads, job_was_successful, strict=True)
        if payload["status"] == "success"
    )


async def test_an_unreachable_receiver_changes_nothing() -> None:
    """A job ends as usual if its webhook cannot be reached."""
    async with running_emulator() as running:
        for hook in ("http://127.0.0.1:1/", "http://a..b/"):
            job_id, _ = await running.finish_job(webhook=hook)
            assert (await running.poll_until(job_id))["status"] == "success"
