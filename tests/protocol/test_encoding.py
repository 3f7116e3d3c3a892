"""Tests of encoding requests, their paths and the URLs that they may be sent to."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from helpers.replies import A_KEY, JSON
from helpers.world import KEY
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.protocol import wire
from modelslab_async.protocol.request import Deployment


@given(params=st.dictionaries(st.text(), JSON, max_size=5), picture=st.binary())
def test_an_encoded_body_is_json(params: dict[str, Any], picture: bytes) -> None:
    """The body with the spliced-in key and picture equals the JSON of the same values."""
    params = {name: value for name, value in params.items() if name not in ("key", "base64", "init_image")}
    read = json.loads(wire.encode_body(params, A_KEY, picture=picture))
    encoded = {"base64": True, "init_image": base64.b64encode(picture).decode()}
    assert json.dumps(read, sort_keys=True) == json.dumps({"key": KEY, **params, **encoded}, sort_keys=True)


@pytest.mark.parametrize("job_id", ["1", "../../admin", "a/b?c#d", "ü %"])
def test_an_id_is_quoted_in_the_path(job_id: str) -> None:
    """An id from a server cannot lead to another path."""
    for deployment in Deployment:
        path = wire.fetch_path(deployment, job_id)
        folder, _, last = path.rpartition("/")
        assert folder == wire.fetch_path(deployment, "").rstrip("/")
        assert not set("/?# ") & set(last)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://modelslab.com", True),
        ("http://127.0.0.1:8787", True),
        ("http://localhost:1/", True),
        ("http://[::1]:80", True),
        ("http://modelslab.com", False),
        ("http://127.0.0.1.evil.example", False),
        ("http://localhost.evil.example", False),
        ("https://user:word@modelslab.com", False),
        ("https://modelslab.com?x=1", False),
        ("modelslab.com", False),
        ("", False),
    ],
)
def test_which_base_urls_are_safe_for_a_key(url: str, safe: bool) -> None:
    """A key may be sent to https, or to http on this machine, but to no URL with credentials or a query."""
    assert wire.is_safe_base_url(url) is safe
