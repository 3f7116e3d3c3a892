"""Laws of the emulated service under arbitrary requests: it never raises, is deterministic, and shows no key."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.emulated_service import (
    ASSETS,
    BALANCE,
    COUNT,
    ENTERPRISE,
    FETCH,
    KEY,
    PNG,
    PNG_URI,
    SUBMIT,
    UPLOAD,
    json_of,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelslab_async.emulator import Fault, Rule, Service, skeleton
from modelslab_async.emulator.control import ledger_json
from modelslab_async.emulator.page import page
from modelslab_async.emulator.replies import Answer

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
    st.sampled_from(["documented", "legacy", "strict"]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_request_makes_it_raise(requests: list[tuple[str, bytes, bytes | None]], profile: Any) -> None:
    """Every POST is answered in JSON with a status. The page, the ledger and the webhooks work after any request."""
    service = Service(profile=profile)
    for number, (path, body, picture) in enumerate(requests):
        answer = service.handle(number * 30.0, path, body, picture)
        assert 200 <= answer.status < 500
        assert json_of(answer)["status"] in ("success", "processing", "error", "failed")
        if answer.job:
            assert all(json.dumps(delivery.payload) for delivery in service.deliveries(answer.job))
            assert skeleton(answer.job.work)
    assert page(service, 1000.0, service.origin).encode(errors="replace")
    assert json.dumps(ledger_json(service))


@pytest.mark.parametrize("depth", [10, 100, 500, 800, 950, 980, 990, 1000, 100_000])
@pytest.mark.parametrize("name", ["unknown", "base64", "num_frames", "webhook"])
def test_deeply_nested_json_is_echoed_or_refused(name: str, depth: int) -> None:
    """JSON that nests too deeply to be echoed is read as an empty object, and costs nothing."""
    service = Service()
    body = f'{{"key": "k", "prompt": "p", "init_image": "https://a.invalid/b", "{name}": {"[" * depth}{"]" * depth}}}'
    answer = service.handle(0.0, SUBMIT, body.encode(), PNG)
    assert json_of(answer)["status"] in ("processing", "error")
    assert (answer.status == 200) == (answer.job is not None) == bool(service.ledger.total())


_CALLS = st.lists(
    st.tuples(
        st.sampled_from([SUBMIT, SUBMIT, FETCH + "100000", FETCH + "100001", COUNT, ASSETS, BALANCE, UPLOAD, "/x"]),
        st.floats(0, 30),
        st.sampled_from([8, 81]),
        st.sampled_from(["p", None]),
    ),
    max_size=12,
)


def play(calls: list[tuple[str, float, int, str | None]], seed: int, **options: Any) -> tuple[list[Answer], Service]:
    """Post *calls* one after the other to a new service; return its answers and the service."""
    service, now, answers = Service(seed=seed, **options), 0.0, []
    for path, gap, frames, prompt in calls:
        now += gap
        params = {"key": KEY, "prompt": prompt, "init_image": "https://pictures.invalid/a", "num_frames": frames}
        answers.append(service.handle(now, path, json.dumps({**params, "base64_string": PNG_URI}).encode(), PNG))
    return answers, service


@given(_CALLS, st.integers(0, 1000), st.sampled_from(["documented", "legacy", "strict"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_same_seed_gives_the_same_answers(
    calls: list[tuple[str, float, int, str | None]], seed: int, profile: str
) -> None:
    """The same requests at the same times to services with the same seed give the same answers and the same ledger."""
    options = {"profile": profile, "faults": [Rule(Fault.SLOW, rate=0.3), Rule(Fault.TRY_AGAIN, rate=0.3)]}
    (first, one), (second, other) = play(calls, seed, **options), play(calls, seed, **options)
    assert first == second
    assert one.ledger == other.ledger


def test_another_seed_gives_other_answers() -> None:
    """Another seed gives another file name and another drawn seed."""
    replies = [json_of(play([(SUBMIT, 0.0, 81, "p")], seed)[0][0]) for seed in (1, 2)]
    assert replies[0]["future_links"] != replies[1]["future_links"]
    assert replies[0]["meta"]["seed"] != replies[1]["meta"]["seed"]


@given(_CALLS, st.sampled_from([*Fault, None]), st.sampled_from(["documented", "legacy", "strict"]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_key_is_shown(calls: list[tuple[str, float, int, str | None]], fault: Fault | None, profile: str) -> None:
    """No answer, ledger, page, webhook or repr shows a key, whatever goes wrong."""
    answers, service = play(calls, 0, profile=profile, faults=[Rule(fault, rate=0.5)] if fault else ())
    shown = [answer.body.decode() for answer in answers]
    shown += [
        repr(answers),
        repr(service.ledger),
        json.dumps(ledger_json(service)),
        page(service, 40.0, service.origin),
    ]
    shown += [str(delivery.payload) for job in service.jobs.values() for delivery in service.deliveries(job)]
    assert not any(KEY in text for text in shown)
