"""Choose the proxy of a request, by the environment or by `Client(proxy=...)`. The module does no I/O.

aiohttp's own `trust_env` is never used: it also reads ~/.netrc, and sends the password of the `default` entry there to
every host. The variables are those of curl (https://everything.curl.dev/usingcurl/proxies/env.html) and httpx.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from modelslab_async.errors import Problem
from modelslab_async.protocol.request import is_loopback

_SOCKS_HINT = "pass Client(session=...) with a SOCKS connector, such as that of aiohttp-socks"


class Proxies(NamedTuple):
    """The proxies of a client.

    by_scheme: for "https", "http" and "all", the name of the setting (such as "HTTPS_PROXY") and the proxy's URL.
    exceptions: hosts that are reached directly, in the syntax of NO_PROXY.
    """

    by_scheme: Mapping[str, tuple[str, str]] = {}
    exceptions: tuple[str, ...] = ()

    def for_url(self, url: str) -> str | None:
        """Return the proxy for a request to *url*, or None for a direct connection. Loopback is always direct."""
        setting = self._setting(url)
        return setting[1] if setting else None

    def _setting(self, url: str) -> tuple[str, str] | None:
        parts = urlsplit(url)
        if is_loopback(parts.hostname or "") or _is_excepted(parts, self.exceptions):
            return None
        return self.by_scheme.get(parts.scheme) or self.by_scheme.get("all")

    def problems(self, base_url: str) -> Iterator[Problem]:
        """Yield a problem for each proxy that a client with this base URL would use and cannot use.

        The service may name links with https and with http, so both proxies are checked, unless the service is on
        loopback.
        """
        host = urlsplit(base_url).netloc
        settings = {self._setting(f"{scheme}://{host}") for scheme in ("https", "http")}
        for name, url in sorted(setting for setting in settings if setting):
            if problem := problem_of(url):
                yield Problem(name, repr(without_password(url)), *problem)


def from_environment(environ: Mapping[str, str]) -> Proxies:
    """Read HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY; a lower-case name takes precedence.

    Under CGI (REQUEST_METHOD is set) HTTP_PROXY may come from a request's header, so it is ignored: see
    https://httpoxy.org.
    """
    found = {}
    for scheme in ("https", "http", "all"):
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
            is_forgeable = name == "HTTP_PROXY" and "REQUEST_METHOD" in environ
            if (url := environ.get(name, "").strip()) and not is_forgeable:
                found[scheme] = (name, url)
                break
    exceptions = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return Proxies(found, tuple(re.split(r"[\s,]+", exceptions.strip().lower())))


def from_argument(url: str) -> Proxies:
    """Use one proxy for all requests, and ignore the environment."""
    return Proxies({"all": ("proxy", url)})


def problem_of(url: object) -> tuple[str, str] | None:
    """Return the requirement that a proxy's URL does not meet and a hint, or None if the URL can be used."""
    if not isinstance(url, str):
        return "must be the URL of a proxy", 'pass "http://host:port", or omit it'
    scheme, separator, _ = url.partition("://")
    if separator and scheme.lower().startswith("socks"):
        return "must be an http(s) proxy; SOCKS is not supported", _SOCKS_HINT
    if scheme.lower() not in ("http", "https") or not separator:
        return "must begin with http:// or https://", 'write "http://host:port"'
    try:
        parts = urlsplit(url)
        is_usable = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:
        is_usable = False
    return None if is_usable else ("must name a host, and a port from 1 to 65535", 'write "http://host:port"')


def without_password(url: object) -> object:
    """Return a proxy's URL for a message, without user and password."""
    return re.sub(r"[^/]*@", "***@", url) if isinstance(url, str) else url


def _is_excepted(parts: SplitResult, exceptions: tuple[str, ...]) -> bool:
    host = (parts.hostname or "").rstrip(".")
    try:
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        port = None
    return any(_matches(host, port, each) for each in exceptions)


def _matches(host: str, port: int | None, exception: str) -> bool:
    """Return whether an exception covers a host: "*", a domain with its subdomains, an address or a network.

    All but "*" may have a port.
    """
    if exception == "*":
        return True
    with_port = re.fullmatch(r"(\[[^\]]*\]|[^:]*):(\d+)", exception)
    if with_port:
        if int(with_port[2]) != port:
            return False
        exception = with_port[1]
    exception = exception.strip("[]").removeprefix("*").strip(".")
    if not exception:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(exception, strict=False)
    except ValueError:
        return host == exception or host.endswith(f".{exception}")
