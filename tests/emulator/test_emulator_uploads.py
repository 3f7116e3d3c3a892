"""Uploads of pictures to the emulated service."""

from __future__ import annotations

import base64
import re

import pytest
from helpers.emulated_service import DAY, PNG, PNG_URI, UPLOAD, emulated_service, file_name_of, json_of

from modelslab_async.emulator.files import FileAnswer


def test_an_upload_expires_after_a_day() -> None:
    """An upload gives a URL, which serves the picture for 24 hours."""
    emulated = emulated_service(origin="http://here.invalid")
    reply = json_of(emulated.post(UPLOAD, base64_string=PNG_URI))
    (url,) = reply["output"]
    assert (reply["status"], url.startswith("http://here.invalid/temp/")) == ("success", True)
    assert emulated.service.file(DAY - 1, file_name_of(url)) == FileAnswer(200, upload=PNG)
    assert emulated.service.file(DAY, file_name_of(url)).status == 404


def test_the_extension_of_an_upload_comes_from_its_content() -> None:
    """The media type that the data URI claims does not reach the file's name."""
    lie = PNG_URI.replace("image/png", "image/../../x?y#z")
    (url,) = json_of(emulated_service().post(UPLOAD, base64_string=lie))["output"]
    assert re.fullmatch(r"[0-9a-f-]{36}\.png", file_name_of(url))


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
def test_an_invalid_upload_is_refused(sent: object) -> None:
    """An upload must be a data URI of a picture of at most 5 MB."""
    answer = emulated_service().post(UPLOAD, base64_string=sent)
    assert (answer.status, set(json_of(answer)["message"])) == (400, {"base64_string"})
