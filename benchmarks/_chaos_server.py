"""Run the emulator of `benchmarks.chaos` in another process. Its files are longer, and half of its replies are chunked.

`python -m benchmarks._chaos_server SPEED ETAS FAULTS LIMIT SEED DAMAGES LOG` works like `python -m benchmarks._common`.
With DAMAGES all requests, also those of files, pass a proxy that damages them. At its end the process writes the log of
the damage to the file LOG, a JSON object a line.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks._common import CountingEmulator, Server, answer_queries, service_options
from benchmarks._damage import Damages, Proxy
from modelslab_async.emulator import Rule, Work, skeleton
from modelslab_async.emulator.job import DEFAULT_ETA

_MAX_FILE_BYTES = 100_000


def video(prompt: str, seed: int) -> bytes:
    """Return the file of a job: a bare mp4 of up to 100 KB, unique for its prompt and seed."""
    rng = random.Random(f"{seed} {prompt}")
    content = rng.randbytes(int(_MAX_FILE_BYTES ** rng.random()) // 2).hex()
    return skeleton(Work(picture=b"", prompt=content, seed=seed, width=0, height=0, frames=0, fps=0))


class ChaosServer(Server):
    """Start the emulator of a chaos run, behind a damaging proxy if there are `damages`."""

    def __init__(self, speed: float, faults: Sequence[Rule], damages: Damages | None, log: Path) -> None:
        super().__init__(speed, DEFAULT_ETA, faults, module="benchmarks._chaos_server")
        damage_options = damages and {"seed": damages.seed, "rate": damages.rate}
        self._arguments += [json.dumps(damage_options), str(log)]


class _Emulator(CountingEmulator):
    """An emulator whose links lead to `public_origin`, if that is set."""

    public_origin = ""

    def __init__(self, **options: Any) -> None:
        super().__init__(render=lambda work: video(work.prompt, work.seed), port=0, **options)
        self._is_chunked = cycle((True, False))

    def origin_for(self, request: web.Request) -> str:
        """Ignore the Host header, which the proxy may damage."""
        return self.public_origin or super().origin_for(request)

    async def _post(self, request: web.Request) -> web.StreamResponse:
        return self._framed(await super()._post(request))

    async def _file(self, request: web.Request) -> web.StreamResponse:
        return self._framed(await super()._file(request))

    def _framed(self, response: web.StreamResponse) -> web.StreamResponse:
        """Send every second reply in chunks: a broken chunk is another damage than a length that is not reached."""
        if next(self._is_chunked) and not response.prepared:
            response.headers.pop("Content-Length", None)
            response.enable_chunked_encoding()
        return response


async def _serve(options: Mapping[str, Any], damages: Damages | None, log: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(_Emulator(**options))
        if damages:
            port = int(server.url.rpartition(":")[2])
            proxy = await stack.enter_async_context(Proxy(port, damages.plan))
            server.public_origin = server.service.origin = proxy.url
            stack.callback(lambda: log.write_text("".join(json.dumps(e.as_dict()) + "\n" for e in proxy.log)))
        await answer_queries(server)


if __name__ == "__main__":
    *_arguments, _damages, _log = sys.argv
    _damage_options = json.loads(_damages)
    logging.disable()  # many requests cannot be parsed, as intended
    asyncio.run(
        _serve(service_options(_arguments), Damages(**_damage_options) if _damage_options else None, Path(_log))
    )
