"""Call an emulated service without a server, at instants that the test chooses."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

import attrs

from modelslab_async.emulator import Service, Work
from modelslab_async.emulator.job import EmulatedJob
from modelslab_async.emulator.replies import Answer

KEY = "a-key-that-no-answer-may-show"
OTHER_KEY = "the-key-of-another-account"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)
PNG_URI = "data:image/png;base64," + base64.b64encode(PNG).decode()
PICTURE_URL = "https://pictures.invalid/a.png"
DAY = 24 * 3600.0
SUBMIT = "/api/v6/video/img2video_ultra"
FETCH = "/api/v6/video/fetch/"
ENTERPRISE = "/api/v1/enterprise/image_to_video_ultra/"
UPLOAD = "/api/v6/base64_to_url"
COUNT = "/api/v6/processing/request_count"
ASSETS = "/api/v6/assets_generated"
BALANCE = "/api/wallet_balance"
NOT_FOUND = {"status": "failed", "id": "", "message": "Request not found", "output": ""}
SHORT_JOB: dict[str, Any] = {"resolution": 64, "num_frames": 8, "num_inference_steps": 4}
"""Parameters of a job that takes far less than 5 s."""


def json_of(answer: Answer) -> dict[str, Any]:
    """Return the JSON body of an answer."""
    value: dict[str, Any] = json.loads(answer.body)
    return value


def file_name_of(link: str) -> str:
    """Return the last part of a link."""
    return link.rpartition("/")[2]


@attrs.define
class EmulatedService:
    """An emulated service and a caller that posts JSON to it with a key."""

    service: Service

    def post(self, path: str, now: float = 0.0, *, key: str = KEY, **params: Any) -> Answer:
        """Post *params* with the key."""
        return self.service.handle(now, path, json.dumps({"key": key, **params}).encode(), PNG)

    def submit(self, now: float = 0.0, *, key: str = KEY, path: str = SUBMIT, **changes: Any) -> Answer:
        """Submit a usual request with *changes*. A value of `...` omits the parameter."""
        params = {"prompt": "moving character", "init_image": PICTURE_URL, **changes}
        return self.post(path, now, key=key, **{name: value for name, value in params.items() if value is not ...})

    def fetch(self, job_id: object, now: float = 0.0, *, key: str = KEY) -> dict[str, Any]:
        """Fetch a job and return the JSON of the reply."""
        return json_of(self.post(f"{FETCH}{job_id}", now, key=key))

    @property
    def first_job(self) -> EmulatedJob:
        """The first accepted job."""
        return next(iter(self.service.jobs.values()))

    @property
    def charged(self) -> Decimal:
        """USD charged to all keys."""
        return self.service.ledger.total()


def emulated_service(**options: Any) -> EmulatedService:
    """Return an emulated service with accurate etas. The options are those of `Service`."""
    return EmulatedService(Service(**{"eta": {"good": 1}, **options}))


def a_work(**changes: Any) -> Work:
    """Return the work of a usual job, with *changes*."""
    usual = {"picture": PNG, "prompt": "p", "seed": 1, "width": 832, "height": 480, "frames": 81, "fps": 16}
    return Work(**{**usual, **changes})
