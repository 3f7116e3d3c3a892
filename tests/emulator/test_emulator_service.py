"""The emulated service as a pure state machine: a request and an instant in, an answer out."""

from __future__ import annotations

import base64
import itertools
import json
import math
import random
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from statistics import median
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelslab_async import InvalidRequestError
from modelslab_async.emulator import Fault, Rule, Service, Work, skeleton
from modelslab_async.emulator.faults import FaultPlan
from modelslab_async.emulator.files import FileAnswer, served
from modelslab_async.emulator.order import EtaKind, account_fingerprint, processing_seconds
from modelslab_async.emulator.page import ledger_json, page
from modelslab_async.emulator.replies import Answer, Deed

KEY = "a-key-that-no-answer-may-show"
OTHER = "another-key-of-somebody-else"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)
DAY = 24 * 3600.0
SUBMIT = "/api/v6/video/img2video_ultra"
FETCH = "/api/v6/video/fetch/"
ENTERPRISE = "/api/v1/enterprise/image_to_video_ultra/"
UPLOAD = "/api/v6/base64_to_url"
COUNT = "/api/v6/processing/request_count"
ASSETS = "/api/v6/assets_generated"
BALANCE = "/api/wallet_balance"
NOT_FOUND = {"status": "failed", "id": "", "message": "Request not found", "output": ""}
SMALL: dict[str, Any] = {"resolution": 64, "num_frames": 8, "num_inference_steps": 4}
"""A job that takes far less than 5 s."""


def said(answer: Answer) -> dict[str, Any]:
    """The JSON of an answer."""
    value: dict[str, Any] = json.loads(answer.body)
    return value


@attrs.define
class Desk:
    """A service with steady etas, and its customers."""

    service: Service

    def post(self, path: str, now: float = 0.0, *, key: str = KEY, **params: Any) -> Answer:
        return self.service.handle(now, path, json.dumps({"key": key, **params}).encode(), PNG)

    def submit(self, now: float = 0.0, *, key: str = KEY, path: str = SUBMIT, **changes: Any) -> Answer:
        asked = {"prompt": "moving character", "init_image": "https://pictures.invalid/a.png", **changes}
        return self.post(path, now, key=key, **{name: value for name, value in asked.items() if value is not ...})

    def fetch(self, job_id: object, now: float = 0.0, *, key: str = KEY) -> dict[str, Any]:
        return said(self.post(f"{FETCH}{job_id}", now, key=key))

    @property
    def paid(self) -> Decimal:
        return self.service.ledger.total()


def a_desk(**options: Any) -> Desk:
    return Desk(Service(**{"eta": {"good": 1}, **options}))


def name_of(link: str) -> str:
    return link.rpartition("/")[2]


# --- submit ---


@pytest.mark.parametrize(
    ("path", "fetch"),
    [(SUBMIT, FETCH), (ENTERPRISE + "img2video", ENTERPRISE + "fetch/")],
)
def test_a_submit_is_taken(path: str, fetch: str) -> None:
    """A job that takes its time is processing: with an integer id, an eta, where to fetch, where the file will be."""
    desk = a_desk(origin="http://here.invalid")
    answer = desk.submit(path=path, num_inference_steps=25)
    reply = said(answer)
    documented = {"status", "tip", "eta", "message", "fetch_result", "id", "output", "future_links", "meta"}
    assert (answer.status, reply["status"], set(reply)) == (200, "processing", documented)
    assert isinstance(reply["id"], int)
    assert reply["output"] == []
    assert reply["fetch_result"] == f"http://here.invalid{fetch}{reply['id']}"
    assert [link.startswith("http://here.invalid/") for link in reply["future_links"]] == [True]


def test_slashes_are_escaped() -> None:
    """The service escapes the slashes of its JSON, and what is read is what was meant."""
    desk = a_desk()
    raw = desk.submit(prompt='a/b \\/ "quoted"').body
    assert b"/" in raw
    assert not re.search(rb"(?<!\\)/", raw)
    assert json.loads(raw)["meta"]["prompt"] == 'a/b \\/ "quoted"'


@pytest.mark.parametrize("name", ["base64", "portrait", "temp"])
@pytest.mark.parametrize(
    ("sent", "echoed"), [(True, "yes"), (False, "no"), ("true", "yes"), ("false", "no"), (None, "no"), (..., "no")]
)
def test_meta_says_yes_and_no(name: str, sent: Any, echoed: str) -> None:
    """The meta echoes booleans as "yes" and "no"."""
    picture = base64.b64encode(PNG).decode() if name == "base64" else "https://pictures.invalid/a.png"
    assert said(a_desk().submit(init_image=picture, **{name: sent}))["meta"][name] == echoed


def test_meta_fills_the_seed_in() -> None:
    """A seed that was asked for comes back; one that was not is chosen, and may be above 2^31."""
    desk = a_desk(queue_limit=200)
    assert said(desk.submit(seed=7))["meta"]["seed"] == 7
    assert said(desk.submit(seed=0))["meta"]["seed"] == 0
    chosen = [said(desk.submit(seed=seed))["meta"]["seed"] for seed in [None, ...] * 30]
    assert chosen == [order.work.seed for order in list(desk.service.orders.values())[2:]]
    assert all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in chosen)
    assert len(set(chosen)) == len(chosen)
    assert max(chosen) > 2**31


@pytest.mark.parametrize("sent", [..., None, 100_000, "100000"])
def test_meta_id_is_never_the_jobs(sent: object) -> None:
    """meta.id is not the job's id, even where the request brings a parameter of this name."""
    reply = said(a_desk().submit(id=sent))
    assert str(reply["meta"]["id"]) != str(reply["id"])


def test_meta_has_the_names_of_the_page() -> None:
    """The page's sample of a request is echoed under the names of its sample of a reply, and the model's."""
    asked: dict[str, Any] = {"negative_prompt": "low quality", "resolution": 480, "num_frames": 81, "fps": 16}
    asked |= {"num_inference_steps": 30, "guidance_scale": 5.0, "shift_sample": 3, "webhook": None, "track_id": None}
    meta = said(a_desk().submit(**asked))["meta"]
    names = """base64 file_prefix fps guidance_scale id instant_response negative_prompt num_frames num_inference_steps
    opacity output_type padding_down padding_right portrait prompt rescale resolution sample_shift scale_down seed temp
    track_id watermark webhook model_id"""
    assert set(meta) == set(names.split())


def test_meta_echoes_the_request() -> None:
    """What was sent comes back in meta, `shift_sample` as `sample_shift`; neither key nor picture does."""
    meta = said(a_desk().submit(negative_prompt="low quality", guidance_scale=7.5, shift_sample=3))["meta"]
    wanted = {"negative_prompt": "low quality", "guidance_scale": 7.5, "sample_shift": 3, "prompt": "moving character"}
    assert {name: meta.get(name) for name in wanted} == wanted
    assert not {"key", "init_image", "shift_sample"} & set(meta)


@pytest.mark.parametrize(
    ("sent", "used"),
    [
        (..., "wan2.2"),
        (None, "wan2.2"),
        ("wan2.2", "wan2.2"),
        ("ltx-2.3", "ltx-2.3"),
        ("wan2.1", "wan2.1"),
        ("no such model", "wan2.2"),
        (["wan2.1"], "wan2.2"),
    ],
)
def test_an_unknown_model_becomes_wan(sent: object, used: str) -> None:
    """An unknown model is no error: the service silently uses wan2.2."""
    assert said(a_desk().submit(model_id=sent))["meta"]["model_id"] == used


def test_numbers_may_be_strings() -> None:
    """Numbers that are sent as strings are read as numbers: the same job."""
    numbers: dict[str, Any] = {"num_frames": 60, "num_inference_steps": 25, "fps": 12, "seed": 5, "resolution": 480}
    desks = a_desk(), a_desk()
    desks[0].submit(**numbers)
    texts: dict[str, Any] = {name: str(value) for name, value in numbers.items()}
    desks[1].submit(**texts)
    first, second = (next(iter(desk.service.orders.values())) for desk in desks)
    assert (first.work, first.done_at) == (second.work, second.done_at)
    assert (first.work.frames, first.work.fps, first.work.seed) == (60, 12, 5)


@pytest.mark.parametrize(
    ("params", "size"),
    [
        ({}, (832, 480)),
        ({"resolution": 480}, (832, 480)),
        ({"resolution": 480, "portrait": True}, (480, 832)),
        ({"resolution": "1:1"}, (480, 480)),
        ({"resolution": "2:1", "portrait": True}, (480, 960)),
        ({"resolution": 481}, (832, 480)),
        ({"resolution": 1}, (16, 16)),
    ],
)
def test_the_size(params: dict[str, Any], size: tuple[int, int]) -> None:
    """480 is 832×480; portrait swaps the sides; a ratio is of 480 lines; sides are even, and 16 at least."""
    desk = a_desk()
    desk.submit(**params)
    work = next(iter(desk.service.orders.values())).work
    assert (work.width, work.height) == size


@pytest.mark.parametrize(
    ("enterprise", "frames", "duration"),
    [(False, 81, 81 * 20), (True, 92, 92 * 8)],
)
def test_defaults(enterprise: bool, frames: int, duration: int) -> None:
    """81 frames in 20 steps, on a dedicated server 92 in 8: fewer steps, less time."""
    desk = a_desk()
    desk.submit(path=ENTERPRISE + "img2video" if enterprise else SUBMIT)
    order = next(iter(desk.service.orders.values()))
    rng = random.Random("job 0 0")
    rng.getrandbits(32)
    steps = duration // frames
    assert order.work.frames == frames
    assert order.done_at == pytest.approx(processing_seconds(order.work, steps, rng))


@pytest.mark.parametrize(
    "params", [{"num_inference_steps": 31}, {"fps": 18}, {"sample_shift": 11}, {"resolution": 720}]
)
def test_the_pages_maxima_are_not_enforced(params: dict[str, Any]) -> None:
    """The page's own examples go beyond its maxima, and their reply echoes them: so they are accepted."""
    meta = said(a_desk().submit(**params))["meta"]
    assert {name: meta[name] for name in params} == params


# --- refusals ---


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"prompt": ...}, {"prompt": ["The prompt field is required."]}),
        ({"prompt": None}, {"prompt": ["The prompt field is required."]}),
        ({"prompt": "  "}, {"prompt": ["The prompt field is required."]}),
        ({"prompt": 5}, {"prompt": ["The prompt field is required."]}),
        ({"init_image": ...}, {"init_image": ["The init image field is required."]}),
    ],
)
def test_a_missing_field_is_an_object(params: dict[str, Any], message: dict[str, list[str]]) -> None:
    """What is missing is told as an object of field → sentences."""
    answer = a_desk().submit(**params)
    assert (answer.status, said(answer)) == (400, {"status": "error", "message": message})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(("num_frames", "num_inference_steps", "fps"), (0, -1, "x", 10**9)),
        ("num_frames", []),
        ("num_frames", float("inf")),
        ("num_frames", float("nan")),
        ("num_frames", {}),
        ("seed", "x"),
        ("seed", 2**70),
        ("resolution", 0),
        ("resolution", "16:0"),
        ("resolution", "²:9"),
        ("resolution", "1:2:3"),
        ("resolution", "9" * 5000 + ":9"),
        ("resolution", "9" * 5000),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_wrong_number_is_named(name: str, value: Any) -> None:
    """A number that cannot be right is refused under its name, and costs nothing."""
    desk = a_desk()
    answer = desk.submit(**{name: value})
    assert answer.status == 400
    assert set(said(answer)["message"]) == {name}
    assert not desk.paid


@pytest.mark.parametrize("picture", [None, b"", b"<html>", b"GIF"])
def test_a_picture_must_be_one(picture: bytes | None) -> None:
    """A picture's URL that gives nothing, or no picture, is refused; inline, the same."""
    desk = a_desk()
    body = {"key": KEY, "prompt": "p", "init_image": "https://pictures.invalid/a.png"}
    by_url = desk.service.handle(0.0, SUBMIT, json.dumps(body).encode(), picture)
    inline = desk.submit(base64=True, init_image=base64.b64encode(picture or b"no").decode())
    no_base64 = desk.submit(base64=True, init_image="https://pictures.invalid/a.png")
    assert [answer.status for answer in (by_url, inline, no_base64)] == [400, 400, 400]
    assert [set(said(answer)["message"]) for answer in (by_url, inline, no_base64)] == [{"init_image"}] * 3
    assert not desk.paid


@pytest.mark.parametrize(
    ("path", "params", "url"),
    [
        (SUBMIT, {"init_image": "https://a.invalid/b"}, "https://a.invalid/b"),
        (ENTERPRISE + "img2video", {"init_image": "http://a.invalid/b"}, "http://a.invalid/b"),
        (SUBMIT, {"init_image": "https://a.invalid/b", "base64": True}, None),
        (SUBMIT, {"init_image": "file:///etc/passwd"}, None),
        (SUBMIT, {"init_image": 5}, None),
        (SUBMIT, {}, None),
        (BALANCE, {"init_image": "https://a.invalid/b"}, None),
    ],
)
def test_which_picture_is_fetched(path: str, params: dict[str, Any], url: str | None) -> None:
    """Only a submit has a picture to fetch, and only over http and https."""
    assert a_desk().service.picture_url(path, json.dumps(params).encode()) == url


def _full(profile: str) -> Answer:
    desk = a_desk(profile=profile)
    return [desk.submit() for _ in range(6)][-1]


REFUSALS: Mapping[str, tuple[int, Callable[[str], Answer]]] = {
    "bad request": (400, lambda profile: a_desk(profile=profile).submit(prompt=...)),
    "key": (401, lambda profile: a_desk(profile=profile, keys={OTHER}).submit()),
    "credits": (402, lambda profile: a_desk(profile=profile, wallet=Decimal(0)).submit()),
    "route": (404, lambda profile: a_desk(profile=profile).post("/api/v6/no/such/route")),
    "places": (429, _full),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_profiles(name: str) -> None:
    """documented: a refusal has its HTTP code; legacy: it comes at HTTP 200, and only its status says error."""
    status, refused = REFUSALS[name]
    documented, legacy = refused("documented"), refused("legacy")
    assert (documented.status, legacy.status) == (status, 200)
    words = [said(answer).get("message") or said(answer).get("messege") for answer in (documented, legacy)]
    assert words[0] == words[1]
    assert [said(answer)["status"] for answer in (documented, legacy)] == ["error", "error"]


def test_messege() -> None:
    """Profile legacy spells message in the service's own way at times; documented never does."""
    spellings = {}
    for profile in ("legacy", "documented"):
        desk = a_desk(profile=profile)
        spellings[profile] = {
            name for _ in range(40) for name in said(desk.submit(prompt=...)) if name.startswith("mess")
        }
    assert spellings == {"legacy": {"message", "messege"}, "documented": {"message"}}


@pytest.mark.parametrize("fault", [Fault.ERROR_500, Fault.UNAVAILABLE_503])
def test_a_broken_service_says_so_in_any_profile(fault: Fault) -> None:
    """500 and 503 are no answers about the request: they keep their codes in legacy too."""
    answers = [a_desk(profile=profile, faults=[Rule(fault)]).submit() for profile in ("legacy", "documented")]
    assert {answer.status for answer in answers} == {int(fault.name[-3:])}


@pytest.mark.parametrize("key", [..., None, "", 5, ["k"], {}, True])
@pytest.mark.parametrize("path", [SUBMIT, FETCH + "1", UPLOAD, COUNT, ASSETS, BALANCE, ENTERPRISE + "clear_queue"])
def test_no_key_no_answer(path: str, key: Any) -> None:
    """Every call needs a key that is a text and not empty."""
    body = {} if key is ... else {"key": key}
    answer = a_desk().service.handle(0.0, path, json.dumps(body).encode(), PNG)
    assert (answer.status, said(answer)["message"]) == (401, "Invalid API Key")


def test_keys() -> None:
    """With a list of keys, a key that is not on it is refused, and costs nobody anything."""
    desk = a_desk(keys={KEY})
    assert [desk.submit().status, desk.submit(key=OTHER).status] == [200, 401]
    assert [desk.service.ledger.total(key) for key in (KEY, OTHER)] == [Decimal("0.20"), Decimal(0)]


# --- places and times ---

_SUBMITS = st.lists(
    st.tuples(
        st.floats(0, 60),
        st.sampled_from([KEY, OTHER]),
        st.sampled_from([8, 40, 81, 200]),
        st.sampled_from([64, 240, 480]),
    ),
    max_size=60,
)


@given(_SUBMITS, st.integers(1, 6), st.integers(1, 8) | st.none())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_places(submits: list[tuple[float, str, int, int]], limit: int, workers: int | None) -> None:
    """An account never has more open jobs than places, and is refused only then; first in, first out, by workers.

    A worker that is free takes the next job at once, and every accepted submit, and no other, costs $0.20.
    """
    desk = a_desk(queue_limit=limit, workers=workers)
    now, accepted = 0.0, 0
    for gap, key, frames, lines in submits:
        now += gap
        mine = [order for order in desk.service.orders.values() if order.account == account_fingerprint(key)]
        open_before = sum(order.done_at > now for order in mine)
        answer = desk.submit(now, key=key, num_frames=frames, resolution=lines)
        accepted += answer.status == 200
        assert (answer.status == 200) == (open_before < limit)
        assert len(desk.service.running(key, now)) == min(open_before + 1, limit)
    assert desk.service.book.busiest <= limit
    assert desk.paid == accepted * Decimal("0.20")
    for key in (KEY, OTHER):
        mine = [order for order in desk.service.orders.values() if order.account == account_fingerprint(key)]
        assert [order.starts_at for order in mine] == sorted(order.starts_at for order in mine)
        for order in mine:
            at_work = [other for other in mine if other.starts_at <= order.starts_at < other.done_at]
            assert len(at_work) <= (workers or limit)
            assert order.starts_at == order.taken_at or order.starts_at in {other.done_at for other in mine}


@pytest.mark.parametrize("speed", [1.0, 10.0])
@pytest.mark.parametrize("limit", [5, 10, 15])
def test_no_place_is_told(limit: int, speed: float) -> None:
    """The refusal names the number of places, and says in its body when to come again: 30 s, divided by speed."""
    desk = a_desk(queue_limit=limit, speed=speed)
    answers = [desk.submit() for _ in range(limit + 1)]
    assert [answer.status for answer in answers] == [200] * limit + [429]
    words = f"Rate limit exceeded. Maximum {limit} queued requests allowed."
    assert said(answers[-1]) == {"status": "error", "message": words, "retry_after": 30 / speed}


def a_work(**changes: Any) -> Work:
    usual = {"picture": PNG, "prompt": "p", "seed": 1, "width": 832, "height": 480, "frames": 81, "fps": 16}
    return Work(**{**usual, **changes})


@given(st.integers(1, 500), st.integers(1, 100), st.integers(1, 60), st.integers(0, 2**32))
def test_work_takes_its_time(frames: int, sixteenths: int, steps: int, seed: int) -> None:
    """The time grows with frames × pixels × steps."""
    work = a_work(frames=frames, width=16 * sixteenths)
    seconds = processing_seconds(work, steps, random.Random(seed))
    one = processing_seconds(a_work(frames=1, width=16), 1, random.Random(seed))
    assert seconds == pytest.approx(one * frames * sixteenths * steps)


def test_the_usual_job_takes_what_was_measured() -> None:
    """480p, 81 frames, 20 steps: the middle of many is within the measured 34 to 44 s, and they differ."""
    seconds = [processing_seconds(a_work(), 20, random.Random(seed)) for seed in range(400)]
    assert 34 <= median(seconds) <= 44
    assert len(set(seconds)) == len(seconds)


def test_speed_divides_all_times() -> None:
    """The same service ten times as fast: each instant of each job is a tenth."""
    slow, fast = a_desk(speed=1.0, workers=2), a_desk(speed=10.0, workers=2)
    for desk in (slow, fast):
        for _ in range(5):
            desk.submit()
    for one, other in zip(slow.service.orders.values(), fast.service.orders.values(), strict=True):
        times = [(order.starts_at, order.done_at, order.file_at) for order in (one, other)]
        assert times[1] == pytest.approx([time / 10 for time in times[0]])


_ETAS: Mapping[EtaKind, Callable[[Any, float], bool]] = {
    "good": lambda eta, seconds: isinstance(eta, int) and seconds / 2 < eta < seconds * 2,
    "float": lambda eta, seconds: isinstance(eta, float) and seconds / 2 < eta < seconds * 2,
    "absent": lambda eta, _: eta == "absent",
    "zero": lambda eta, _: eta == 0,
    "ten times": lambda eta, seconds: isinstance(eta, int) and abs(eta - 10 * seconds) <= 0.5,
    "a tenth": lambda eta, seconds: isinstance(eta, int) and abs(eta - seconds / 10) <= 0.5,
}


@pytest.mark.parametrize("kind", _ETAS)
def test_kinds_of_eta(kind: EtaKind) -> None:
    """An eta may be good, absent, 0, or wrong by an order of magnitude; it counts the wait in the queue too."""
    desk = a_desk(eta={kind: 1}, workers=1)
    for _ in range(5):
        reply = said(desk.submit(7.0))
        seconds = desk.service.orders[reply["id"]].done_at - 7.0
        assert _ETAS[kind](reply.get("eta", "absent"), seconds)


# --- fetch ---


def test_a_fetch_that_is_not_ready_says_little() -> None:
    """Not ready: status, message and an empty output; no id and no eta; two ways of saying it."""
    desk = a_desk(workers=1)
    jobs = [said(desk.submit())["id"] for _ in range(2)]
    replies = [desk.fetch(job, now=1.0) for job in jobs for _ in range(20)]
    assert {tuple(sorted(reply)) for reply in replies} == {("message", "output", "status")}
    assert {(reply["status"], reply["output"]) for reply in replies} == {("processing", "")}
    assert {reply["message"] for reply in replies} == {"Try Again", "try again later."}


def test_a_fetch_that_is_ready() -> None:
    """Ready: status, id, output and proxy_links, and the link is the one that was announced; again and again."""
    desk = a_desk()
    reply = said(desk.submit())
    done_at = desk.service.orders[reply["id"]].done_at
    ready = {
        "status": "success",
        "id": reply["id"],
        "output": reply["future_links"],
        "proxy_links": reply["future_links"],
    }
    assert desk.fetch(reply["id"], now=done_at - 0.001)["status"] == "processing"
    assert [desk.fetch(reply["id"], now=done_at + later) for later in (0.0, 1.0, DAY)] == [ready] * 3


@pytest.mark.parametrize("job_id", ["1", "100001", "abc", "", "²", "-1", "100000.0", "9" * 5000, "1e5"], ids=ascii)
def test_an_unknown_id_is_not_found(job_id: str) -> None:
    """An id that nobody has is "Request not found", whatever it looks like."""
    desk = a_desk()
    assert said(desk.submit())["id"] == 100_000
    assert desk.fetch(job_id) == NOT_FOUND


def test_another_key_finds_nothing() -> None:
    """A job is there for the key that submitted it, and for no other."""
    desk = a_desk()
    job_id = said(desk.submit())["id"]
    for now in (0.0, 1000.0):
        assert desk.fetch(job_id, now, key=OTHER) == NOT_FOUND
        assert desk.fetch(job_id, now) != NOT_FOUND


@pytest.mark.parametrize("path", ["/fetch/100000", "/api/v6/fetch/100000", "/api/v6/video/fetch", "/", "", "x"])
def test_only_documented_paths(path: str) -> None:
    """A path that the service does not have is 404: a client's wrong path is seen."""
    desk = a_desk()
    desk.submit()
    assert desk.post(path).status == 404


# --- at once ---


def test_a_small_job_is_done_at_once() -> None:
    """Success at once: the reply takes as long as the job; future_links name another file, which never comes."""
    desk = a_desk()
    answer = desk.submit(10.0, **SMALL)
    reply = said(answer)
    fields = {"status", "generationTime", "id", "output", "proxy_links", "meta", "future_links"}
    assert (reply["status"], set(reply)) == ("success", fields)
    assert reply["output"] == reply["proxy_links"]
    assert set(reply["future_links"]).isdisjoint(reply["output"])
    assert reply["generationTime"] == pytest.approx(answer.delay, abs=0.01)
    arrived = 10.0 + answer.delay
    assert desk.service.file(arrived, name_of(reply["output"][0])).status == 200
    assert desk.service.file(arrived + DAY / 2, name_of(reply["future_links"][0])).status == 404
    assert desk.fetch(reply["id"], arrived)["output"] == reply["output"]
    assert desk.paid == Decimal("0.20")


def test_a_small_job_that_must_queue_is_not_done_at_once() -> None:
    """Only a job that starts at once is answered at once."""
    desk = a_desk(workers=1)
    assert [said(desk.submit())["status"], said(desk.submit(**SMALL))["status"]] == ["processing", "processing"]


# --- files ---


def test_links_come_late() -> None:
    """A link answers 404, some 403, until its file is written: with success or up to 40 s after it."""
    desk = a_desk(queue_limit=40)
    early = set()
    for _ in range(40):
        reply = said(desk.submit())
        order, name = desk.service.orders[reply["id"]], name_of(reply["future_links"][0])
        early |= {desk.service.file(now, name).status for now in (0.0, order.done_at - 1, order.file_at - 0.001)}
        assert desk.service.file(order.file_at, name).status == 200
        assert order.done_at <= order.file_at <= order.done_at + 40
    assert early == {403, 404}


@pytest.mark.parametrize(("temp", "after_a_day"), [(True, 404), ("true", 404), (False, 200), (None, 200)])
def test_temporary_files_die(temp: object, after_a_day: int) -> None:
    """temp: the file is gone 24 hours after it was made; others stay."""
    desk = a_desk()
    reply = said(desk.submit(temp=temp))
    done_at, name = desk.service.orders[reply["id"]].done_at, name_of(reply["future_links"][0])
    assert desk.service.file(done_at + DAY - 1, name).status == 200
    assert desk.service.file(done_at + DAY, name).status == after_a_day


@pytest.mark.parametrize("name", ["", "x.mp4", "../x", "\x00"])
def test_a_file_that_nobody_has(name: str) -> None:
    """A name that was never given is 404."""
    assert a_desk().service.file(0.0, name).status == 404


CONTENT = bytes(range(256))


def ranged(value: str | None, etag: str | None = None) -> tuple[int, dict[str, str], bytes]:
    headers = {"Range": value, "If-Range": etag}
    answer = FileAnswer(200, upload=CONTENT)
    status, more, body, breaks_off = served(answer, CONTENT, {name: text for name, text in headers.items() if text})
    assert not breaks_off
    assert more["Content-Length"] == str(len(body))
    return status, more, body


@pytest.mark.parametrize(
    ("value", "status", "body", "content_range"),
    [
        (None, 200, CONTENT, None),
        ("bytes=0-", 206, CONTENT, "bytes 0-255/256"),
        ("bytes=100-", 206, CONTENT[100:], "bytes 100-255/256"),
        ("bytes=10-19", 206, CONTENT[10:20], "bytes 10-19/256"),
        ("bytes=250-999", 206, CONTENT[250:], "bytes 250-255/256"),
        ("bytes=256-", 416, b"", "bytes */256"),
        ("bytes=9999-", 416, b"", "bytes */256"),
        ("lines=1-2", 200, CONTENT, None),
        ("bytes=0-" + "9" * 5000, 200, CONTENT, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_ranges(value: str | None, status: int, body: bytes, content_range: str | None) -> None:
    """A range is that part of the file; one beyond its end is 416; what is no range is the whole file."""
    answered, headers, part = ranged(value)
    assert (answered, part, headers.get("Content-Range")) == (status, body, content_range)
    assert headers["Accept-Ranges"] == "bytes"


def test_if_range() -> None:
    """A range of a file that is still the same is that range; of another file, the whole."""
    etag = ranged(None)[1]["ETag"]
    assert etag == ranged("bytes=5-9")[1]["ETag"]
    assert ranged("bytes=5-", etag)[0] == 206
    assert ranged("bytes=5-", '"another"')[::2] == (200, CONTENT)


# --- money ---


def test_the_ledger() -> None:
    """Each accepted submit is $0.20, under its track_id and its account, in order; refusals cost nothing."""
    desk = a_desk(queue_limit=3)
    for number in range(5):
        desk.submit(float(number), track_id=f"t{number}")
    desk.submit(3.0, key=OTHER, track_id="o")
    desk.submit(4.0, key=OTHER, prompt=...)
    ledger = desk.service.ledger
    assert ledger.track_ids() == ["t0", "t1", "t2", "o"]
    assert [charge.at for charge in ledger.charges] == [0.0, 1.0, 2.0, 3.0]
    assert [ledger.total(KEY), ledger.total(OTHER), ledger.total()] == [
        Decimal("0.60"),
        Decimal("0.20"),
        Decimal("0.80"),
    ]
    assert [charge.job_id for charge in ledger.charges] == list(desk.service.orders)


def test_the_wallet() -> None:
    """A wallet of $0.50 pays two jobs of each key; the third is 402, and the balance tells what is left."""
    desk = a_desk(wallet=Decimal("0.50"))
    assert [desk.submit().status for _ in range(4)] == [200, 200, 402, 402]
    assert said(desk.post(BALANCE)) == {"status": "success", "data": {"balance": 0.1, "currency": "USD"}}
    assert said(desk.post(BALANCE, key=OTHER))["data"]["balance"] == 0.5
    assert desk.submit(key=OTHER).status == 200


def test_the_calls_around_cost_nothing() -> None:
    """Only submits are charged: not fetches, uploads, counts, lists, balances."""
    desk = a_desk()
    for path in (FETCH + "100000", UPLOAD, COUNT, ASSETS, BALANCE, ENTERPRISE + "system_details"):
        desk.post(path)
    assert desk.paid == 0


# --- the calls around it ---


def test_request_count() -> None:
    """It counts the key's jobs that are queued or processing; 30 calls a minute, the next is 429."""
    desk = a_desk(workers=1)
    for _ in range(3):
        desk.submit()
    desk.submit(key=OTHER)
    answers = [desk.post(COUNT, now=0.5) for _ in range(31)]
    assert [answer.status for answer in answers] == [200] * 30 + [429]
    assert said(answers[0]) == {"status": "success", "processing_count": 3}
    assert said(desk.post(COUNT, now=0.5, key=OTHER))["processing_count"] == 1
    assert desk.post(COUNT, now=60.4).status == 429
    assert desk.post(COUNT, now=60.6).status == 200
    assert said(desk.post(COUNT, now=1000.0))["processing_count"] == 0


def test_assets_are_paged() -> None:
    """The finished jobs of the key, the newest first, page by page: each once, the total on every page."""
    desk = a_desk(queue_limit=40)
    ids = [said(desk.submit())["id"] for _ in range(12)]
    desk.submit(key=OTHER)
    failed = ids[4]
    desk.service.orders[failed].failed = "for some reason"
    later = 1000.0
    desk.submit(later)
    pages = [said(desk.post(ASSETS, later, type="video", page=number, per_page=5)) for number in (1, 2, 3, 4)]
    seen = [row["id"] for one in pages for row in one["data"]]
    assert seen == [job for job in reversed(ids) if job != failed]
    assert [len(one["data"]) for one in pages] == [5, 5, 1, 0]
    assert [one["pagination"] for one in pages] == [
        {"current_page": number, "per_page": 5, "total": 11} for number in (1, 2, 3, 4)
    ]
    row = pages[0]["data"][0]
    assert set(row) == {"id", "output"}
    assert row["output"] == [desk.service.orders[row["id"]].link(desk.service.origin)]


@pytest.mark.parametrize(
    ("params", "page_number", "per_page"),
    [
        ({}, 1, 10),
        ({"per_page": 99}, 1, 30),
        ({"per_page": "7", "page": "2"}, 2, 7),
        ({"per_page": 0, "page": -1}, 1, 10),
        ({"per_page": "9" * 5000, "page": []}, 1, 10),
        ({"page": 10**17}, 10**17, 10),
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_size_of_a_page(params: dict[str, Any], page_number: int, per_page: int) -> None:
    """10 rows by default and 30 at most; what is no number is the default."""
    pagination = said(a_desk().post(ASSETS, **params))["pagination"]
    assert pagination == {"current_page": page_number, "per_page": per_page, "total": 0}


PNG_URI = "data:image/png;base64," + base64.b64encode(PNG).decode()


def test_an_upload_lives_a_day() -> None:
    """An upload is a URL, whose file is the picture for 24 hours."""
    desk = a_desk(origin="http://here.invalid")
    reply = said(desk.post(UPLOAD, base64_string=PNG_URI))
    (url,) = reply["output"]
    assert (reply["status"], url.startswith("http://here.invalid/uploads/")) == ("success", True)
    assert desk.service.file(DAY - 1, name_of(url)) == FileAnswer(200, upload=PNG)
    assert desk.service.file(DAY, name_of(url)).status == 404


def test_an_uploads_name_comes_from_its_content() -> None:
    """What the data URI calls itself does not reach the file's name."""
    lie = PNG_URI.replace("image/png", "image/../../x?y#z")
    (url,) = said(a_desk().post(UPLOAD, base64_string=lie))["output"]
    assert re.fullmatch(r"[0-9a-f-]{36}\.png", name_of(url))


@pytest.mark.parametrize(
    "sent",
    [
        None,
        5,
        "",
        "data:image/png;base64,",
        base64.b64encode(PNG).decode(),
        PNG_URI.replace("image/", "text/"),
        "data:image/png;base64," + base64.b64encode(b"no picture").decode(),
        "data:image/png;base64,%%%",
        "data:image/png;base64," + base64.b64encode(PNG + bytes(5_000_000)).decode(),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_uploaded(sent: object) -> None:
    """An upload is a data URI of a picture, 5 MB at most."""
    answer = a_desk().post(UPLOAD, base64_string=sent)
    assert (answer.status, set(said(answer)["message"])) == (400, {"base64_string"})


def test_clear_queue() -> None:
    """clear_queue drops every job on that server, queued or processing, of any key; what is done stays done."""
    desk = a_desk(workers=1)
    done = said(desk.submit())["id"]
    now = desk.service.orders[done].done_at + 1
    dropped = [(said(desk.submit(now, key=key))["id"], key) for key in (KEY, KEY, OTHER)]
    answer = desk.post(ENTERPRISE + "clear_queue", now + 1)
    assert (answer.status, said(answer)["status"]) == (200, "success")
    for job_id, key in dropped:
        assert desk.fetch(job_id, now + 1, key=key) == {
            "status": "failed",
            "id": job_id,
            "message": "The queue was cleared.",
            "output": "",
        }
        assert desk.service.file(now + DAY, desk.service.orders[job_id].name).status == 404
    assert desk.fetch(done, now + 1)["status"] == "success"
    assert desk.service.running(KEY, now + 1) == desk.service.running(OTHER, now + 1) == []


@pytest.mark.parametrize("command", ["restart_server", "update_server", "clear_cache", "system_details"])
def test_the_other_posts_of_a_dedicated_server(command: str) -> None:
    """They answer success, and change nothing of the jobs."""
    desk = a_desk()
    job_id = said(desk.submit())["id"]
    assert said(desk.post(ENTERPRISE + command, 1.0))["status"] == "success"
    assert desk.fetch(job_id, 1.0)["status"] == "processing"


# --- webhooks ---

HOOK = "https://hooks.invalid/done"


def deliveries(**options: Any) -> tuple[Any, list[Any]]:
    """A job, and what its webhook is told."""
    desk = a_desk(**options)
    order = desk.submit(5.0, webhook=HOOK, track_id="mine").order
    assert order is not None
    return order, desk.service.deliveries(order)


def test_a_webhook_is_told_the_end() -> None:
    """Once, when the job is done: status, id, output, generationTime, track_id as sent, and meta."""
    order, (delivery,) = deliveries(origin="http://here.invalid")
    told = delivery.payload
    assert (delivery.at, delivery.url) == (order.done_at, HOOK)
    assert set(told) == {"status", "id", "output", "generationTime", "track_id", "meta"}
    assert (told["status"], told["id"], told["track_id"]) == ("success", order.id, "mine")
    assert told["output"] == [order.link("http://here.invalid")]
    assert told["generationTime"] == pytest.approx(order.done_at - order.starts_at, abs=0.01)


def test_a_webhook_is_told_of_a_failure_that_comes_later() -> None:
    """What is told is the end as it is by then: a job that fails after it was taken is told as failed."""
    order, (delivery,) = deliveries()
    order.failed = "The picture could not be read."
    assert delivery.payload == {"status": "failed", "id": order.id, "message": order.failed, "track_id": "mine"}


@pytest.mark.parametrize("webhook", [..., None, "", "ftp://hooks.invalid/", 5])
def test_no_webhook_no_delivery(webhook: object) -> None:
    """Without an http(s) URL nobody is told."""
    desk = a_desk()
    order = desk.submit(webhook=webhook).order
    assert order is not None
    assert desk.service.deliveries(order) == []


# --- faults ---


@attrs.frozen
class Wrong:
    """What a fault of a submit does: to the answer, and whether the job was charged."""

    charged: bool
    shows: Callable[[Answer], bool]


def is_page(code: int) -> Callable[[Answer], bool]:
    return lambda answer: (answer.status, answer.content_type, answer.body[:6]) == (code, "text/html", b"<html>")


def is_cut(answer: Answer) -> bool:
    with pytest.raises(ValueError, match=r"."):
        json.loads(answer.body)
    return answer.body.startswith(b'{"status": "processing"')


def says(status: int, words: str) -> Callable[[Answer], bool]:
    return lambda answer: (answer.status, said(answer)["status"]) == (status, "error") and words in str(said(answer))


ON_SUBMIT: Mapping[Fault, Wrong] = {
    Fault.REFUSED: Wrong(False, lambda answer: (answer.deed, answer.delay) == (Deed.REFUSE, 15.0)),
    Fault.RESET_BEFORE: Wrong(False, lambda answer: answer.deed is Deed.RESET),
    Fault.RESET_AFTER: Wrong(True, lambda answer: answer.deed is Deed.RESET),
    Fault.SLOW: Wrong(True, lambda answer: answer.delay == 15.0 and said(answer)["status"] == "processing"),
    Fault.STALL: Wrong(True, lambda answer: answer.deed is Deed.STALL),
    Fault.HTML_502: Wrong(True, is_page(502)),
    Fault.HTML_520: Wrong(True, is_page(520)),
    Fault.HTML_524: Wrong(True, is_page(524)),
    Fault.TRUNCATED_JSON: Wrong(True, is_cut),
    Fault.RATE_LIMIT: Wrong(False, says(429, "Maximum 5 queued")),
    Fault.ERROR_500: Wrong(False, says(500, "Server Error")),
    Fault.UNAVAILABLE_503: Wrong(False, says(503, "unavailable")),
    Fault.JOB_FAILS: Wrong(True, lambda answer: said(answer)["status"] == "processing"),
    Fault.EARLY_LINK: Wrong(True, lambda answer: said(answer)["status"] == "processing"),
    Fault.LATE_LINK: Wrong(True, lambda answer: said(answer)["status"] == "processing"),
}
ON_FETCH = {Fault.EMPTY_OUTPUT, Fault.TRY_AGAIN}
ON_FILE = {Fault.CUT_MP4, Fault.BROKEN_DOWNLOAD, Fault.WRONG_TYPE, Fault.HTML_AS_MP4}
ON_WEBHOOK = {Fault.WEBHOOK_TWICE, Fault.WEBHOOK_LATE, Fault.WEBHOOK_FORGED, Fault.WEBHOOK_MISSING}


def test_every_fault_has_its_occasion() -> None:
    """Each fault belongs to one occasion, and each is tested at it."""
    tested = {"submit": set(ON_SUBMIT), "fetch": ON_FETCH, "file": ON_FILE, "webhook": ON_WEBHOOK}
    for occasion, faults in tested.items():
        assert {fault for fault in Fault if Rule(fault).occasion == occasion} == faults
    assert set().union(*tested.values()) == set(Fault)


@pytest.mark.parametrize("fault", ON_SUBMIT, ids=lambda fault: fault.name)
def test_faults_of_a_submit(fault: Fault) -> None:
    """Each does what it says, its seconds divided by speed; charged is what was done."""
    desk = a_desk(faults=[Rule(fault, seconds=30.0, times=1)], speed=2.0)
    assert ON_SUBMIT[fault].shows(desk.submit())
    assert desk.paid == (Decimal("0.20") if ON_SUBMIT[fault].charged else 0)
    assert len(desk.service.orders) == ON_SUBMIT[fault].charged
    again = desk.submit()
    assert (again.deed, said(again)["status"]) == (Deed.REPLY, "processing")


def test_a_job_that_fails() -> None:
    """JOB_FAILS: taken and charged, processing until its end, then failed; its file never comes; small ones as well."""
    desk = a_desk(faults=[Rule(Fault.JOB_FAILS)])
    usual: dict[str, Any] = {}
    for params in (usual, SMALL):
        reply = said(desk.submit(**params))
        order = desk.service.orders[reply["id"]]
        assert desk.fetch(order.id, order.done_at - 0.001)["status"] == "processing"
        end = desk.fetch(order.id, order.done_at)
        assert (end["status"], end["id"], end["output"], bool(end["message"])) == ("failed", order.id, "", True)
        assert desk.service.file(order.done_at + DAY, order.name).status == 404
    assert desk.paid == Decimal("0.40")


@pytest.mark.parametrize("params", [{}, SMALL], ids=["usual", "at once"])
@pytest.mark.parametrize("fault", [Fault.EARLY_LINK, Fault.LATE_LINK])
def test_when_the_file_is_there(fault: Fault, params: dict[str, Any]) -> None:
    """The file is there the rule's seconds before or after the job is done, and never before it was asked for."""
    desk = a_desk(faults=[Rule(fault, seconds=20.0)])
    desk.submit(3.0, **params)
    order = next(iter(desk.service.orders.values()))
    due = order.done_at + 20.0 if fault is Fault.LATE_LINK else max(3.0, order.done_at - 20.0)
    assert order.file_at == pytest.approx(due)
    assert desk.service.file(order.file_at, order.name).status == 200
    assert desk.service.file(order.file_at - 0.001, order.name).status in (403, 404)


def test_empty_output() -> None:
    """EMPTY_OUTPUT: success without a link, before the true one."""
    desk = a_desk(faults=[Rule(Fault.EMPTY_OUTPUT, times=1)])
    reply = said(desk.submit())
    now = desk.service.orders[reply["id"]].done_at
    first, second = desk.fetch(reply["id"], now), desk.fetch(reply["id"], now)
    assert (first["status"], first["output"]) == ("success", [])
    assert (second["status"], second["output"]) == ("success", reply["future_links"])


def test_try_again_under_failed() -> None:
    """TRY_AGAIN: a job that is fine is told as failed, with the words of one that is not ready."""
    desk = a_desk(faults=[Rule(Fault.TRY_AGAIN, times=1)])
    job_id = said(desk.submit())["id"]
    assert desk.fetch(job_id) == {"status": "failed", "message": "Try Again", "output": ""}
    assert desk.fetch(job_id)["status"] == "processing"


def from_file(*faults: Fault) -> tuple[bytes, tuple[int, dict[str, str], bytes, bool]]:
    desk = a_desk(faults=[Rule(fault) for fault in faults])
    desk.submit()
    order = next(iter(desk.service.orders.values()))
    content = skeleton(order.work)
    return content, served(desk.service.file(order.file_at, order.name), content, {})


def test_faults_of_a_file() -> None:
    """Half of it as if whole; broken off in the middle of what was promised; as text/html; a page as video/mp4."""
    whole, (status, headers, body, breaks_off) = from_file()
    assert (status, headers["Content-Type"], body, breaks_off) == (200, "video/mp4", whole, False)

    _, (_, headers, body, breaks_off) = from_file(Fault.CUT_MP4)
    half = len(whole) // 2
    assert (body, headers["Content-Length"], breaks_off) == (whole[:half], str(half), False)

    _, (_, headers, body, breaks_off) = from_file(Fault.BROKEN_DOWNLOAD)
    assert (body, headers["Content-Length"], breaks_off) == (whole[:half], str(len(whole)), True)

    _, (_, headers, body, breaks_off) = from_file(Fault.WRONG_TYPE)
    assert (body, headers["Content-Type"], breaks_off) == (whole, "text/html", False)

    _, (status, headers, body, breaks_off) = from_file(Fault.HTML_AS_MP4)
    assert (status, headers["Content-Type"], body[:9], breaks_off) == (200, "video/mp4", b"<!doctype", False)


def test_faults_of_a_webhook() -> None:
    """Twice the same; late by the rule's seconds; a false one before the true one; none at all."""
    order, told = deliveries(faults=[Rule(Fault.WEBHOOK_TWICE)])
    assert [(delivery.at, delivery.payload["status"]) for delivery in told] == [(order.done_at, "success")] * 2

    order, told = deliveries(faults=[Rule(Fault.WEBHOOK_LATE, seconds=30.0)], speed=2.0)
    assert [delivery.at for delivery in told] == [order.done_at + 15.0]

    order, told = deliveries(faults=[Rule(Fault.WEBHOOK_FORGED)])
    assert [delivery.payload["status"] for delivery in told] == ["failed", "success"]
    assert order.taken_at < told[0].at < told[1].at == order.done_at
    assert [delivery.payload["track_id"] for delivery in told] == ["mine", "mine"]

    assert deliveries(faults=[Rule(Fault.WEBHOOK_MISSING)])[1] == []


def a_plan(*rules: Rule, seed: object = 1) -> FaultPlan:
    return FaultPlan(rules, random.Random(str(seed)))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_rates(rate: float) -> None:
    """A rule hits its share of its occasions, and of no others."""
    plan = a_plan(Rule(Fault.SLOW, rate=rate))
    hits = sum(plan.draw("submit") is not None for _ in range(4000))
    assert hits / 4000 == pytest.approx(rate, abs=0.03)
    assert plan.draw("fetch") is plan.draw("call") is plan.draw("file") is plan.draw("webhook") is None


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ((Fault.SLOW, None, -0.1), "rate"),
        ((Fault.SLOW, None, 1.1), "rate"),
        ((Fault.SLOW, None, 1.0, -1), "times"),
        ((Fault.SLOW, None, 1.0, 1, -5.0), "seconds"),
        ((Fault.SLOW, None, 1.0, 1, math.inf), "seconds"),
        ((Fault.SLOW, "fetsch"), "on"),
        (("RESET_AFTER",), "fault"),
    ],
)
def test_a_rule_that_makes_no_sense(rule: tuple[Any, ...], field: str) -> None:
    """Is refused where it is written."""
    with pytest.raises(InvalidRequestError, match=rf"^{field}="):
        Rule(*rule)


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
@pytest.mark.parametrize("on", ["submit", "fetch", "call", "file", "webhook"])
def test_a_rule_can_be_where_it_shows(fault: Fault, on: Any) -> None:
    """Where a fault would change nothing it is refused: a test of it would test nothing."""
    of_replies = set(ON_SUBMIT) - {Fault.JOB_FAILS, Fault.EARLY_LINK, Fault.LATE_LINK}
    shows = {"submit": set(ON_SUBMIT), "fetch": of_replies | ON_FETCH, "call": of_replies}
    if fault in {**shows, "file": ON_FILE, "webhook": ON_WEBHOOK}[on]:
        assert Rule(fault, on=on).occasion == on
    else:
        with pytest.raises(InvalidRequestError, match=f"on='{on}'"):
            Rule(fault, on=on)


def test_a_fault_counts_when_it_shows() -> None:
    """What is meant for a job, a result or the end of a file is not used up where there is none of these."""
    faults = (Fault.JOB_FAILS, Fault.EMPTY_OUTPUT, Fault.CUT_MP4)
    desk = a_desk(faults=[Rule(fault, times=1) for fault in faults], queue_limit=1)
    assert desk.submit(prompt="").status == 400
    failing = said(desk.submit())["id"]
    order = desk.service.orders[failing]
    assert desk.submit().status == 429
    assert desk.fetch(failing, order.done_at)["status"] == "failed"
    assert desk.fetch("1", order.done_at) == NOT_FOUND
    reply = said(desk.submit(order.done_at))
    order = desk.service.orders[reply["id"]]
    assert desk.fetch(order.id, order.done_at - 0.001)["status"] == "processing"
    assert [desk.fetch(order.id, order.done_at)["output"] for _ in range(2)] == [[], reply["future_links"]]
    heads = [desk.service.file(order.file_at, order.name, "bytes=0-1023") for _ in range(3)]
    whole = [desk.service.file(order.file_at, order.name) for _ in range(2)]
    assert [answer.fault for answer in (*heads, *whole)] == [None, None, None, Fault.CUT_MP4, None]


def test_two_equal_rules_hit_twice() -> None:
    """Each counts for itself, also one that is counted later than it is drawn."""
    rules = [Rule(Fault.JOB_FAILS, times=1), Rule(Fault.JOB_FAILS, times=1)]
    for listed in (rules, rules[:1] * 2):
        desk = a_desk(faults=listed)
        assert [bool(desk.service.orders[said(desk.submit())["id"]].failed) for _ in range(3)] == [True, True, False]


def test_a_video_that_is_still_made() -> None:
    """Its job is in work and holds its place; then it is done, and its file there, or it has failed."""
    desk = a_desk(queue_limit=1)
    for failed in ("", "a full disk"):
        order = desk.service.orders[said(desk.submit(1000.0 * len(desk.service.orders)))["id"]]
        desk.service.book.render(order)
        late = order.file_at + 100
        assert desk.fetch(order.id, late)["status"] == "processing"
        assert (desk.submit(late).status, len(desk.service.running(KEY, late))) == (429, 1)
        assert desk.service.file(late, order.name).status in (403, 404)
        desk.service.book.rendered(order, late, failed)
        assert (order.done_at, desk.service.running(KEY, late)) == (late, [])
        assert desk.fetch(order.id, late)["status"] == ("failed" if failed else "success")
        assert desk.service.file(order.file_at, order.name).status == (404 if failed else 200)


def test_a_video_that_is_made_in_time_changes_nothing() -> None:
    """The job ends when it would have ended, whenever its file was made before."""
    desk = a_desk()
    order = desk.service.orders[said(desk.submit())["id"]]
    before = (order.done_at, order.file_at)
    desk.service.book.render(order)
    desk.service.book.rendered(order, order.done_at / 2, "")
    assert (order.done_at, order.file_at) == before


def test_a_dedicated_server_takes_no_base64() -> None:
    """It reads init_image as a URL, whatever `base64` says."""
    picture = base64.b64encode(PNG).decode()
    url = "https://pictures.invalid/a.png"
    path = ENTERPRISE + "img2video"
    desk = a_desk()
    body = json.dumps({"key": KEY, "prompt": "p", "init_image": picture, "base64": True}).encode()
    assert desk.service.picture_url(path, body) is None
    assert desk.service.handle(0.0, path, body, None).status == 400
    assert desk.submit(path=path, init_image=url, base64=True).status == 200


@pytest.mark.parametrize(("ratio", "status"), [("16:9", 200), ("9:16", 200), ("99:1", 400), ("1:99", 400)])
def test_a_shape_that_nobody_would_look_at(ratio: str, status: int) -> None:
    """Is refused, as no renderer could make it."""
    assert a_desk().submit(resolution=ratio, model_id="ltx-2.3").status == status


@given(st.integers(0, 20), st.integers(0, 40))
def test_times(times: int, draws: int) -> None:
    """A rule hits at most so many times; after that, the next rule has its turn."""
    first, second = Rule(Fault.SLOW, times=times), Rule(Fault.STALL)
    plan = a_plan(first, second)
    assert [plan.draw("submit") for _ in range(draws)] == [first] * min(times, draws) + [second] * max(0, draws - times)


@given(st.integers(), st.lists(st.sampled_from(["submit", "fetch", "call", "file", "webhook"]), max_size=40))
def test_the_same_plan_again(seed: int, occasions: list[Any]) -> None:
    """The same seed draws the same faults."""
    rules = [Rule(Fault.SLOW, on=None, rate=0.4), Rule(Fault.STALL, on="fetch", rate=0.5, times=3), Rule(Fault.CUT_MP4)]
    draws = [[plan.draw(occasion) for occasion in occasions] for plan in (a_plan(*rules, seed=seed) for _ in range(2))]
    assert draws[0] == draws[1]


# --- laws of the whole ---

_PATHS = st.one_of(
    st.sampled_from(
        [
            SUBMIT,
            ENTERPRISE + "img2video",
            FETCH + "100000",
            ENTERPRISE + "fetch/100001",
            UPLOAD,
            COUNT,
            ASSETS,
            BALANCE,
            ENTERPRISE + "clear_queue",
        ]
    ),
    st.text(max_size=30),
    st.text(max_size=10).map(lambda text: FETCH + text),
)
_TEXTS = st.text(st.characters(), max_size=20)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS | st.just("9" * 5000) | st.just(PNG_URI),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)
_NAMES = st.sampled_from(
    [
        *("key", "prompt", "init_image", "base64_string", "seed", "resolution", "num_frames", "num_inference_steps"),
        *("fps", "portrait", "base64", "temp", "webhook", "track_id", "model_id", "page", "per_page", "id"),
        *("shift_sample", "sample_shift", "guidance_scale", "negative_prompt"),
    ]
)
_BODIES = st.one_of(
    st.binary(max_size=60),
    _JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(_NAMES, _JSON, max_size=8).map(
        lambda changes: json.dumps(
            {"key": KEY, "prompt": "p", "init_image": "https://pictures.invalid/a", **changes}
        ).encode()
    ),
)


@given(
    st.lists(st.tuples(_PATHS, _BODIES, st.none() | st.just(PNG) | st.binary(max_size=20)), min_size=1, max_size=8),
    st.sampled_from(["documented", "legacy"]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_makes_it_raise(requests: list[tuple[str, bytes, bytes | None]], profile: Any) -> None:
    """Whatever is posted wherever is answered: in JSON, with a status; and page, ledger and webhooks stand."""
    service = Service(profile=profile)
    for number, (path, body, picture) in enumerate(requests):
        service.picture_url(path, body)
        answer = service.handle(number * 30.0, path, body, picture)
        assert 200 <= answer.status < 500
        assert said(answer)["status"] in ("success", "processing", "error", "failed")
        if answer.order:
            assert all(json.dumps(delivery.payload) for delivery in service.deliveries(answer.order))
            assert skeleton(answer.order.work)
    assert page(service, 1000.0).encode(errors="replace")
    assert json.dumps(ledger_json(service))


@pytest.mark.parametrize("depth", [10, 100, 500, 800, 950, 980, 990, 1000, 100_000])
@pytest.mark.parametrize("name", ["unknown", "base64", "num_frames", "webhook"])
def test_deep_json(name: str, depth: int) -> None:
    """JSON that nests too deeply to be echoed is read as nothing, and costs nothing."""
    service = Service()
    body = f'{{"key": "k", "prompt": "p", "init_image": "https://a.invalid/b", "{name}": {"[" * depth}{"]" * depth}}}'
    answer = service.handle(0.0, SUBMIT, body.encode(), PNG)
    assert said(answer)["status"] in ("processing", "error")
    assert (answer.status == 200) == (answer.order is not None) == bool(service.ledger.total())


_CALLS = st.lists(
    st.tuples(
        st.sampled_from([SUBMIT, SUBMIT, FETCH + "100000", FETCH + "100001", COUNT, ASSETS, BALANCE, UPLOAD, "/x"]),
        st.floats(0, 30),
        st.sampled_from([8, 81]),
        st.sampled_from(["p", None]),
    ),
    max_size=12,
)


def played(calls: list[tuple[str, float, int, str | None]], seed: int, **options: Any) -> tuple[list[Answer], Service]:
    service, now, answers = Service(seed=seed, **options), 0.0, []
    for path, gap, frames, prompt in calls:
        now += gap
        params = {"key": KEY, "prompt": prompt, "init_image": "https://pictures.invalid/a", "num_frames": frames}
        answers.append(service.handle(now, path, json.dumps({**params, "base64_string": PNG_URI}).encode(), PNG))
    return answers, service


@given(_CALLS, st.integers(0, 1000), st.sampled_from(["documented", "legacy"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_same_seed_the_same_service(
    calls: list[tuple[str, float, int, str | None]], seed: int, profile: str
) -> None:
    """The same requests at the same times to a service with the same seed: the same answers, and the same bill."""
    options = {"profile": profile, "faults": [Rule(Fault.SLOW, rate=0.3), Rule(Fault.TRY_AGAIN, rate=0.3)]}
    (first, one), (second, other) = played(calls, seed, **options), played(calls, seed, **options)
    assert first == second
    assert one.ledger == other.ledger


def test_another_seed_another_service() -> None:
    """Another seed: another file name, seed and duration."""
    replies = [said(played([(SUBMIT, 0.0, 81, "p")], seed)[0][0]) for seed in (1, 2)]
    assert replies[0]["future_links"] != replies[1]["future_links"]
    assert replies[0]["meta"]["seed"] != replies[1]["meta"]["seed"]


@given(_CALLS, st.sampled_from([*Fault, None]), st.sampled_from(["documented", "legacy"]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_key_is_never_shown(
    calls: list[tuple[str, float, int, str | None]], fault: Fault | None, profile: str
) -> None:
    """No answer, ledger, page, webhook or repr shows a key, whatever goes wrong."""
    answers, service = played(calls, 0, profile=profile, faults=[Rule(fault, rate=0.5)] if fault else ())
    shown = [answer.body.decode() for answer in answers]
    shown += [repr(answers), repr(service.ledger), json.dumps(ledger_json(service)), page(service, 40.0)]
    shown += [str(delivery.payload) for order in service.orders.values() for delivery in service.deliveries(order)]
    assert not any(KEY in text for text in shown)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"speed": 0.0}, "speed"),
        ({"speed": math.nan}, "speed"),
        ({"speed": "10"}, "speed"),
        ({"queue_limit": 0}, "queue_limit"),
        ({"queue_limit": 1.5}, "queue_limit"),
        ({"workers": 0}, "workers"),
        ({"profile": "legasy"}, "profile"),
        ({"eta": {"bad": 1}}, "eta"),
        ({"eta": {"good": 0}}, "eta"),
        ({"eta": {"good": -1, "zero": 2}}, "eta"),
        ({"faults": ["RESET_AFTER"]}, "faults"),
        ({"faults": Rule(Fault.SLOW)}, "faults"),
        ({"keys": KEY}, "keys"),
        ({"keys": (key for key in (KEY,))}, "keys"),
        ({"wallet": 1.0}, "wallet"),
    ],
)
def test_options_that_no_service_has(options: dict[str, Any], field: str) -> None:
    """Refused at once, instead of a service that breaks, or silently does something else; no key is shown."""
    with pytest.raises(InvalidRequestError, match=field) as caught:
        Service(**options)
    assert KEY not in str(caught.value)
