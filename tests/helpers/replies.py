"""Replies of the service, and the functions that decode them with the key of the tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st

from helpers.world import KEY
from modelslab_async.protocol import wire
from modelslab_async.protocol.reply import HttpReply, Malformed, Refused
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.wire import Accepted, Failed, NotReady, Ready, UnknownId

A_KEY = ApiKey(KEY)
LINK, OTHER_LINK = "https://files.invalid/a.mp4", "https://files.invalid/b.mp4"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
STATUS = st.sampled_from(["success", "processing", "error", "failed", "other"])
FIELDS = ("status", "id", "eta", "output", "proxy_links", "links", "future_links", "fetch_result", "meta", "message")
OTHER_FIELDS = ("messege", "error", "tip", "tips", "retry_after", "generationTime", "data", "processing_count")
Decode = Callable[[HttpReply, ApiKey], object]
PICKS: tuple[Any, ...] = (wire.upload, wire.queue_depth, wire.balance, wire.assets)
CALLS: list[Decode] = [partial(wire.decode, pick=pick) for pick in PICKS]
"""The decoders of the calls other than submit and fetch."""
DECODERS: tuple[Decode, ...] = (wire.decode_submit, wire.decode_fetch, *CALLS)
_DECODED = (Accepted, NotReady, Ready, Refused, Failed, UnknownId, Malformed, wire.Balance, str, int)


def is_decoded(answer: object) -> bool:
    """Return whether *answer* is of a type that a decoder may return."""
    return isinstance(answer, _DECODED) or type(answer) is tuple


def reply(body: Any, status: int = 200, retry_after: str | None = None) -> HttpReply:
    return HttpReply(
        status, body if isinstance(body, bytes) else json.dumps(body).encode(), retry_after, is_on_own_connection=True
    )


def submitted(body: Any, status: int = 200, retry_after: str | None = None) -> wire.SubmitReply:
    return wire.decode_submit(reply(body, status, retry_after), A_KEY)


def fetched(body: Any, status: int = 200) -> wire.FetchReply:
    return wire.decode_fetch(reply(body, status), A_KEY)
