"""Commands to a dedicated server: where they go, what they return, and that none is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.world import MakeWorld, a_request

from modelslab_async import Client, ClientStateError, InvalidRequestError, JobState, ServerError, TextToVideoUltra
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.looptime
FOLDER = "/api/v1/enterprise/image_to_video_ultra/"
COMMANDS: dict[str, Callable[[Client], Awaitable[Any]]] = {
    "restart_server": lambda client: client.dedicated_server.restart(),
    "update_server": lambda client: client.dedicated_server.update(),
    "clear_cache": lambda client: client.dedicated_server.clear_cache(),
    "clear_queue": lambda client: client.dedicated_server.clear_queue(),
    "system_details": lambda client: client.dedicated_server.system_details(),
}


@pytest.mark.parametrize("name", COMMANDS)
async def test_each_command_has_its_path(make_world: MakeWorld, name: str) -> None:
    """A command is one post to the server, with the key alone, and costs nothing."""
    world = make_world()
    async with world.client(enterprise=True) as client:
        answer = await COMMANDS[name](client)
    assert world.transport.requests == [f"{FOLDER}{name}"]
    assert (answer == ()) if name == "clear_queue" else "emulator" in str(answer)
    assert world.service.ledger.charges == []


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_command_with_effects_is_not_repeated(make_world: MakeWorld, name: str) -> None:
    """After a failure, a command that changes something may have been carried out. Only a question is asked again."""
    world = make_world(faults=[Rule(Fault.ERROR_500, on="call", times=1)])
    async with world.client(enterprise=True) as client:
        if name == "system_details":
            await COMMANDS[name](client)
        else:
            with pytest.raises(ServerError):
                await COMMANDS[name](client)
    assert len(world.transport.requests) == (2 if name == "system_details" else 1)


async def test_clear_queue_names_what_it_drops(make_world: MakeWorld) -> None:
    """The jobs of this client that were on the server fail; one that waits for its turn is made afterwards."""
    world = make_world()
    async with world.client(enterprise=True, max_in_flight=2) as client:
        jobs = [client.submit(a_request(seed=seed)) for seed in range(3)]
        await asyncio.sleep(5.0)
        assert set(await client.dedicated_server.clear_queue()) == set(jobs[:2])
        for job in jobs:
            await job.wait()
    assert [job.state for job in jobs] == [JobState.FAILED, JobState.FAILED, JobState.READY]


async def test_the_public_api_takes_no_commands(make_world: MakeWorld) -> None:
    """A client of the public API is told how to reach a dedicated server, and nothing is sent."""
    world = make_world()
    async with world.client() as client:
        with pytest.raises(ClientStateError, match="enterprise=True"):
            assert client.dedicated_server
    assert world.transport.requests == []


async def test_its_jobs_are_not_those_of_the_public_api(make_world: MakeWorld, tmp_path: Path) -> None:
    """Two clients with one key and one journal, of which one uses the server, leave each other's jobs alone."""
    world, path = make_world(), tmp_path / "jobs.db"
    async with world.client(journal=path, enterprise=True) as client:
        await client.submit(a_request(track_id="on the server")).submitted()
        await client.aclose(drain=False)
    async with world.client(journal=path) as client:
        assert (await client.recover()).jobs == ()
        assert await client.find("on the server") is None
    async with world.client(journal=path, enterprise=True) as client:
        (job,) = (await client.recover()).jobs
        assert (await job).ref == "on the server"


async def test_another_operation_is_refused(make_world: MakeWorld) -> None:
    """The server makes only Image to Video Ultra. The error says so before any network access, also for an id."""
    world = make_world()
    async with world.client(enterprise=True) as client:
        with pytest.raises(InvalidRequestError, match="operation"):
            await client.submit(TextToVideoUltra(prompt="x"))
        with pytest.raises(InvalidRequestError, match="operation"):
            await (await client.attach("1", operation="lip-sync"))
    assert world.transport.requests == []
