"""What the command was told: by flag, else by the environment, else by config.toml in the platform's folder."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import reduce, wraps
from pathlib import Path
from typing import Any

import attrs
import click
import platformdirs

from modelslab_async.cli.output import Output
from modelslab_async.engine.config import KEY_VARIABLE, wrapped_key
from modelslab_async.errors import AuthenticationError
from modelslab_async.polling.schedule import DEFAULT_POLL_COST
from modelslab_async.protocol.secret import ApiKey

APP = "modelslab_async"
URL_VARIABLE = "MODELSLAB_BASE_URL"
KEY_FILE_VARIABLE = "MODELSLAB_KEY_FILE"
CONFIG_VARIABLE = "MODELSLAB_CONFIG"


@attrs.frozen(kw_only=True)
class Settings:
    """The options that each command has."""

    emulate: bool
    output: Output
    base_url: str | None
    enterprise: bool
    journal: Path
    key_file: Path | None
    max_in_flight: int
    limits: str
    timeout: float | None
    poll_cost: float


def config_path() -> Path:
    """Where the file is, if there is one."""
    given = os.environ.get(CONFIG_VARIABLE)
    return Path(given) if given else platformdirs.user_config_path(APP) / "config.toml"


def config() -> Mapping[str, Any]:
    """What the file says. Raises click.UsageError for one that cannot be read, or names what is not known."""
    path = config_path()
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{path} cannot be read: {error}") from error
    known = {parameter.name for parameter in _decorated().params} - {"emulate", "as_json"}
    if "api_key" in told:
        raise click.UsageError(f"{path}: the key does not belong there; name a file of its own with key_file")
    if foreign := sorted(told.keys() - known):
        raise click.UsageError(f"{path}: {foreign[0]} is not known; known are {', '.join(sorted(known))}")
    return told


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that each has; it is called with `Settings` in their place."""

    @wraps(command)
    def told(**options: Any) -> Any:
        mine = {name: options.pop(name) for name in [field.name for field in attrs.fields(Settings)] if name in options}
        keys: list[ApiKey] = click.get_current_context().obj
        output = Output(options.pop("as_json"), is_emulated=mine["emulate"], keys=keys)
        return command(Settings(output=output, **mine), **options)

    return reduce(lambda given, option: option(given), reversed(_COMMON), told)


def key_of(settings: Settings) -> ApiKey:
    """The key, from the environment, a file of one's own, or the system's keyring; never from a flag.

    Raises AuthenticationError where there is none, or where others could read the file.
    """
    if not (key := wrapped_key(None)).is_empty:
        return key
    if settings.key_file:
        return _key_in(settings.key_file)
    if not (kept := _key_in_keyring()).is_empty:
        settings.output.keys.append(kept)
        return kept
    raise AuthenticationError(
        f"no API key: set {KEY_VARIABLE}, or name a file that holds it with --key-file, or keep it in the keyring "
        f"(keyring set {APP} api_key). Without an account there is the emulator: add --emulate"
    )


def keys_at_hand() -> list[ApiKey]:
    """Return the keys that the environment has or names a file of, so that they are hidden from the first word on."""
    keys = [wrapped_key(None)]
    if path := os.environ.get(KEY_FILE_VARIABLE):
        with suppress(AuthenticationError):
            keys.append(_key_in(Path(path)))
    return keys


def _note_key(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Have the key of a file hidden in all that is printed, also about options that are read after this one."""
    if path:
        with suppress(AuthenticationError):
            context.obj.append(_key_in(path))
    return path


def _key_in(path: Path) -> ApiKey:
    reason, key = None, wrapped_key("")
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if os.name != "nt" and mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise AuthenticationError(f"{path} can be read by others: chmod 600 {path}")
            key = wrapped_key(file.read().decode())
    except OSError as error:
        reason = error.strerror
    except UnicodeError:  # which has what was read among its attributes, so nothing is raised from here
        reason = "not a text"
    if reason:
        raise AuthenticationError(f"key file {path}: {reason}")
    if key.is_empty:
        raise AuthenticationError(f"key file {path} is empty")
    return key


def _key_in_keyring() -> ApiKey:
    try:
        import keyring  # noqa: PLC0415 - only where a user has it # pyright: ignore[reportMissingImports]
        import keyring.errors  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    except ImportError:
        return wrapped_key("")
    try:
        return wrapped_key(keyring.get_password(APP, "api_key") or "")
    except keyring.errors.KeyringError:
        return wrapped_key("")


_SECONDS = click.FloatRange(0, min_open=True)
_LIMITS = ("refuse", "warn", "off")
_COMMON = (
    click.option("--emulate", is_flag=True, help="use an emulator of its own: no account, no money"),
    click.option("--json", "as_json", is_flag=True, help="JSON on stdout, the rest on stderr"),
    click.option("--base-url", metavar="URL", envvar=URL_VARIABLE, show_envvar=True, hidden=True),
    click.option("--enterprise", is_flag=True, envvar="MODELSLAB_ENTERPRISE", show_envvar=True, hidden=True),
    click.option(
        "--journal",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="MODELSLAB_JOURNAL",
        show_envvar=True,
        default=lambda: platformdirs.user_data_path(APP) / "jobs.db",
        hidden=True,
    ),
    click.option(
        "--poll-cost",
        type=_SECONDS,
        default=DEFAULT_POLL_COST,
        envvar="MODELSLAB_POLL_COST",
        show_envvar=True,
        hidden=True,
    ),
    click.option("--timeout", type=_SECONDS, envvar="MODELSLAB_TIMEOUT", show_envvar=True, hidden=True),
    click.option(
        "--key-file",
        type=click.Path(path_type=Path),
        envvar=KEY_FILE_VARIABLE,
        show_envvar=True,
        hidden=True,
        is_eager=True,
        callback=_note_key,
    ),
    click.option(
        "--max-in-flight",
        type=click.IntRange(1),
        default=5,
        envvar="MODELSLAB_MAX_IN_FLIGHT",
        show_envvar=True,
        hidden=True,
    ),
    click.option(
        "--limits",
        type=click.Choice(_LIMITS),
        default="refuse",
        envvar="MODELSLAB_LIMITS",
        show_envvar=True,
        hidden=True,
    ),
)


def _decorated() -> click.Command:
    return click.command()(common(lambda _: None))
