"""Webhooks, and the deliveries that the service would send to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from helpers.world import World
from modelslab_async import Client, Job
from modelslab_async.emulator.replies import Delivery
from modelslab_async.webhook import Listener, Webhook

HOOKS = "https://hooks.invalid/modelslab"
SECRET = "a secret that is long enough"


def a_webhook() -> Webhook:
    """Return a webhook. All of them have the same URL and secret, as in processes that share an application."""
    return Webhook(public_url=HOOKS, secret=SECRET)


def a_delivery(**fields: Any) -> bytes:
    """Return the body of a delivery that reports success, with *fields*."""
    return json.dumps({"status": "success", "id": 1, **fields}).encode()


def webhook_url_of(job: Job) -> str:
    """Return the URL to which the service reports a job's end."""
    assert job.request is not None
    assert job.request.webhook is not None
    return job.request.webhook


class RecordingListener:
    """Record the deliveries that a webhook passes on, as (ref, id of the service). Know only the ref "known"."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str | None]] = []

    def knows(self, ref: str) -> bool:
        return ref == "known"

    def receive(self, ref: str, job_id: str | None) -> None:
        self.received.append((ref, job_id))


@attrs.define
class Courier:
    """Carry the emulator's deliveries to webhooks in this process."""

    webhooks: list[Webhook]
    statuses: list[int] = attrs.field(factory=list[int])
    tasks: set[asyncio.Task[None]] = attrs.field(factory=set[asyncio.Task[None]])

    def __call__(self, delivery: Delivery) -> None:
        task = asyncio.ensure_future(self._carry(delivery))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _carry(self, delivery: Delivery) -> None:
        for webhook in self.webhooks:
            status, _ = await webhook.handle(delivery.url, json.dumps(delivery.payload).encode())
            self.statuses.append(status)


@asynccontextmanager
async def client_with_webhook(world: World, **options: Any) -> AsyncIterator[tuple[Client, Webhook]]:
    """Open a client whose webhook gets the emulator's deliveries."""
    webhook = a_webhook()
    world.transport.deliver = Courier([webhook])
    async with world.client(webhook=webhook, **options) as client:
        yield client, webhook


class TrackingWebhook(Webhook):
    """Know which listeners are registered."""

    def __init__(self) -> None:
        super().__init__(public_url=HOOKS, secret=SECRET)
        self.registered: dict[Listener, str] = {}
        """The registered listeners, each with its account."""

    def register(self, listener: Listener, account: str) -> None:
        super().register(listener, account)
        self.registered[listener] = account

    def unregister(self, listener: Listener) -> None:
        super().unregister(listener)
        self.registered.pop(listener, None)
