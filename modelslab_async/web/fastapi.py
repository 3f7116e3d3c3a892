"""Give endpoints of FastAPI the application's client, with its type."""

from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection

from modelslab_async.client import Client
from modelslab_async.web.lifespan import client_of


async def _client(connection: HTTPConnection) -> Client:
    """Return the client of the application. A plain function would run in a thread, which takes longer."""
    return client_of(connection)


ModelsLabClient = Annotated[Client, Depends(_client)]
"""The client that `FastAPI(lifespan=lifespan(...))` opened: `async def submit(client: ModelsLabClient)`.

It works in HTTP and websocket endpoints. Without a client, the request raises ClientStateError, see `client_of`.
"""
