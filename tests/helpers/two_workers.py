"""An application for several workers: `uvicorn helpers.two_workers:app --workers 2`.

The environment configures it: HOOKS and SERVICE are URLs, JOURNAL is a path.
"""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from modelslab_async import Client
from modelslab_async.web import lifespan
from modelslab_async.webhook import Webhook

NO_POLLS = 1e6
"""A poll cost, in seconds, at which no job is polled before the test is over, unless a delivery arrives."""
webhook = Webhook(public_url=os.environ["HOOKS"], secret="a secret that is long enough")


def make() -> Client:
    options = {"base_url": os.environ["SERVICE"], "journal": os.environ["JOURNAL"], "max_in_flight": 50}
    return Client("any", webhook=webhook, poll_cost=NO_POLLS, **options)  # type: ignore[arg-type]


async def submit(request: Request) -> JSONResponse:
    client: Client = request.state.modelslab
    video = await client.generate(prompt="zoom", init_image=b"\x89PNG\r\n\x1a\n" + bytes(24))
    return JSONResponse({"worker": os.getpid(), "id": video.id})


app = Starlette(
    routes=[Route("/videos", submit, methods=["POST"]), Mount("/hooks", webhook)], lifespan=lifespan(make, grace=1.0)
)
