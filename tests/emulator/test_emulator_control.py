"""The emulator's own API under `/emulator/`, and the methods that do the same."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from helpers.emulator_server import BALANCE, FETCH, KEY, SUBMIT, RunningEmulator, other_server, running_emulator

from modelslab_async import InvalidRequestError
from modelslab_async.emulator import Emulator, Fault, Rule, skeleton

OTHER_KEY = "another-key-that-no-answer-may-show"
OTHER: dict[str, Any] = {"key": OTHER_KEY}


async def call(running: RunningEmulator, method: str, path: str, **params: Any) -> tuple[int, dict[str, Any]]:
    """Call the control API; return the status and the JSON of the answer, which contains no key."""
    url = f"{running.emulator.url}/emulator/{path}"
    async with running.session.request(method, url, json=params or None) as response:
        text = await response.text()
        assert KEY not in text
        assert OTHER_KEY not in text
        value: dict[str, Any] = json.loads(text)
        return response.status, value


async def test_health() -> None:
    """Health says that the emulator serves, which version it has, and that it is not ModelsLab."""
    async with running_emulator() as running:
        status, health = await call(running, "GET", "health")
    assert (status, health["status"], health["emulator"], health["url"]) == (200, "ok", True, running.emulator.url)
    assert "not ModelsLab" in health["notice"]
    assert {"version", "pid", "now"} <= set(health)


async def test_faults_are_added_listed_and_cleared() -> None:
    """A fault hits as often as its rule says; the list counts its hits. One rule or all of them can be removed."""
    async with running_emulator() as running:
        status, first = await call(running, "POST", "faults", fault="error-500", times=1)
        assert (status, first["fault"], first["on"], first["hits"]) == (200, "error_500", "submit", 0)
        _, second = await call(running, "POST", "faults", fault="UNAVAILABLE_503", on="call")
        assert [(await running.submit())[0] for _ in range(2)] == [500, 200]
        _, listed = await call(running, "GET", "faults")
        assert [(rule["id"], rule["hits"]) for rule in listed["faults"]] == [(first["id"], 1), (second["id"], 0)]
        assert set(listed["known"]) == {fault.name.lower() for fault in Fault}
        assert (await call(running, "DELETE", f"faults/{second['id']}"))[0] == 200
        assert (await call(running, "DELETE", f"faults/{second['id']}"))[0] == 404
        assert (await running.post(BALANCE))[0] == 200
        await call(running, "POST", "faults", fault="error_500")
        await call(running, "DELETE", "faults")
        assert (await running.submit())[0] == 200


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"fault": "no_such"}, "fault='no_such'"),
        ({}, "fault=None"),
        ({"fault": "slow", "rate": 2}, "rate=2"),
        ({"fault": "slow", "rate": "x"}, "rate='x'"),
        ({"fault": "slow", "times": "x"}, "times='x'"),
        ({"fault": "slow", "on": "file"}, "on='file'"),
        ({"fault": "slow", "secs": 1}, "secs=1"),
    ],
)
async def test_a_wrong_fault_is_refused(params: dict[str, Any], says: str) -> None:
    """A wrong field is named with its value, and no rule is added."""
    async with running_emulator() as running:
        status, answer = await call(running, "POST", "faults", **params)
        assert (status, says in answer["error"]) == (400, True), answer
        assert (await call(running, "GET", "faults"))[1]["faults"] == []


async def test_accounts() -> None:
    """A key gets its own wallet and plan, and can be withdrawn. Other keys keep the options of the start."""
    async with running_emulator(keys={KEY}) as running:
        assert (await running.post(BALANCE, **OTHER))[0] == 401
        _, account = await call(running, "POST", "accounts", key=OTHER_KEY, wallet="0.30", plan="standard")
        assert (account["wallet"], account["queue_limit"], account["is_accepted"]) == ("0.30", 10, True)
        assert [(await running.submit(**OTHER))[0] for _ in range(2)] == [200, 402]
        _, listed = await call(running, "GET", "accounts")
        (row,) = [each for each in listed["accounts"] if each["account"] == account["account"]]
        assert (row["spent"], row["balance"]) == ("0.20", "0.10")
        await call(running, "POST", "accounts", key=OTHER_KEY, wallet=None, queue_limit=1, workers=1)
        assert (await running.post(BALANCE))[1]["data"]["balance"] == 100
        assert (await call(running, "DELETE", "accounts", key=OTHER_KEY))[1]["is_accepted"] is False
        assert (await running.post(BALANCE, **OTHER))[0] == 401


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"wallet": 1}, "key="),
        ({"key": 5}, "key="),
        ({"key": KEY, "wallet": "much"}, "wallet='much'"),
        ({"key": KEY, "plan": "gold"}, "plan='gold'"),
        ({"key": KEY, "queue_limit": 0}, "queue_limit=0"),
        ({"key": KEY, "purse": 1}, "purse=1"),
    ],
)
async def test_a_wrong_account_is_refused(params: dict[str, Any], says: str) -> None:
    """A wrong field is named, and the key is not shown."""
    async with running_emulator() as running:
        status, answer = await call(running, "POST", "accounts", **params)
        assert (status, says in answer["error"]) == (400, True), answer


async def test_jobs_with_the_requests_as_they_came() -> None:
    """Each job has its request without the key. An inline picture is shown by length and digest."""
    async with running_emulator(speed=1.0) as running:
        prompt = "zoom in, " * 100
        _, reply = await running.submit(track_id="mine", fps="12", unknown=[1], portrait=True, prompt=prompt)
        await running.submit(**OTHER)
        await running.post(f"{FETCH}{reply['id']}")
        _, listed = await call(running, "GET", "jobs?track_id=mine")
        (job,) = listed["jobs"]
        assert listed["accepted"] == 2
        assert (job["id"], job["state"], job["polls"], job["track_id"]) == (reply["id"], "processing", 1, "mine")
        assert job["link"] == reply["future_links"][0]
        body = job["request"]["body"]
        assert (job["request"]["path"], body["fps"], body["unknown"], body["portrait"]) == (SUBMIT, "12", [1], True)
        assert body["prompt"] == prompt
        assert "SHA-256" in body["init_image"]
        assert (await call(running, "GET", f"jobs/{job['id']}"))[1]["id"] == job["id"]
        assert (await call(running, "GET", "jobs/1"))[0] == 404
        assert [len((await call(running, "GET", f"jobs?{query}"))[1]["jobs"]) for query in _QUERIES] == [1, 2, 0, 1, 1]


_QUERIES = (f"key={KEY}", "state=processing", "state=success", "limit=1", f"key={OTHER_KEY}&limit=5")


async def test_a_job_is_finished_or_failed_now() -> None:
    """A job ends when the test says so: its fetch, its link and its webhook report the end at once."""
    payloads: asyncio.Queue[Any] = asyncio.Queue()

    async def receive(request: web.Request) -> web.Response:
        await payloads.put(await request.json())
        return web.Response()

    async with other_server(hook=receive) as other, running_emulator(speed=1.0, workers=1) as running:
        ids = [(await running.submit(webhook=f"{other}/hook"))[1]["id"] for _ in range(3)]
        assert (await call(running, "POST", f"jobs/{ids[1]}/finish"))[1]["state"] == "success"
        assert (await call(running, "POST", f"jobs/{ids[0]}/fail", message="Out of memory"))[1]["state"] == "failed"
        assert (await call(running, "POST", f"jobs/{ids[0]}/finish"))[0] == 400
        end = (await running.post(f"{FETCH}{ids[1]}"))[1]
        assert (end["status"], (await running.get(end["output"][0]))[0]) == ("success", 200)
        assert (await running.post(f"{FETCH}{ids[0]}"))[1]["message"] == "Out of memory"
        assert (await running.post(f"{FETCH}{ids[2]}"))[1]["status"] == "processing"
        delivered = [await payloads.get() for _ in range(2)]
        assert {(each["id"], each["status"]) for each in delivered} == {(ids[1], "success"), (ids[0], "failed")}


async def test_time_is_put_forward() -> None:
    """Advancing the clock ends jobs, sends their webhooks and lets temporary files expire, at any speed."""
    payloads: asyncio.Queue[Any] = asyncio.Queue()

    async def receive(request: web.Request) -> web.Response:
        await payloads.put(await request.json())
        return web.Response()

    async with other_server(hook=receive) as other, running_emulator(speed=10.0) as running:
        _, reply = await running.submit(webhook=f"{other}/hook", temp=True, num_inference_steps=100)
        status, clock = await call(running, "POST", "time", advance=1000)
        assert (status, clock["now"] >= 100) == (200, True)
        assert (await payloads.get())["status"] == "success"
        (link,) = (await running.post(f"{FETCH}{reply['id']}"))[1]["output"]
        assert (await running.get(link))[0] == 200
        await call(running, "POST", "time", advance=24 * 3600)
        assert (await running.get(link))[0] == 404
        for wrong in (-1, "x", True, 1e30):
            assert (await call(running, "POST", "time", advance=wrong))[0] == 400


async def test_reset() -> None:
    """A reset of one key leaves the others. A reset of everything also returns to the faults of the start."""
    rule = Rule(Fault.ERROR_500, times=1)
    async with running_emulator(faults=[rule], wallet=Decimal(10)) as running:
        assert [(await running.submit())[0] for _ in range(2)] == [500, 200]
        _, theirs = await running.submit(**OTHER)
        await call(running, "POST", "reset", key=KEY)
        assert [charge.job_id for charge in running.emulator.ledger.charges] == [theirs["id"]]
        assert (await running.post(BALANCE))[1]["data"]["balance"] == 10
        assert (await running.post(BALANCE, **OTHER))[1]["data"]["balance"] == pytest.approx(9.8)
        assert (await call(running, "GET", "requests"))[1]["requests"][-1]["path"] == SUBMIT
        await call(running, "POST", "reset")
        assert (running.emulator.ledger.charges, running.emulator.ledger.total()) == ([], Decimal(0))
        assert (await call(running, "GET", "jobs"))[1]["jobs"] == []
        statuses = [await running.submit() for _ in range(2)]
        assert [status for status, _ in statuses] == [500, 200]
        assert statuses[1][1]["id"] > theirs["id"]


async def test_requests_are_logged() -> None:
    """The newest POSTs are listed first, with the fault that hit them and the status, and without the key."""
    async with running_emulator(faults=[Rule(Fault.HTML_502, on="call", times=1)]) as running:
        async with running.session.post(running.emulator.url + BALANCE, json={"key": KEY}) as response:
            assert response.status == 502
        await running.submit(prompt="")
        _, listed = await call(running, "GET", "requests?limit=2")
    newest, oldest = listed["requests"]
    assert (newest["path"], newest["status"], newest["body"]["prompt"]) == (SUBMIT, 400, "")
    assert (oldest["path"], oldest["status"], oldest["fault"], oldest["body"]) == (BALANCE, 502, "html_502", {})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("GET", "no/such", 404), ("GET", "", 404), ("DELETE", "ledger", 405), ("GET", "reset", 405)),
        *(("GET", "jobs/x", 404), ("POST", "jobs/1/finish", 404), ("DELETE", "faults/x", 404)),
    ],
)
async def test_an_unknown_call_is_refused(method: str, path: str, status: int) -> None:
    """An unknown route or id is answered with 404, a wrong method with 405, and the answer says why."""
    async with running_emulator() as running:
        found, answer = await call(running, method, path)
    assert (found, bool(answer["error"])) == (status, True)


async def test_a_body_that_is_no_object_is_refused() -> None:
    """The control API takes a JSON object, or nothing."""
    async with running_emulator() as running:
        url = f"{running.emulator.url}/emulator/faults"
        for body in (b"[]", b"fault=slow", b'"slow"'):
            async with running.session.post(url, data=body) as response:
                assert response.status == 400


async def test_a_page_of_another_origin_may_not_control() -> None:
    """A web page of another site, which a browser names in `Origin`, cannot reset the emulator. Its own page can."""
    async with running_emulator() as running:
        url = f"{running.emulator.url}/emulator/reset"
        for origin, status in (("https://elsewhere.invalid", 403), ("null", 403), (running.emulator.url, 200)):
            async with running.session.post(url, headers={"Origin": origin}) as response:
                assert response.status == status


def test_the_methods_work_from_another_thread() -> None:
    """A synchronous test controls an emulator that runs in another thread by its methods."""
    with Emulator.running(render=skeleton, speed=1.0) as emulator:
        service = emulator.service
        emulator.set_faults([Rule(Fault.ERROR_500)])
        assert [state.rule.fault for state in service.faults.states] == [Fault.ERROR_500]
        before = emulator.now()
        emulator.advance(100)
        assert emulator.now() - before >= 100
        emulator.reset()
        assert service.faults.states == []
        wrong: Any = ["no rule"]
        with pytest.raises(InvalidRequestError, match="faults"):
            emulator.set_faults(wrong)
        for end in (emulator.finish_job, emulator.fail_job):
            with pytest.raises(LookupError, match="id=1"):
                end(1)


def test_the_methods_work_before_the_start() -> None:
    """An emulator that has not started yet can be set up by its methods."""
    emulator = Emulator(render=skeleton)
    emulator.set_faults([Rule(Fault.ERROR_500)])
    emulator.advance(5)
    assert emulator.service.faults.states
    emulator.reset()
    assert not emulator.service.faults.states


async def test_no_webhook_comes_after_a_reset() -> None:
    """A webhook of a job that a reset has forgotten is not delivered to the next test."""
    payloads: asyncio.Queue[Any] = asyncio.Queue()

    async def receive(request: web.Request) -> web.Response:
        await payloads.put(await request.json())
        return web.Response()

    async with other_server(hook=receive) as other, running_emulator(speed=1.0) as running:
        await running.submit(webhook=f"{other}/hook", track_id="old")
        running.emulator.reset()
        await running.submit(webhook=f"{other}/hook", track_id="new")
        running.emulator.advance(1000)
        assert (await payloads.get())["track_id"] == "new"
        assert payloads.empty()
