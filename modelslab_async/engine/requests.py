"""Compare a request with the one that a journal's row keeps."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from modelslab_async.errors import InvalidRequestError, Problem
from modelslab_async.media import inputs
from modelslab_async.media.inputs import Media, Source
from modelslab_async.protocol import wire
from modelslab_async.protocol.operations import operation_named
from modelslab_async.protocol.problems import shown, wrong
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.request import Request
from modelslab_async.protocol.secret import ApiKey

_NOT_COMPARED = ("webhook", "track_id")
_HINT = "pass the same request, or choose another ref to pay for another video"


async def differences(request: Request, media: Media | None, record: JobRecord, key: ApiKey) -> list[Problem]:
    """Return where a request differs from the one of a row, by field. A row without a request differs in nothing.

    media: the request's files; None if they cannot be read, so that they are not compared.
    """
    if record.request is None:
        return []
    if request.operation != record.operation:
        return [_different("operation", request.operation, record.operation)]
    picture = media.picture if media else None
    others = inputs.stored(media._replace(picture=None)) if media else {}
    asked = dict(key.redact({**wire.stored_request(request, ref=record.ref), **others}))
    known: dict[str, Any] = dict(record.request)
    row = operation_named(request.operation)
    by_digest = {row.inline_input.name} if row.inline_input else set[str]()
    not_compared = by_digest if media else {each.name for each in row.inputs}
    compared = {*asked, *known} - {*_NOT_COMPARED} - not_compared
    problems = [
        _different(name, asked.get(name), known.get(name))
        for name in sorted(compared)
        if asked.get(name) != known.get(name)
    ]
    if picture and not await _is_same_picture(picture, record.picture or {}, key):
        requirement = "must be the picture of the earlier request with this ref"
        problems.append(wrong("init_image", getattr(request, "init_image", None), requirement, _HINT))
    return problems


def _different(name: str, asked: object, known: object) -> Problem:
    return wrong(name, asked, f"must be {shown(known)}, as in the earlier request with this ref", _HINT)


async def _is_same_picture(image: Source, known: Mapping[str, Any], key: ApiKey) -> bool:
    """Return whether a picture is the one of a row: by its digest if both are known, else by where it comes from."""
    digest = known.get("sha256")
    if digest and not isinstance(image, inputs.Url):
        with suppress(InvalidRequestError):  # the file is gone, so that its place decides
            data = await asyncio.get_running_loop().run_in_executor(None, inputs.load, image)
            return bool(inputs.facts(image, data).get("sha256") == digest)
    return bool(key.redact(inputs.origin(image)).get("where") == known.get("where"))
