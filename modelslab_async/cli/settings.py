"""The settings of the command: from flags, else environment variables, else config.toml in the platform's folder."""

from __future__ import annotations

import os
import shlex
import stat
import sys
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import reduce, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import click
import platformdirs
from click.core import ParameterSource

from modelslab_async.cli.help import GENERAL, SERVICE, WAITING, Number, WholeNumber, option
from modelslab_async.cli.output import Output
from modelslab_async.engine.config import KEY_VARIABLE, wrapped_key
from modelslab_async.errors import AuthenticationError, InvalidRequestError
from modelslab_async.journal.choose import is_database
from modelslab_async.journal.postgres import PostgresJournal
from modelslab_async.polling.schedule import DEFAULT_POLL_COST
from modelslab_async.protocol.secret import ApiKey

APP = "modelslab_async"
URL_VARIABLE = "MODELSLAB_BASE_URL"
KEY_FILE_VARIABLE = "MODELSLAB_KEY_FILE"
CONFIG_VARIABLE = "MODELSLAB_CONFIG"
JOURNAL_VARIABLE = "MODELSLAB_JOURNAL"


ACCOUNT = ("base_url", "allow_http", "enterprise", "key_file")
"""The options that say which account of which service is used."""
JOURNAL = (*ACCOUNT, "journal")
"""The options of commands that read the account's jobs in the journal."""
JOBS = (*JOURNAL, "max_in_flight", "timeout", "poll_cost")
"""The options of commands that wait for jobs."""
_REPEATED = ("base_url", "allow_http", "enterprise", "key_file", "journal")
"""The options that a printed command repeats: it must reach the same account and journal."""


def _default_journal() -> Path:
    return platformdirs.user_data_path(APP) / "jobs.db"


class JournalType(click.Path):
    """The path of a file, or the URL of a PostgreSQL database. The name is for click's messages."""

    name = "journal"

    def convert(
        self, value: str | os.PathLike[str] | PostgresJournal, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return a path or a journal. The password of a URL is hidden from all messages."""
        if isinstance(value, PostgresJournal):
            return value
        if not is_database(value):
            return super().convert(value, param, ctx)
        try:
            journal = PostgresJournal(os.fspath(value))
        except InvalidRequestError as error:
            problem = error.problems[0]
            raise click.BadParameter(f"{problem.requirement} (hint: {problem.hint})", ctx, param) from None
        if ctx and isinstance(ctx.obj, list):
            ctx.obj.append(journal.password)
        return journal


@attrs.frozen(kw_only=True)
class Settings:
    """The values of the options that several commands have. A command without an option gets its default.

    journal: None for a command that needs no journal.
    repeated: the flags that a printed command must repeat to reach the same account and journal.
    """

    output: Output
    emulate: bool = False
    base_url: str | None = None
    allow_http: bool = False
    enterprise: bool = False
    journal: Path | PostgresJournal | None = None
    key_file: Path | None = None
    max_in_flight: int = 5
    limits: str = "refuse"
    timeout: float | None = None
    poll_cost: float = DEFAULT_POLL_COST
    repeated: tuple[str, ...] = ()

    def command(self, *words: str) -> str:
        """Return a command line to print: one of our commands, with the flags to repeat."""
        return shlex.join(["modelslab-async", *words, *self.repeated])


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
    known = set(_COMMON) - {"emulate", "as_json"}
    if "api_key" in given:
        raise click.UsageError(f"{path}: cannot hold the API key (hint: keep it in a separate file, named by key_file)")
    if unknown := sorted(given.keys() - known):
        raise click.UsageError(f"{path}: unknown setting {unknown[0]} (hint: use one of {', '.join(sorted(known))})")
    return given


def common_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --json and the named ones of the options that several commands have.

    The command receives them as one argument, its `Settings`.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_settings(**options: Any) -> Any:
            common = {name: options.pop(name) for name in names}
            context = click.get_current_context()
            keys: list[ApiKey] = context.obj
            output = Output(options.pop("as_json"), is_emulated=common.get("emulate", False), keys=keys)
            return command(Settings(output=output, repeated=_repeated(context), **common), **options)

        wanted = [each for name, each in _COMMON.items() if name in (*names, "as_json")]
        return reduce(lambda decorated, each: each(decorated), reversed(wanted), with_settings)

    return decorate


def _repeated(context: click.Context) -> tuple[str, ...]:
    """Return the words on the command line that a printed command must repeat."""
    words = list[str]()
    for name in _REPEATED:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag, value = f"--{name.replace('_', '-')}", context.params[name]
            shown = value.dsn if isinstance(value, PostgresJournal) else str(value)
            words += [flag] if value is True else [flag, shown]
    return tuple(words)


def typed_words() -> list[str]:
    """Return the words of the command line as they may be shown: without the password of a database."""
    words = list[str]()
    for word in sys.argv[1:]:
        name, is_assigned, value = word.partition("=") if word.startswith("--journal=") else ("", "", word)
        try:
            shown = PostgresJournal(value).dsn if is_database(value) else value
        except InvalidRequestError:
            shown = "DSN"
        words.append(f"{name}{is_assigned}{shown}")
    return words


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
    install = "" if is_installed("keyring") else f"python -m pip install '{APP}[keyring]' and "
    raise AuthenticationError(
        f"no API key (hint: set {KEY_VARIABLE}, or name a file that holds the key with --key-file, or run "
        f"{install}keyring set {APP} api_key; without an account, try generate or batch with --emulate)"
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


def is_installed(module: str) -> bool:
    """Return whether an optional module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except ValueError:  # a module without a spec, such as None, is in its place
        return False


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


_SECONDS = Number(0, min_open=True)
_COMMON: Mapping[str, Callable[[Any], Any]] = {
    "emulate": option("--emulate", group=SERVICE, is_flag=True, help="use an emulator: no account, no money"),
    "base_url": option(
        "--base-url", group=SERVICE, metavar="URL", envvar=URL_VARIABLE, show_envvar=True, help="use another server"
    ),
    "allow_http": option(
        "--allow-http",
        group=SERVICE,
        is_flag=True,
        envvar="MODELSLAB_ALLOW_HTTP",
        show_envvar=True,
        help="send the key in clear text to an emulator on another host",
    ),
    "enterprise": option(
        "--enterprise",
        group=SERVICE,
        is_flag=True,
        envvar="MODELSLAB_ENTERPRISE",
        show_envvar=True,
        help="use a dedicated server",
    ),
    "key_file": option(
        "--key-file",
        group=SERVICE,
        type=click.Path(path_type=Path),
        metavar="FILE",
        envvar=KEY_FILE_VARIABLE,
        show_envvar=True,
        is_eager=True,
        callback=_hide_key_of_file,
        help="a file that holds the API key",
    ),
    "journal": option(
        "--journal",
        group=WAITING,
        type=JournalType(path_type=Path, dir_okay=False),
        metavar="FILE|URL",
        envvar=JOURNAL_VARIABLE,
        show_envvar=True,
        default=_default_journal,
        help="the record of all jobs: a file, or postgresql://USER@HOST/DATABASE",
    ),
    "max_in_flight": option(
        "--max-in-flight",
        group=WAITING,
        type=WholeNumber(1),
        metavar="N",
        default=5,
        envvar="MODELSLAB_MAX_IN_FLIGHT",
        show_envvar=True,
        show_default=True,
        help="the most jobs at the service at a time",
    ),
    "timeout": option(
        "--timeout",
        group=WAITING,
        type=_SECONDS,
        metavar="SECONDS",
        envvar="MODELSLAB_TIMEOUT",
        show_envvar=True,
        help="wait at most this long for a job",
    ),
    "poll_cost": option(
        "--poll-cost",
        group=WAITING,
        type=_SECONDS,
        metavar="SECONDS",
        default=DEFAULT_POLL_COST,
        envvar="MODELSLAB_POLL_COST",
        show_envvar=True,
        show_default=True,
        help="cost of a poll in seconds of waiting; a lower cost polls more often",
    ),
    "limits": option(
        "--limits",
        group=WAITING,
        type=click.Choice(["refuse", "warn", "off"]),
        default="refuse",
        envvar="MODELSLAB_LIMITS",
        show_envvar=True,
        show_default=True,
        help="what to do with a request beyond the documented limits",
    ),
    "as_json": option(
        "--json", "as_json", group=GENERAL, is_flag=True, help="print JSON on stdout, and messages on stderr"
    ),
}
"""The options that several commands have, by the name of their value."""
