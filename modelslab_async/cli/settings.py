"""The settings of the command: from flags, else environment variables, else config.toml in the platform's folder."""

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
    """The values of the options that every command has."""

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
    """Return the path of config.toml. The file may not exist."""
    given = os.environ.get(CONFIG_VARIABLE)
    return Path(given) if given else platformdirs.user_config_path(APP) / "config.toml"


def config() -> Mapping[str, Any]:
    """Return the settings of config.toml; none without the file.

    Raises click.UsageError if the file cannot be read, or has an unknown setting.
    """
    path = config_path()
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{path}: cannot be read: {error}") from error
    known = {parameter.name for parameter in _options()} - {"emulate", "as_json"}
    if "api_key" in given:
        raise click.UsageError(f"{path}: cannot hold the API key (hint: keep it in its own file, named by key_file)")
    if unknown := sorted(given.keys() - known):
        raise click.UsageError(f"{path}: unknown setting {unknown[0]} (hint: use one of {', '.join(sorted(known))})")
    return given


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every command has. The command receives them as one argument, its `Settings`."""

    @wraps(command)
    def with_settings(**options: Any) -> Any:
        names = [field.name for field in attrs.fields(Settings) if field.name in options]
        common = {name: options.pop(name) for name in names}
        keys: list[ApiKey] = click.get_current_context().obj
        output = Output(options.pop("as_json"), is_emulated=common["emulate"], keys=keys)
        return command(Settings(output=output, **common), **options)

    return reduce(lambda decorated, option: option(decorated), reversed(_COMMON), with_settings)


def find_key(settings: Settings) -> ApiKey:
    """Return the key from the environment, a private file, or the system's keyring. It is never a flag.

    Raises AuthenticationError if there is no key, or if other users can read the file.
    """
    if not (key := wrapped_key(None)).is_empty:
        return key
    if settings.key_file:
        return _read_key(settings.key_file)
    if not (key := _key_of_keyring()).is_empty:
        settings.output.keys.append(key)
        return key
    raise AuthenticationError(
        f"no API key (hint: set {KEY_VARIABLE}, or name a file that holds the key with --key-file, or run: "
        f"keyring set {APP} api_key; without an account, add --emulate)"
    )


def keys_from_environment() -> list[ApiKey]:
    """Return the keys that environment variables hold or name a file of, so that every message can hide them."""
    keys = [wrapped_key(None)]
    if path := os.environ.get(KEY_FILE_VARIABLE):
        with suppress(AuthenticationError):
            keys.append(_read_key(Path(path)))
    return keys


def _hide_key_of_file(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    """Have messages hide the key of --key-file, also those about options that click reads later. A click callback."""
    if path:
        with suppress(AuthenticationError):
            context.obj.append(_read_key(path))
    return path


def _read_key(path: Path) -> ApiKey:
    reason, key = None, wrapped_key("")
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if os.name != "nt" and mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise AuthenticationError(f"key file {path}: must be private to its owner (hint: chmod 600 {path})")
            key = wrapped_key(file.read().decode())
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeError:  # the error holds the file's content, so nothing is raised while it is handled
        reason = "must be UTF-8 text"
    if key.is_empty:
        raise AuthenticationError(f"key file {path}: {reason or 'cannot be empty'}")
    return key


def _key_of_keyring() -> ApiKey:
    """Return the key of the system's keyring; an empty key if there is none, or no package `keyring`."""
    try:
        import keyring  # noqa: PLC0415 - optional # pyright: ignore[reportMissingImports]
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
    click.option("--emulate", is_flag=True, help="use an emulator: no account, no money"),
    click.option("--json", "as_json", is_flag=True, help="print JSON on stdout, and messages on stderr"),
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
        callback=_hide_key_of_file,
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


def _options() -> list[click.Parameter]:
    """Return the options that every command has."""
    return click.command()(common_options(lambda _: None)).params
