"""Webhook deliveries of the emulated service, and their faults."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.emulated_service import emulated_service

from modelslab_async.emulator import Fault, Rule

HOOK = "https://hooks.invalid/done"


def job_with_deliveries(**options: Any) -> tuple[Any, list[Any]]:
    """Submit a job with a webhook; return the job and its deliveries."""
    emulated = emulated_service(**options)
    job = emulated.submit(5.0, webhook=HOOK, track_id="mine").job
    assert job is not None
    return job, emulated.service.deliveries(job)


def test_a_webhook_reports_success_once() -> None:
    """One delivery is due when the job is done, with status, id, output, generationTime, track_id as sent, and meta."""
    job, (delivery,) = job_with_deliveries(origin="http://here.invalid")
    sent = delivery.payload
    assert (delivery.at, delivery.url) == (job.done_at, HOOK)
    assert set(sent) == {"status", "id", "output", "generationTime", "track_id", "meta"}
    assert (sent["status"], sent["id"], sent["track_id"]) == ("success", job.id, "mine")
    assert sent["output"] == [job.link("http://here.invalid")]
    assert sent["generationTime"] == pytest.approx(job.done_at - job.starts_at, abs=0.01)


def test_a_delivery_reports_the_outcome_as_of_its_time() -> None:
    """If a job fails after it was accepted, its delivery says failed."""
    job, (delivery,) = job_with_deliveries()
    job.failure = "The picture could not be read."
    assert delivery.payload == {"status": "failed", "id": job.id, "message": job.failure, "track_id": "mine"}


@pytest.mark.parametrize("webhook", [..., None, "", "ftp://hooks.invalid/", 5])
def test_without_an_http_webhook_there_is_no_delivery(webhook: object) -> None:
    """Without an http(s) URL there is no delivery."""
    emulated = emulated_service()
    job = emulated.submit(webhook=webhook).job
    assert job is not None
    assert emulated.service.deliveries(job) == []


def test_webhook_faults() -> None:
    """A webhook comes twice, late by the rule's seconds, after a forged delivery, or never."""
    job, sent = job_with_deliveries(faults=[Rule(Fault.WEBHOOK_TWICE)])
    assert [(delivery.at, delivery.payload["status"]) for delivery in sent] == [(job.done_at, "success")] * 2

    job, sent = job_with_deliveries(faults=[Rule(Fault.WEBHOOK_LATE, seconds=30.0)], speed=2.0)
    assert [delivery.at for delivery in sent] == [job.done_at + 15.0]

    job, sent = job_with_deliveries(faults=[Rule(Fault.WEBHOOK_FORGED)])
    assert [delivery.payload["status"] for delivery in sent] == ["failed", "success"]
    assert job.accepted_at < sent[0].at < sent[1].at == job.done_at
    assert [delivery.payload["track_id"] for delivery in sent] == ["mine", "mine"]

    job, sent = job_with_deliveries(faults=[Rule(Fault.WEBHOOK_PROCESSING)])
    assert [delivery.payload["status"] for delivery in sent] == ["processing", "success"]
    assert [delivery.payload["id"] for delivery in sent] == [job.id] * 2
    assert job.accepted_at < sent[0].at < sent[1].at == job.done_at

    assert job_with_deliveries(faults=[Rule(Fault.WEBHOOK_MISSING)])[1] == []
