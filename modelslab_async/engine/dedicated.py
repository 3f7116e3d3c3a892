"""Commands to a dedicated server of the enterprise API. They cost nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelslab_async.engine.engine import Engine
from modelslab_async.errors import ClientStateError
from modelslab_async.job.future import Job
from modelslab_async.protocol import wire
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.request import Deployment
from modelslab_async.protocol.secret import hides_key
from modelslab_async.protocol.wire import ServerCommand


@hides_key
class DedicatedServer:
    """The dedicated server of `Client(enterprise=True)`, see `Client.dedicated_server`.

    The paths are those of Image to Video Ultra, from the pages of the enterprise API. Only `system_details` is repeated
    if it fails: the other commands have effects, so that a reply which is lost raises TransportError, and the command
    may have been carried out. All raise APIError if the service refuses the command.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self._api_key = engine, engine.key
        if engine.api.deployment is not Deployment.ENTERPRISE:
            raise ClientStateError("this client uses the public API (hint: pass Client(enterprise=True))")

    async def restart(self) -> str:
        """Restart the server. Return the service's message. Jobs that run there may be lost."""
        return await self._command("restart_server")

    async def update(self) -> str:
        """Update the server's software. Return the service's message. Jobs that run there may be lost."""
        return await self._command("update_server")

    async def clear_cache(self) -> str:
        """Clear the server's cache. Return the service's message."""
        return await self._command("clear_cache")

    async def clear_queue(self) -> tuple[Job, ...]:
        """Drop every job on the server: those of this client, of other processes and of other users of the server.

        Return the jobs of this client that were there. They end as FAILED if the service reports them so, and else time
        out. Whether a dropped job is charged is not documented. Jobs of this client that still wait for their turn are
        not dropped: they are sent afterwards.
        """
        running = (JobState.SUBMITTING, JobState.PROCESSING)
        dropped = tuple(run.job for run in self._engine.dispatcher.jobs.values() if run.state in running)
        await self._command("clear_queue")
        return dropped

    async def system_details(self) -> Mapping[str, Any]:
        """Return what the server says of itself. Its fields are not documented."""
        path = wire.command_path("system_details")
        return await self._engine.call(path, self._engine.api.bare_body, wire.details)

    async def _command(self, command: ServerCommand) -> str:
        api = self._engine.api
        self._engine.require_usable(while_closing=True)
        return await api.call(wire.command_path(command), api.bare_body, wire.message, attempts=1)
