"""Tests of what the duration of a job depends on."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.polling.workload import Workload, work_of, workload_of
from modelslab_async.protocol.request import ImageToVideoUltra


def a_request(**params: Any) -> ImageToVideoUltra:
    return ImageToVideoUltra(prompt="a", init_image="https://a.invalid/a.png", **params)


def test_the_work_is_that_of_all_pixels_and_steps() -> None:
    """Twice the frames or steps are twice the work, and twice the resolution is four times the work."""
    assert work_of(a_request()) == 1
    assert work_of(a_request(num_frames=162)) == 2
    assert work_of(a_request(num_inference_steps=10)) == 0.5
    assert work_of(a_request(resolution=960)) == 4


@pytest.mark.parametrize("params", [{"seed": 5}, {"prompt": "b"}, {"num_frames": 81}, {"track_id": "x"}], ids=str)
def test_requests_that_take_as_long(params: dict[str, Any]) -> None:
    """The workload depends neither on the prompt nor on the seed, and a default that is named is the default."""
    assert workload_of(attrs_with(params)) == workload_of(a_request())


def attrs_with(params: dict[str, Any]) -> ImageToVideoUltra:
    return ImageToVideoUltra(**{"prompt": "a", "init_image": "https://a.invalid/a.png", **params})


def test_models_are_kinds() -> None:
    """Jobs of two models are not compared, and a job whose request is unknown is of a kind of its own."""
    requests = [None, a_request(), a_request(model_id="ltx-2.3"), a_request(model_id="ltx-2.3", resolution="16:9")]
    assert len({workload_of(request).kind for request in requests}) == len(requests)
    assert workload_of(None) == Workload()


NUMBERS: Any = st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.booleans()


@given(num_frames=NUMBERS, resolution=NUMBERS, num_inference_steps=NUMBERS)
def test_any_request_has_some_work(**params: Any) -> None:
    """With any parameters the work is a positive number, because a request may be checked later."""
    work = work_of(a_request(**params))
    assert math.isfinite(work)
    assert work > 0
