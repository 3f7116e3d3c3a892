"""Sessions of aiohttp that the user passes in, with hooks, middlewares and settings of their own."""

from __future__ import annotations

import random

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from helpers.sockets import INVALID_KEY, error_of, listening, opened_transport, respond, respond_one_behind
from helpers.world import KEY, a_request

from modelslab_async import AuthenticationError, Client, ConnectError, JobState


async def test_a_session_that_was_passed_in_is_not_closed() -> None:
    """The user who opened the session closes it."""
    async with aiohttp.ClientSession() as session, listening(respond("401 No", INVALID_KEY)) as (url, *_):
        async with Client(api_key=KEY, base_url=url, session=session) as client:
            await error_of(client.submit(a_request()))
        assert not session.closed


async def test_a_session_that_raises_for_status_changes_nothing() -> None:
    """A refusal is read as a refusal, even if the session would raise for its status."""
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        listening(respond("401 No", INVALID_KEY)) as (url, *_),
        Client(api_key=KEY, base_url=url, session=session) as client,
    ):
        error = await error_of(client.submit(a_request()))
    assert isinstance(error, AuthenticationError)


async def test_a_hook_that_cannot_read_the_reply_causes_no_second_submit() -> None:
    """A hook logs each reply as text, and one reply is not UTF-8. The submit was sent, so the job is uncertain."""

    async def log(_: object, __: object, ended: aiohttp.TraceRequestEndParams) -> None:
        await ended.response.text()

    hooks = aiohttp.TraceConfig()
    hooks.on_request_end.append(log)
    accepted = respond(
        "200 OK", b'{"status": "processing", "id": 1, "meta": {"prompt": "caf\xe9"}}', "Content-Type: application/json"
    )
    async with (
        aiohttp.ClientSession(trace_configs=[hooks]) as session,
        listening(accepted) as (url, connections, _),
        Client(api_key=KEY, base_url=url, session=session, rng=random.Random(1)) as client,
    ):
        job = client.submit(a_request())
        error = await error_of(job)
    assert (job.state, error.charged, len(connections)) == (JobState.UNCERTAIN, None, 1)


async def sign(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Middleware that sends a body of its own."""
    await request.update_body(b'{"signed": true}')
    return await send(request)


@pytest.mark.parametrize("middlewares", [(), (sign,)], ids=["no middleware", "a middleware with another body"])
async def test_an_error_of_a_hook_after_the_reply_does_not_mean_that_nothing_was_sent(
    middlewares: tuple[aiohttp.ClientMiddlewareType, ...],
) -> None:
    """A hook that cannot reach its own log raises the error of a refused connection; the submit was sent."""
    refused = ConnectionKey(
        "log.invalid", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
    )

    async def log(*_: object) -> None:
        raise aiohttp.ClientConnectorError(refused, OSError("the log is down"))

    hooks = aiohttp.TraceConfig()
    hooks.on_request_end.append(log)
    async with (
        aiohttp.ClientSession(trace_configs=[hooks], middlewares=middlewares) as session,
        listening(respond("200 OK", b'{"status": "processing", "id": 1}')) as (url, connections, _),
        Client(api_key=KEY, base_url=url, session=session, rng=random.Random(1)) as client,
    ):
        job = client.submit(a_request())
        error = await error_of(job)
    assert (job.state, error.charged, len(connections)) == (JobState.UNCERTAIN, None, 1)


async def test_a_closed_session_sends_nothing() -> None:
    """If the user closed the session, nothing is sent and nothing is charged."""
    session = aiohttp.ClientSession()
    await session.close()
    async with opened_transport(session=session) as transport:
        with pytest.raises(ConnectError, match="closed"):
            await transport.post("http://127.0.0.1:9", b"{}", timeout=1)


async def test_a_foreign_refusal_is_uncertain() -> None:
    """A passed-in session may reuse a connection, so only the service's own JSON proves that a job was refused."""
    paths: list[bytes] = []
    async with (
        aiohttp.ClientSession() as session,
        listening(respond_one_behind(paths)) as (url, connections, _),
        Client(api_key=KEY, base_url=url, session=session) as client,
    ):
        await client.balance()
        job = client.submit(a_request())
        error = await error_of(job)
    assert (job.state, error.charged, len(connections)) == (JobState.UNCERTAIN, None, 1)


async def retry_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Middleware that tries again, as many applications have."""
    response = await send(request)
    return response if response.ok else await send(request)


async def test_a_retrying_middleware_sends_no_submit_twice() -> None:
    """Middlewares of a passed-in session do not see paid requests, because one that retries would pay twice."""
    async with (
        aiohttp.ClientSession(middlewares=(retry_once,)) as session,
        listening(respond("502 Bad Gateway", b"<html>")) as (url, connections, _),
        Client(api_key=KEY, base_url=url, session=session) as client,
    ):
        job = client.submit(a_request())
        error = await error_of(job)
    assert (job.state, error.charged, len(connections)) == (JobState.UNCERTAIN, None, 1)
