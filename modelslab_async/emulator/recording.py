"""Record the emulator's exchanges in a file, and answer from such a file. A line is an exchange, without the key."""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from modelslab_async.emulator.replies import Action, Answer, Links
from modelslab_async.protocol.problems import refusal

_API, _FILES = "{origin}", "{files_origin}"
_CHANGING = ("track_id", "webhook")
"""Parameters that differ in each run of a program."""


class Recorder:
    """Append each exchange to a file. Raises OSError if the file cannot be written."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._files: set[str] = set()

    def post(self, path: str, params: Mapping[str, Any] | None, answer: Answer, links: Links) -> None:
        """Record a POST and its answer."""
        body = answer.body.decode(errors="replace")
        body = body.replace(_escaped(links.api), _API).replace(_escaped(links.files), _FILES)
        reply = {
            "status": answer.status,
            "type": answer.content_type,
            "action": answer.action.name.lower(),
            "body": body,
        }
        self._write({"method": "POST", "path": path, "params": params, "reply": reply})

    def file(self, path: str, content: bytes) -> None:
        """Record a file, once."""
        if path not in self._files:
            self._files.add(path)
            self._write({"method": "GET", "path": path, "content": base64.b64encode(content).decode()})

    def _write(self, exchange: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(exchange) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Replay:
    """Answer from a recording. Equal requests get their answers in the recorded order, and then the last one again.

    Two requests are equal if path and parameters are, except track_id, webhook and the key. Nothing is charged.

    Raises InvalidRequestError if the file is no recording.
    """

    def __init__(self, path: Path) -> None:
        self._answers: dict[str, deque[Mapping[str, Any]]] = {}
        self._files: dict[str, bytes] = {}
        try:
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    self._load(json.loads(line))
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is none"
            raise refusal("replay", str(path), f"must be a recording: {reason}", "make one with record") from error

    def _load(self, exchange: Mapping[str, Any]) -> None:
        if exchange["method"] == "GET":
            self._files[exchange["path"]] = base64.b64decode(exchange["content"])
        else:
            name = _name(exchange["path"], exchange["params"])
            self._answers.setdefault(name, deque()).append(exchange["reply"])

    def post(self, path: str, params: Mapping[str, Any] | None, links: Links) -> Answer:
        """Return the recorded answer to a POST; 404 if there is none."""
        answers = self._answers.get(_name(path, params))
        if not answers:
            message = f"The recording has no such request to {path}."
            return Answer(status=404, body=json.dumps({"status": "error", "message": message}).encode())
        reply = answers.popleft() if len(answers) > 1 else answers[0]
        body = reply["body"].replace(_API, _escaped(links.api)).replace(_FILES, _escaped(links.files))
        action = Action[reply["action"].upper()]
        return Answer(status=reply["status"], body=body.encode(), content_type=reply["type"], action=action)

    def file(self, path: str) -> bytes | None:
        """Return a recorded file, or None."""
        return self._files.get(path)


def _name(path: str, params: Mapping[str, Any] | None) -> str:
    kept = params and {name: value for name, value in params.items() if name not in _CHANGING}
    return f"{path} {json.dumps(kept, sort_keys=True)}"


def _escaped(origin: str) -> str:
    """Return *origin* as it stands in the service's JSON."""
    return origin.replace("/", "\\/")
