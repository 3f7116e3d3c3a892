"""Submit a job and stream its progress: `python aiohttp_app.py`. For key and emulator see fastapi_minimal.py."""

from __future__ import annotations

import os

from aiohttp import web

from modelslab_async import Client
from modelslab_async.web import CLIENT, cleanup_ctx, event_stream

URL = os.environ.get("MODELSLAB_BASE_URL", "https://modelslab.com")


async def submit(request: web.Request) -> web.StreamResponse:
    """Submit {"prompt": ..., "init_image": "https://..."} for $0.20, and stream the progress of the job."""
    try:
        params = {**await request.json()}
        picture = str(params.get("init_image"))
        if not picture.startswith("https://"):  # other text would name a file of this server
            raise web.HTTPUnprocessableEntity(text="init_image must be an https URL")
        job = request.app[CLIENT].submit(prompt=params.get("prompt", ""), init_image=picture)
    except (TypeError, ValueError) as error:  # InvalidRequestError is a ValueError
        raise web.HTTPUnprocessableEntity(text=str(error)) from error
    return await event_stream(job, request)  # if the visitor leaves, the job continues


def make_app() -> web.Application:
    """Return the application."""
    app = web.Application()
    app.cleanup_ctx.append(cleanup_ctx(lambda: Client(base_url=URL, journal="jobs.db")))
    app.router.add_post("/videos", submit)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
