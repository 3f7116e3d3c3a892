"""The key passed by mistake as another argument: it is neither shown, nor recorded, nor sent to a wrong place."""

from __future__ import annotations

import asyncio
import io
import json
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from helpers.inside import engine_of, inside_shown, run_of
from helpers.reporters import shown
from helpers.secret import REQUEST, a_record, client_of, holds_key, secret, written_in
from helpers.world import PNG

from modelslab_async import (
    AuthenticationError,
    BeyondDocumentationWarning,
    Client,
    InvalidRequestError,
    Job,
    JournalError,
    ModelsLabError,
)
from modelslab_async.batch import open_batch, read_manifest, read_results, run_batch
from modelslab_async.batch.report import write_report
from modelslab_async.cli.app import app
from modelslab_async.emulator import Fault, Rule

Mistake = Callable[[Any, Path], Awaitable[object]]


async def wait_for(job: Job) -> None:
    await job


async def check(client: Any) -> None:
    client.check(REQUEST, track_id=secret(), seed=secret())


async def account_with_bad_budget(client: Any) -> None:
    await client.account(secret(), budget=secret())


REFUSED_MISTAKES: dict[str, Mistake] = {
    "request": lambda client, _: wait_for(client.submit(secret())),
    "request of generate": lambda client, _: client.generate(secret()),
    "track_id": lambda client, _: wait_for(client.submit(REQUEST, track_id=secret())),
    "within a track_id": lambda client, _: wait_for(client.submit(REQUEST, track_id=f"scene-{secret()}-1")),
    "track_id of generate": lambda client, _: client.generate(REQUEST, track_id=secret()),
    "name of a parameter": lambda client, _: wait_for(client.submit({**REQUEST, secret(): 1})),
    "name of a keyword": lambda client, _: client.generate(REQUEST, **{secret(): 1}),
    "key of a request": lambda client, _: wait_for(client.submit({**REQUEST, "key": secret()})),
    "seed": lambda client, _: wait_for(client.submit(REQUEST, seed=secret())),
    "fps and prompt": lambda client, _: wait_for(client.submit(prompt=secret(), init_image=PNG, fps=secret())),
    "model_id": lambda client, _: wait_for(client.submit(REQUEST, model_id=secret())),
    "resolution": lambda client, _: wait_for(
        client.submit(REQUEST, resolution=f"a resolution of {'x' * 30}{secret()}")
    ),
    "picture": lambda client, _: wait_for(client.submit(prompt="a", init_image=secret())),
    "picture in a folder": lambda client, tmp: wait_for(client.submit(prompt="a", init_image=tmp / secret() / "a.png")),
    "picture of another scheme": lambda client, _: wait_for(client.submit(prompt="a", init_image=f"ftp://{secret()}")),
    "data URI": lambda client, _: wait_for(client.submit(prompt="a", init_image=f"data:{secret()}")),
    "base64": lambda client, _: wait_for(client.submit(prompt="a", init_image=secret(), base64=True)),
    "webhook that is no URL": lambda client, _: wait_for(client.submit(REQUEST, webhook=secret())),
    "extra that is no mapping": lambda client, _: wait_for(client.submit(REQUEST, extra=secret())),
    "extra that is no JSON": lambda client, _: wait_for(client.submit(REQUEST, extra={secret(): object()})),
    "check": lambda client, _: check(client),
    "attach": lambda client, _: client.attach(secret()),
    "find": lambda client, _: client.find(secret()),
    "recover": lambda client, _: client.recover(["a", secret()]),
    "recover of one ref": lambda client, _: client.recover(secret()),
    "history": lambda client, _: client.history(secret()),
    "resubmit": lambda client, _: client.resubmit([a_record()._replace(ref=secret())]),
    "resolve": lambda client, _: client.resolve(secret(), lost=True),
    "resolve to an id": lambda client, _: client.resolve("x", id=secret()),
    "resolve with two decisions": lambda client, _: client.resolve("x", id=secret(), lost=True),
    "upload": lambda client, _: client.upload(secret()),
    "upload of a URL": lambda client, _: client.upload(f"https://a.invalid/{secret()}"),
    "download": lambda client, tmp: client.download(secret(), tmp / "a.mp4"),
    "download from": lambda client, tmp: client.download(f"https://a.invalid/{secret()}.mp4", tmp / "a.mp4"),
    "download to": lambda client, tmp: client.download("https://a.invalid/a.mp4", tmp / secret() / "a.mp4"),
    "max_bytes of download": lambda client, _: client.download("https://a.invalid/a.mp4", "a.mp4", max_bytes=secret()),
    "save": lambda client, tmp: client.submit(REQUEST).save(tmp / f"{secret()}.mp4"),
    "max_bytes of save": lambda client, _: client.submit(REQUEST).save("a.mp4", max_bytes=secret()),
    "budget of an account": lambda client, _: account_with_bad_budget(client),
    "name of an argument": lambda client, _: client.recover(**{secret(): 1}),
}
"""Mistakes that are refused."""
ACCEPTED_MISTAKES: dict[str, Mistake] = {
    "prompt": lambda client, _: client.generate(REQUEST, prompt=f"a {secret()}"),
    "negative_prompt": lambda client, _: client.generate(REQUEST, negative_prompt=quote(secret()).replace("N", "%4E")),
    "picture's URL": lambda client, _: client.generate(REQUEST, init_image=f"https://pictures.invalid/{secret()}"),
    "webhook": lambda client, _: client.generate(REQUEST, webhook=f"https://a.invalid/{secret()}"),
    "extra": lambda client, _: client.generate(REQUEST, extra={secret(): [secret()]}),
}
"""Texts of the user's own. The service gets them, and no record shows the key in them."""


async def shown_of(error: BaseException | None) -> str:
    return "" if error is None else "\n".join((await shown(error)).values())


@pytest.mark.looptime
@pytest.mark.parametrize("name", REFUSED_MISTAKES)
async def test_a_misplaced_key_is_refused_and_not_shown(
    everything_logged: io.StringIO, name: str, tmp_path: Path
) -> None:
    """Whether passed as a ref, id, name, path or number, no error, frame, log, journal or file shows the key."""
    async with client_of(journal=tmp_path / "jobs.db") as client:
        with pytest.raises((InvalidRequestError, JournalError, TypeError)) as caught:
            await REFUSED_MISTAKES[name](client, tmp_path)
        rows = await client.history()
        texts = [repr(client), inside_shown(client), repr(rows), await shown_of(caught.value)]
    texts += [everything_logged.getvalue(), written_in(tmp_path)]
    assert [text for text in texts if holds_key(text)] == []


@pytest.mark.looptime
@pytest.mark.parametrize("rules", [[], [Rule(Fault.HTML_502, on="submit")], [Rule(Fault.JOB_FAILS)]], ids=str)
@pytest.mark.parametrize("name", ACCEPTED_MISTAKES)
async def test_a_key_in_a_text_is_not_recorded(
    everything_logged: io.StringIO, name: str, rules: list[Rule], tmp_path: Path
) -> None:
    """A prompt or a URL may hold the key, and the service gets it. No error, frame, log or journal shows it."""
    error: ModelsLabError | None = None
    async with client_of(*rules, journal=tmp_path / "jobs.db") as client:
        try:
            await ACCEPTED_MISTAKES[name](client, tmp_path)
        except ModelsLabError as caught:
            error = caught
        rows = await client.history()
    texts = [repr(rows), await shown_of(error), everything_logged.getvalue(), written_in(tmp_path)]
    assert (len(rows), error is not None) == (1, bool(rules))
    assert [text for text in texts if holds_key(text)] == []


MAKE: Any = Client
CLIENT_MISTAKES: dict[str, Callable[[], object]] = {
    "base_url": lambda: MAKE(secret(), base_url=secret()),
    "within base_url": lambda: MAKE(secret(), base_url=f"https://gateway.invalid/{secret()}"),
    "journal": lambda: MAKE(secret(), journal=secret()),
    "journal as a path": lambda: MAKE(secret(), journal=Path(secret()) / "jobs.db"),
    "wait": lambda: MAKE(secret(), wait=secret()),
    "limits": lambda: MAKE(secret(), limits=secret()),
    "max_in_flight": lambda: MAKE(secret(), max_in_flight=secret()),
    "poll_cost": lambda: MAKE(secret(), poll_cost=secret()),
    "budget": lambda: MAKE(secret(), budget=secret()),
    "prices": lambda: MAKE(secret(), prices=[secret()]),
    "webhook": lambda: MAKE(secret(), webhook={secret(): 1}),
    "proxy": lambda: MAKE(secret(), proxy=secret()),
    "password of a proxy": lambda: MAKE(secret(), proxy=f"http://user:{secret()}@proxy.invalid:1"),
    "all but the key": lambda: MAKE(base_url=secret(), journal=secret(), wait=secret()),
}


@pytest.mark.parametrize("name", CLIENT_MISTAKES)
async def test_a_key_as_another_argument_of_the_client_is_not_shown(name: str) -> None:
    """An argument of `Client` that is or holds the key is refused. Neither the error nor a frame shows it."""
    with pytest.raises((InvalidRequestError, AuthenticationError)) as caught:
        CLIENT_MISTAKES[name]()
    assert not holds_key(await shown_of(caught.value))
    assert isinstance(caught.value, AuthenticationError) == (name == "all but the key")


async def test_a_key_from_the_environment_is_hidden_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A client that takes its key from the environment hides it in the same way."""
    monkeypatch.setenv("MODELSLAB_API_KEY", secret())
    with pytest.raises(InvalidRequestError) as caught:
        Client(base_url=secret())
    assert not holds_key(await shown_of(caught.value))
    assert str(caught.value).startswith("base_url: must not hold the API key")


@pytest.mark.looptime
async def test_a_warning_does_not_show_the_key() -> None:
    """A warning for `limits="warn"` shows the undocumented value without the key."""
    async with client_of(limits="warn") as client:
        with pytest.warns(BeyondDocumentationWarning) as warned:
            client.check(REQUEST, model_id=secret())
    assert "model_id='***" in str(warned[0].message)
    assert warned[0].filename == __file__
    assert not holds_key(repr([vars(each) for each in warned]))


async def test_a_delivery_with_the_key_as_its_id_is_ignored() -> None:
    """Anyone may have sent a delivery, so an id in it that is the key is not kept."""
    async with client_of() as client:
        job = client.submit(REQUEST)
        engine_of(client).deliveries.receive(job.ref, secret())
        await asyncio.sleep(0)
        assert run_of(client, job.ref).id_from_webhook is None
        await client.aclose(drain=False)


# --- batches ---


LINES: dict[str, Callable[[], object]] = {
    "track_id": lambda: {**REQUEST, "track_id": secret()},
    "within a track_id": lambda: {**REQUEST, "track_id": f"scene-{secret()}"},
    "prompt": lambda: {**REQUEST, "prompt": f"a {secret()}"},
    "bad prompt": lambda: {**REQUEST, "prompt": [secret()]},
    "picture's URL": lambda: {**REQUEST, "init_image": f"https://pictures.invalid/{secret()}.png"},
    "picture": lambda: {**REQUEST, "init_image": f"pictures/of/castles/in/the/moon/light/{secret()}.png"},
    "seed": lambda: {**REQUEST, "seed": secret()},
    "unknown name": lambda: {**REQUEST, secret(): 1},
    "key": lambda: {**REQUEST, "key": secret()},
    "extra": lambda: {**REQUEST, "extra": {secret(): secret()}},
    "webhook": lambda: {**REQUEST, "webhook": secret()},
    "model_id": lambda: {**REQUEST, "model_id": secret()},
    "no JSON": secret,
}


async def batch_of(manifest: Path, folder: Path, **options: Any) -> list[object]:
    """Run a batch. Return its plan, its events without their requests, its rows and its results. Write its report."""
    shown = list[object]()
    async with client_of(journal=folder.parent / "jobs.db") as client:
        async with open_batch(client, folder, **options) as batch:
            shown.append(await batch.plan(read_manifest(manifest)))
        async for event in run_batch(client, read_manifest(manifest), folder, **options):
            shown += [event.step, event.result, event.job]
            shown.append(event.job and event.job.done() and not event.job.cancelled() and event.job.exception())
        rows = await client.history()
    write_report(folder)
    return [*shown, rows, *read_results(folder)]


@pytest.mark.looptime
@pytest.mark.parametrize("name", LINES)
async def test_a_batch_does_not_show_a_key_in_its_manifest(
    everything_logged: io.StringIO, name: str, tmp_path: Path
) -> None:
    """Whatever part of a line is the key, no plan, result, report, video name, journal or log shows it."""
    folder = tmp_path / "batch"
    folder.mkdir()
    (tmp_path / "shots.jsonl").write_text(f"{json.dumps(LINES[name]())}\n")
    texts = await batch_of(tmp_path / "shots.jsonl", folder / "out", name="{prompt}-{stem}-{item}-{line}.mp4")
    assert len([*read_results(folder / "out")]) == 1
    assert not holds_key("\n".join([*map(repr, texts), everything_logged.getvalue(), written_in(folder)]))


def write_table(path: Path, columns: int) -> None:
    names = {1: [secret()], 2: [secret(), secret()], 3: ["prompt", "init_image", secret()]}[columns]
    path.write_text(f"{','.join(names)}\na,https://pictures.invalid/a.png,{secret()}\n")


@pytest.mark.looptime
@pytest.mark.parametrize("columns", [1, 2, 3])
async def test_a_batch_does_not_show_a_key_in_a_table(
    everything_logged: io.StringIO, columns: int, tmp_path: Path
) -> None:
    """One or two of the column names in a table's head may be the key."""
    (tmp_path / "batch").mkdir()
    write_table(tmp_path / "shots.csv", columns)
    texts = []
    try:
        texts = await batch_of(tmp_path / "shots.csv", tmp_path / "batch" / "out")
    except InvalidRequestError as error:
        texts = [await shown_of(error)]
    assert len(texts) > 0
    assert not holds_key("\n".join([*map(repr, texts), everything_logged.getvalue(), written_in(tmp_path / "batch")]))


@pytest.mark.looptime
@pytest.mark.parametrize("wrong", ["folder", "name", "manifest"])
async def test_a_batch_does_not_show_a_key_in_its_arguments(wrong: str, tmp_path: Path) -> None:
    """The folder, the pattern of names, or the manifest's path is the key."""
    manifest = read_manifest(tmp_path / (secret() if wrong == "manifest" else "none"))
    options: dict[str, Any] = {"name": f"{secret()}.mp4"} if wrong == "name" else {}
    with pytest.raises(InvalidRequestError) as caught:
        async with client_of(journal=tmp_path / "jobs.db") as client:
            async for _ in run_batch(
                client, manifest, tmp_path / (secret() if wrong == "folder" else "out"), **options
            ):
                pass
    assert not holds_key("".join(traceback.format_exception(caught.value)))
    assert not holds_key(written_in(tmp_path))


# --- the command ---


COMMANDS: list[Callable[[], list[str]]] = [
    lambda: [secret()],
    lambda: ["balance", secret()],
    lambda: ["balance", f"--{secret()}"],
    lambda: ["balance", "--base-url", secret()],
    lambda: ["balance", "--journal", f"{secret()}/jobs.db"],
    lambda: ["balance", "--limits", secret()],
    lambda: ["balance", "--max-in-flight", secret()],
    lambda: ["balance", "--timeout", secret()],
    lambda: ["show", "x", "--key-file", secret()],
    lambda: ["generate", secret(), "-p", "a"],
    lambda: ["generate", "a.png", "-p", secret(), "--seed", secret()],
    lambda: ["generate", "a.png", "-p", "a", "--track-id", secret()],
    lambda: ["generate", "a.png", "-p", "a", "--webhook", secret()],
    lambda: ["generate", "a.png", "-p", "a", "--extra", secret()],
    lambda: ["generate", "a.png", "-p", "a", "--extra", f"{secret()}={secret()}"],
    lambda: ["generate", "a.png", "-p", "a", "-o", f"{secret()}.mp4"],
    lambda: ["show", secret()],
    lambda: ["collect", secret()],
    lambda: ["collect", "--name", secret()],
    lambda: ["resolve", secret(), "--lost"],
    lambda: ["resolve", "x", "--id", secret()],
    lambda: ["batch", secret(), "-o", "out"],
    lambda: ["batch", "shots.jsonl", "-o", secret(), "--yes"],
    lambda: ["batch", "shots.jsonl", "-o", "out", "--yes"],
    lambda: ["batch", "shots.jsonl", "-o", "out", "--yes", "--name", f"{secret()}.mp4"],
    lambda: ["batch", "shots.jsonl", "-o", "out", "--yes", "--set", f"{secret()}=1"],
    lambda: ["batch", "shots.jsonl", "-o", "out", "--yes", "--budget", secret()],
    lambda: ["cost", "shots.jsonl"],
    lambda: ["cost", "shots.jsonl", "--set", f"webhook={'x' * 40}{secret()}"],
    lambda: ["report", secret()],
    lambda: ["report", ".", "-o", secret()],
    lambda: ["emulator", "--host", secret()],
    lambda: ["completion", secret()],
]


@pytest.mark.parametrize(("where", "as_json"), [("environment", False), ("file", True)])
@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_the_command_does_not_print_a_key_in_its_arguments(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    number: int,
    as_json: bool,
    where: str,
) -> None:
    """Whatever argument of a command is the key, it is refused, and neither printed nor made a file's name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "key").touch(0o600)
    (tmp_path / "key").write_text(secret())
    (tmp_path / "shots.jsonl").write_text(json.dumps({"prompt": "a", "init_image": "a.png", secret(): secret()}) + "\n")
    environment = {
        "MODELSLAB_CONFIG": "none",
        "MODELSLAB_JOURNAL": "jobs.db",
        "MODELSLAB_BASE_URL": "http://127.0.0.1:9",
    }
    source = {"MODELSLAB_API_KEY": secret()} if where == "environment" else {"MODELSLAB_KEY_FILE": "key"}
    for name, value in {**environment, **source}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        app.main([*COMMANDS[number](), *(["--json"] if as_json else [])])
    out, err = capfd.readouterr()
    assert ended.value.code != 0
    assert len(out + err) > 0
    assert not holds_key(out + err)
    assert not any(secret() in path.name for path in tmp_path.rglob("*"))
