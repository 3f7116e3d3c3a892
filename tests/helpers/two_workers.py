"""An application for several workers: `uvicorn helpers.two_workers:app --workers 2`, set by its environment."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from modelslab_async import Client
from modelslab_async.web import lifespan
from modelslab_async.webhook import Webhook

NEVER = 1e6
"""A look costs so much that none is made before the test is over: only deliveries tell of ends."""
webhook = Webhook(public_url=os.environ["HOOKS"], secret="a secret that is long enough")


def make() -> Client:
    options = {"base_url": os.environ["SERVICE"], "journal": os.environ["JOURNAL"], "max_in_flight": 50}
    return Client("any", webhook=webhook, poll_cost=NEVER, **options)  # type: ignore[arg-type]


async def submit(request: Request) -> JSONResponse:
    client: Client = request.state.modelslab
    video = await client.generate(prompt="zoom", init_image=b"\x89PNG\r\n\x1a\n" + bytes(24))
    return JSONResponse({"worker": os.getpid(), "id": video.id})


app = Starlette(
    routes=[Route("/videos", submit, methods=["POST"]), Mount("/hooks", webhook)], lifespan=lifespan(make, grace=1.0)
)
