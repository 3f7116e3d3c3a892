"""Compare a request with the one that a journal's row keeps."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from modelslab_async.errors import InvalidRequestError, Problem
from modelslab_async.media import images
from modelslab_async.protocol import wire
from modelslab_async.protocol.problems import shown, wrong
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.request import ImageToVideoUltra
from modelslab_async.protocol.secret import ApiKey

_NOT_COMPARED = ("init_image", "webhook", "track_id")
_HINT = "pass the same request, or choose another ref to pay for another video"


async def differences(
    request: ImageToVideoUltra, image: images.Image | None, record: JobRecord, key: ApiKey
) -> list[Problem]:
    """Return where a request differs from the one of a row, by field. A row without a request differs in nothing."""
    if record.request is None:
        return []
    asked = dict(key.redact(wire.stored_request(request, ref=record.ref)))
    known: dict[str, Any] = dict(record.request)
    names = [name for name in sorted({*asked, *known}) if name not in _NOT_COMPARED]
    problems = [
        _different(name, asked.get(name), known.get(name)) for name in names if asked.get(name) != known.get(name)
    ]
    if image and not await _is_same_picture(image, record.picture or {}, key):
        requirement = "must be the picture of the earlier request with this ref"
        problems.append(wrong("init_image", request.init_image, requirement, _HINT))
    return problems


def _different(name: str, asked: object, known: object) -> Problem:
    return wrong(name, asked, f"must be {shown(known)}, as in the earlier request with this ref", _HINT)


async def _is_same_picture(image: images.Image, known: Mapping[str, Any], key: ApiKey) -> bool:
    """Return whether a picture is the one of a row: by its digest if both are known, else by where it comes from."""
    digest = known.get("sha256")
    if digest and not isinstance(image, images.ImageUrl):
        with suppress(InvalidRequestError):  # the file is gone, so that its place decides
            data = await asyncio.get_running_loop().run_in_executor(None, images.load, image)
            return bool(images.facts(image, data).get("sha256") == digest)
    return bool(key.redact(images.origin(image)).get("where") == known.get("where"))
