"""The emulator's server: how it identifies itself, its URL, wrong requests, its page and its ledger."""

from __future__ import annotations

import asyncio
import json

import pytest
from helpers.emulator_server import BALANCE, FETCH, KEY, SUBMIT, RunningEmulator, running_emulator

from modelslab_async import Client


async def test_every_response_says_that_this_is_not_modelslab() -> None:
    """Every response, whatever was requested, has a header that says: an emulator, not ModelsLab."""
    async with running_emulator(keys={KEY}) as running:
        requests = [
            *((method, path) for method in ("GET", "POST") for path in ("/", SUBMIT, FETCH + "1", BALANCE, "/no/such")),
            *(("GET", path) for path in ("/emulator/ledger", "/generations/none.mp4", "/temp/none")),
            ("DELETE", "/"),
            ("HEAD", "/"),
        ]
        for method, path in requests:
            async with running.session.request(method, running.emulator.url + path) as response:
                assert "not ModelsLab" in response.headers["X-Emulator"], (method, path)


async def test_it_listens_on_loopback_by_default() -> None:
    """By default it listens on loopback, on a free port, so that two emulators can run side by side."""
    async with running_emulator() as one, running_emulator() as other:
        assert one.emulator.url.startswith("http://127.0.0.1:")
        assert one.emulator.url != other.emulator.url
        assert [(await running.post(BALANCE))[0] for running in (one, other)] == [200, 200]


@pytest.mark.parametrize(("host", "name"), [("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")])
async def test_its_url_can_be_reached(host: str, name: str) -> None:
    """The URL can be reached and is accepted by a client, even if the emulator listens on all interfaces."""
    async with running_emulator(host=host) as running:
        assert running.emulator.url.startswith(f"http://{name}:")
        assert (await running.post(BALANCE))[0] == 200
        async with Client(api_key="any", base_url=running.emulator.url) as client:
            assert client.base_url == running.emulator.url


async def raw_response_to(running: RunningEmulator, encoding: str, body: bytes) -> bytes:
    """Post *body* as the start of a body of 100 bytes with this Content-Encoding; return the raw response."""
    host, _, port = running.emulator.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {SUBMIT} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Encoding: {encoding}\r\n"
    writer.write(f"{head}Content-Length: 100\r\n\r\n".encode() + body)
    if len(body) < 100:
        writer.write_eof()
    response = await reader.read()
    writer.close()
    await writer.wait_closed()
    return response


async def test_a_broken_body_is_an_error_of_the_client(caplog: pytest.LogCaptureFixture) -> None:
    """A body that breaks off is answered with 400 or not at all, and logs no error."""
    async with running_emulator() as running:
        assert (await raw_response_to(running, "identity", b'{"key": "bro'))[:13] in (b"", b"HTTP/1.1 400 ")
        assert (await running.post(BALANCE))[0] == 200
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_wrongly_encoded_body_is_an_error_of_the_client() -> None:
    """A body that is not encoded as its header says is answered with 400."""
    async with running_emulator() as running:
        assert (await raw_response_to(running, "gzip", b"this is no gzip" + bytes(85)))[:13] == b"HTTP/1.1 400 "
        assert (await running.post(BALANCE))[0] == 200


async def test_the_page() -> None:
    """The page is HTML that says it is not ModelsLab. It shows the jobs with their prompts escaped, and no key."""
    async with running_emulator() as running:
        await running.finish_job(prompt="<script>alert('you')</script> & more")
        await running.submit(prompt="half of a pair: \ud800")
        async with running.session.get(running.emulator.url) as response:
            text = await response.text()
            assert (response.status, response.content_type, response.charset) == (200, "text/html", "utf-8")
    assert "This is <b>not ModelsLab</b>." in text
    assert "<title>modelslab_async emulator (not ModelsLab)</title>" in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(&#x27;you&#x27;)&lt;/script&gt; &amp; more" in text
    assert KEY not in text


async def test_the_ledger_is_served_as_json() -> None:
    """Other processes read the ledger as JSON: the charges with their track_id, and no key."""
    async with running_emulator() as running:
        ids = [(await running.submit(track_id=name))[1]["id"] for name in ("a", "b")]
        await running.submit(prompt=None)
        status, content = await running.get(f"{running.emulator.url}/emulator/ledger")
    ledger = json.loads(content)
    assert (status, ledger["emulator"], ledger["total_usd"]) == (200, True, "0.40")
    assert [(charge["job_id"], charge["track_id"], charge["usd"]) for charge in ledger["charges"]] == [
        (ids[0], "a", "0.20"),
        (ids[1], "b", "0.20"),
    ]
    assert KEY.encode() not in content


async def test_a_new_emulator_uses_new_ids() -> None:
    """A new emulator uses no id of an earlier one, because a journal would take its job for the earlier job."""
    ids = []
    for _ in range(3):
        async with running_emulator() as running:
            ids += [(await running.submit())[1]["id"] for _ in range(3)]
    assert len(set(ids)) == 9
