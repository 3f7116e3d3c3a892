"""Check that modelslab-py's own video methods, and ours, get whole files of every operation from the emulator.

    python -m benchmarks.operations [--json] [--check]       takes about a minute; needs the extra `bench`

The emulator renders real videos. Each method of modelslab-py submits a small job; then its own `fetch` polls. Its
methods for v7 models have no fetch, so these jobs are polled at the operation's own fetch path. A method passes if the
link gives a whole mp4 or gif. Nothing is measured.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks._common import PEER_NOT_INSTALLED, Target, log, parse_options, print_results, table
from modelslab_async import OPERATIONS, Client
from modelslab_async.emulator import Emulator
from modelslab_async.emulator.pictures import placeholder
from modelslab_async.media.containers import Parser
from modelslab_async.protocol.request import Deployment

PEER = "modelslab_py"
SPEED = 20.0
PROMPT = "a castle by night"
SOUND = "https://files.invalid/a.mp3"
_POLLS = 60

Method = tuple[str, str, Mapping[str, Any]]
"""A method of modelslab-py, the class of its request, and the parameters."""


def _methods(picture: str, clip: str) -> dict[str, Method]:
    """Return a method of modelslab-py for each operation that it knows. Its modules are named from its root."""
    small = {"prompt": PROMPT, "num_frames": 17}
    return {
        "img2video_ultra": (
            "core.apis.video:Video.image_to_video_ultra",
            "schemas.video:Image2VideoUltra",
            {**small, "init_image": picture},
        ),
        "text2video_ultra": ("core.apis.video:Video.text_to_video_ultra", "schemas.video:Text2VideoUltra", small),
        "text2video": (
            "core.apis.video:Video.text_to_video",
            "schemas.video:Text2Video",
            {**small, "model_id": "cogvideox"},
        ),
        "img2video": (
            "core.apis.video:Video.image_to_video",
            "schemas.video:Image2Video",
            {**small, "model_id": "svd", "init_image": picture},
        ),
        "image-to-video": (
            "providers.byteplus.api:BytePlusProvider.seedance_i2v",
            "providers.byteplus.schemas:SeeDanceI2VSchema",
            {"prompt": PROMPT, "init_image": picture},
        ),
        "text-to-video": (
            "providers.byteplus.api:BytePlusProvider.seedance_t2v",
            "providers.byteplus.schemas:SeeDanceT2VSchema",
            {"prompt": PROMPT, "resolution": "480p", "aspect_ratio": "16:9"},
        ),
        "lip-sync": (
            "providers.sync.api:SyncProvider.lipsync_2",
            "providers.sync.schemas:Lipsync2Schema",
            {"init_video": clip, "init_audio": SOUND},
        ),
    }


def _named(name: str) -> Any:
    """Return what "module:Class.attribute" names in modelslab-py."""
    module, _, path = name.partition(":")
    found: Any = import_module(f"{PEER}.{module}")
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _reply_of_peer(url: str, operation: str, method: Method) -> Mapping[str, Any]:
    """Make a video by a method of modelslab-py. Return the last reply."""
    call, schema, params = method
    client = _named("core.client:Client")(api_key="any", fetch_retry=_POLLS, fetch_timeout=1)
    client.base_url = f"{url}/api/"
    owner, _, name = call.rpartition(".")
    api = _named(owner)(client)
    reply: dict[str, Any] = getattr(api, name)(_named(schema)(**params))
    job_id = str(reply["id"])
    fetch = OPERATIONS[operation].endpoints[Deployment.V6].fetch
    for _ in range(_POLLS):
        if reply["status"] == "success" and reply.get("output"):
            break
        time.sleep(1)
        has_fetch = "v6/" in str(api.base_url)
        reply = api.fetch(job_id) if has_fetch else client.post(f"{url}{fetch}{job_id}")
    return reply


async def _file_of_peer(url: str, operation: str, method: Method) -> str:
    """Return what the file is that a method of modelslab-py leads to."""
    reply = await asyncio.to_thread(_reply_of_peer, url, operation, method)
    for _ in range(_POLLS):  # a link may answer 404 for seconds
        async with aiohttp.ClientSession() as session, session.get(reply["output"][0]) as response:
            if response.status == 200:
                parser = Parser()
                parser.feed(await response.read())
                return str(parser.verdict().value)
        await asyncio.sleep(0.5)
    return "no file"


def _request(operation: str, picture: str, clip: str) -> dict[str, Any]:
    """Return our request for an operation."""
    row = OPERATIONS[operation]
    files = {"image": picture, "video": clip, "audio": SOUND}
    needed = {each.name: files[each.kind] for each in row.inputs if each.is_required}
    size = {"num_frames": 17} if "num_frames" in row.parameters else {"duration": "2"}
    model = {"model_id": "any"} if "model_id" in row.required else {}
    return {"operation": operation, "prompt": PROMPT, **model, **size, **needed}


async def measure() -> dict[str, dict[str, str]]:
    """Return what each contender's file is, by operation."""
    found: dict[str, dict[str, str]] = {name: {} for name in OPERATIONS}
    async with Emulator(speed=SPEED) as emulator, Client("any", base_url=emulator.url) as client:
        picture = await client.upload(placeholder("a picture"))
        with tempfile.TemporaryDirectory() as folder:
            first = client.submit(prompt=PROMPT, init_image=picture, num_frames=17)
            clip = await client.upload((await first.save(Path(folder) / "clip.mp4")).path)
            for operation in OPERATIONS:
                log(f"{operation}: ours")
                saved = await client.submit(_request(operation, picture, clip)).save(Path(folder) / "ours")
                found[operation]["modelslab_async"] = f"{saved.frames} frames, {saved.size_bytes:,} bytes"
        if find_spec(PEER) is None:
            log(PEER_NOT_INSTALLED)
            return found
        for operation, method in _methods(picture, clip).items():
            log(f"{operation}: {method[0]}")
            found[operation]["modelslab-py"] = await _file_of_peer(emulator.url, operation, method)
    return found


def main() -> int:
    """Run the benchmark. Return the exit code."""
    options, _ = parse_options(__doc__)
    warnings.filterwarnings("ignore", module=PEER)  # it uses deprecated names of pydantic
    found = asyncio.run(measure())
    rows = [
        (name, files["modelslab_async"], files.get("modelslab-py", "has no method")) for name, files in found.items()
    ]
    peers = [files["modelslab-py"] for files in found.values() if "modelslab-py" in files]
    wrong = [what for what in peers if not what.startswith("a whole")]
    targets = [Target("methods of modelslab-py without a whole file", float(len(wrong)), 0.0)]
    text = table(("operation", "modelslab_async", "modelslab-py"), rows)
    conditions = (__doc__ or "").strip().partition("\n")[0]
    return print_results(options, text, {"files": found, "conditions": conditions}, targets)


if __name__ == "__main__":
    sys.exit(main())
