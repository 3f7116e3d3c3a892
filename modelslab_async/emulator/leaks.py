"""Find a key in a request for a file. No key belongs there: the service's files lie on the hosts of others. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from modelslab_async.emulator.ledger import Leak, account_fingerprint

_NAMES = {"key", "api_key", "api-key", "apikey", "x-api-key", "token", "access_token", "authorization"}


def find_leak(
    path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
    body: bytes,
    *,
    is_known: Callable[[str], bool],
    at: float,
) -> Leak | None:
    """Return the key that came with a request for a file, or None.

    A text is a key if it is one that the API was called with, or if its name says so, such as "Authorization".

    is_known: returns whether an account of this name exists.
    """
    named = None
    for where, name, text in _texts(path, query, headers, body):
        for word in {text, *text.split()}:
            if is_known(account := account_fingerprint(word)):
                return Leak(account, where, path, at)
        if text and name.lower() in _NAMES:
            named = named or Leak(None, where, path, at)
    return named


def _texts(
    path: str, query: Sequence[tuple[str, str]], headers: Mapping[str, str], body: bytes
) -> Iterator[tuple[str, str, str]]:
    """Yield where each text of a request is, its name and the text."""
    yield from (("path", "", part) for part in path.split("/"))
    yield from ((f"query {name}", name, value) for name, value in query)
    yield from ((f"header {name}", name, value) for name, value in headers.items())
    params = None
    with suppress(ValueError, RecursionError):
        params = json.loads(body)
    if isinstance(params, dict):
        yield from ((f"body {name}", name, value) for name, value in params.items() if isinstance(value, str))
