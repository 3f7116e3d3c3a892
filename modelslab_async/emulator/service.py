"""The service as a pure state machine: a request and a time in, an answer out. No I/O, no clock.

What it says follows the endpoint's documentation page and what users of the service published; it is not the service.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any

from modelslab_async.emulator import replies
from modelslab_async.emulator.faults import CUTS, Fault, FaultPlan, Occasion, Rule
from modelslab_async.emulator.files import FileAnswer
from modelslab_async.emulator.options import Profile, check_options
from modelslab_async.emulator.order import (
    DAY,
    DEFAULT_ETA,
    PRICE_USD,
    Charge,
    EtaKind,
    Ledger,
    Order,
    Work,
    account_fingerprint,
    draw_eta,
    file_name,
    processing_seconds,
)
from modelslab_async.emulator.params import Refusal, is_inline, parsed, positive, read_upload, read_work, truth
from modelslab_async.emulator.queue import Book
from modelslab_async.emulator.replies import Answer, Deed, Delivery, json_answer
from modelslab_async.protocol.request import Deployment, is_http_url
from modelslab_async.protocol.wire import BALANCE_PATH, QUEUE_DEPTH_PATH, SUBMIT_PATHS, UPLOAD_PATH, fetch_path

ASSETS_PATH = "/api/v6/assets_generated"
_FETCH_FOLDERS = {fetch_path(deployment, "").rstrip("/") for deployment in Deployment}
_ENTERPRISE = SUBMIT_PATHS[Deployment.ENTERPRISE].rpartition("/")[0]
_ADMIN = ("restart_server", "update_server", "clear_cache", "clear_queue", "system_details")
_AT_ONCE_SECONDS = 5.0
"""A job that takes less is answered with success at once, as in the page's sample (4.49 s)."""
_LAG_SECONDS = 3.0
_COUNT_CALLS_A_MINUTE = 30
_RETRY_AFTER = 30.0


class Service:
    """The accounts, their queues and their jobs. `Emulator` explains the options."""

    def __init__(
        self,
        *,
        profile: Profile = "documented",
        queue_limit: int = 5,
        workers: int | None = None,
        speed: float = 1.0,
        seed: int = 0,
        eta: Mapping[EtaKind, float] | None = None,
        faults: Sequence[Rule] = (),
        keys: Collection[str] | None = None,
        wallet: Decimal | None = None,
        origin: str = "http://emulator.invalid",
        first_id: int = 100_000,
    ) -> None:
        eta = DEFAULT_ETA if eta is None else eta
        check_options(locals())
        self.origin = origin
        self._first_id = first_id
        self.ledger = Ledger()
        self.speed = speed
        self.book = Book(queue_limit, workers or queue_limit)
        self._profile, self._eta, self._keys, self._wallet = profile, eta, keys, wallet
        self._seed = seed
        self._rng = random.Random(f"service {seed}")
        self._plan = FaultPlan(faults, random.Random(f"faults {seed}"))
        self._uploads: dict[str, tuple[float, bytes]] = {}
        self._counts: defaultdict[str, deque[float]] = defaultdict(deque)

    # --- requests ---

    def handle(self, now: float, path: str, body: bytes, picture: bytes | None = None) -> Answer:
        """Answer a POST. `picture` is what the shell got from `picture_url`; None where it could not."""
        params = parsed(body)
        occasion = _occasion(path)
        rule = self._plan.draw(occasion)
        fault = rule.fault if rule else None
        match fault:
            case Fault.REFUSED:
                return Answer(deed=Deed.REFUSE, delay=self._scaled(rule))
            case Fault.RESET_BEFORE:
                return Answer(deed=Deed.RESET)
            case Fault.RATE_LIMIT:
                return self._refuse(self._no_place())
            case Fault.ERROR_500:
                return self._refuse(Refusal(500, "Server Error"))
            case Fault.UNAVAILABLE_503:
                return self._refuse(Refusal(503, "The service is temporarily unavailable."))
            case _:
                return replies.spoiled(self._answer(now, path, params, picture, rule), fault, self._scaled(rule))

    def picture_url(self, path: str, body: bytes) -> str | None:
        """The URL of the picture that the shell is to fetch before `handle`, or None."""
        params = parsed(body)
        source = params.get("init_image")
        inline = is_inline(params, enterprise=path == SUBMIT_PATHS[Deployment.ENTERPRISE])
        wanted = path in SUBMIT_PATHS.values() and not inline and is_http_url(source)
        return str(source) if wanted else None

    def _answer(
        self, now: float, path: str, params: dict[str, Any], picture: bytes | None, rule: Rule | None
    ) -> Answer:
        try:
            key = self._key(params)
            head, _, last = path.rpartition("/")
            match path:
                case _ if path in SUBMIT_PATHS.values():
                    return self._submit(now, key, params, picture, rule, enterprise="/enterprise/" in path)
                case _ if head in _FETCH_FOLDERS:
                    return self._fetch(now, key, last, rule)
                case _ if path == QUEUE_DEPTH_PATH:
                    return self._count(now, key)
                case _ if path == BALANCE_PATH:
                    wallet = {"balance": max(self._balance(key), Decimal(0)), "currency": "USD"}
                    return json_answer({"status": "success", "data": wallet})
                case _ if path == UPLOAD_PATH:
                    return self._upload(now, params)
                case _ if path == ASSETS_PATH:
                    return self._assets(now, key, params)
                case _ if head == _ENTERPRISE and last in _ADMIN:
                    return self._admin(now, last)
                case _:
                    return self._refuse(Refusal(404, "The route could not be found."))
        except Refusal as refusal:
            return self._refuse(refusal)

    def _refuse(self, refusal: Refusal) -> Answer:
        """legacy: errors of the request at HTTP 200, and at times under the service's own spelling of message."""
        legacy = self._profile == "legacy" and refusal.status < 500
        name = "messege" if legacy and self._rng.random() < 0.5 else "message"
        return json_answer(
            {"status": "error", name: refusal.message, **refusal.more}, 200 if legacy else refusal.status
        )

    # --- the calls ---

    def _submit(
        self,
        now: float,
        key: str,
        params: dict[str, Any],
        picture: bytes | None,
        rule: Rule | None,
        *,
        enterprise: bool,
    ) -> Answer:
        rng = random.Random(f"job {self._seed} {len(self.orders)}")
        work, steps = read_work(params, picture, rng, enterprise=enterprise)
        if self._wallet is not None and self._balance(key) < PRICE_USD:
            raise Refusal(402, "You have insufficient credits in your wallet.")
        account = account_fingerprint(key)
        if not self.book.has_place(account, now):
            raise self._no_place()
        order = self._take(now, account, params, work, processing_seconds(work, steps, rng) / self.speed, rule, rng)
        self.book.add(order)
        self._plan.shown(rule)
        self.ledger.charges.append(Charge(account, order.id, params.get("track_id"), PRICE_USD, now))
        if order.starts_at == now and order.done_at - now <= _AT_ONCE_SECONDS / self.speed and not order.failed:
            if rule is None or rule.fault not in (Fault.EARLY_LINK, Fault.LATE_LINK):
                order.file_at = order.done_at
            return replies.at_once(order, self.origin, now, file_name(rng))
        eta = draw_eta(order.done_at - now, self._eta, rng)
        return replies.processing(order, self.origin, eta, enterprise=enterprise)

    def _take(
        self,
        now: float,
        account: str,
        params: dict[str, Any],
        work: Work,
        seconds: float,
        rule: Rule | None,
        rng: random.Random,
    ) -> Order:
        starts_at = self.book.starts_at(account, now)
        fault = rule.fault if rule else None
        lag = rng.random() * _LAG_SECONDS / self.speed
        if fault is Fault.LATE_LINK:
            lag = self._scaled(rule)
        elif fault is Fault.EARLY_LINK:
            lag = -self._scaled(rule)
        return Order(
            id=self._first_id + len(self.orders),
            account=account,
            params={name: value for name, value in params.items() if name not in ("key", "init_image")},
            work=work,
            name=file_name(rng),
            taken_at=now,
            starts_at=starts_at,
            done_at=starts_at + seconds,
            file_at=max(now, starts_at + seconds + lag),
            failed="Something went wrong while generating the video." if fault is Fault.JOB_FAILS else "",
        )

    def _fetch(self, now: float, key: str, job_id: str, rule: Rule | None) -> Answer:
        order = self.orders.get(int(job_id)) if re.fullmatch(r"[0-9]{1,18}", job_id) else None
        if order is None or order.account != account_fingerprint(key):
            return json_answer({"status": "failed", "id": "", "message": "Request not found", "output": ""})
        if rule and (rule.fault is not Fault.EMPTY_OUTPUT or order.state(now) == "success"):
            self._plan.shown(rule)
        return replies.fetched(order, self.origin, now, rule.fault if rule else None, self._rng)

    def _count(self, now: float, key: str) -> Answer:
        calls = self._counts[account_fingerprint(key)]
        while calls and calls[0] <= now - 60 / self.speed:
            calls.popleft()
        if len(calls) >= _COUNT_CALLS_A_MINUTE:
            raise Refusal(429, "Rate limit exceeded. Maximum 30 calls per minute.", retry_after=60 / self.speed)
        calls.append(now)
        return json_answer({"status": "success", "processing_count": len(self.running(key, now))})

    def _upload(self, now: float, params: dict[str, Any]) -> Answer:
        picture, extension = read_upload(params)
        name = file_name(self._rng).replace("mp4", extension)
        self._uploads[name] = (now + DAY / self.speed, picture)
        url = f"{self.origin}/uploads/{name}"
        return json_answer({"status": "success", "id": len(self._uploads), "output": [url]})

    def _assets(self, now: float, key: str, params: dict[str, Any]) -> Answer:
        page, per_page = positive(params.get("page"), 1), min(positive(params.get("per_page"), 10), 30)
        done = [o for o in self.orders.values() if o.account == account_fingerprint(key) and o.state(now) == "success"]
        return replies.listed(done[::-1], self.origin, page, per_page)

    def _admin(self, now: float, command: str) -> Answer:
        """Posts of a dedicated server; clear_queue drops every job on it."""
        if command == "clear_queue":
            self.book.clear(now)
        return json_answer({"status": "success", "message": f"{command}: done, by the emulator"})

    # --- files and webhooks ---

    def file(self, now: float, name: str, ranged: str = "") -> FileAnswer:
        """What a link gives now, asked for this Range. Whoever reads just the head sees no end, so none is cut."""
        if name in self._uploads:
            dies_at, picture = self._uploads[name]
            return FileAnswer(200, upload=picture) if now < dies_at else FileAnswer(404)
        order = self.book.named(name)
        if order is None or order.failed:
            return FileAnswer(404)
        if now < order.file_at or order.is_rendering:
            return FileAnswer(403 if order.name < "4" else 404)  # names begin with a random hex digit
        if truth(order.params.get("temp")) and now >= order.done_at + DAY / self.speed:
            return FileAnswer(404)
        rule = self._plan.draw("file", but=CUTS if re.fullmatch(r"bytes=\d+-\d+", ranged) else ())
        return FileAnswer(200, order=order, fault=rule.fault if rule else None)

    def deliveries(self, order: Order) -> list[Delivery]:
        """What the webhook of a job will be told, and when."""
        url = order.params.get("webhook")
        if not is_http_url(url):
            return []
        rule = self._plan.draw("webhook")
        return replies.deliveries(order, str(url), self.origin, rule.fault if rule else None, self._scaled(rule))

    # --- small things ---

    @property
    def orders(self) -> dict[int, Order]:
        """All jobs that were ever taken, by id."""
        return self.book.orders

    def running(self, key: str, now: float) -> list[Order]:
        """The jobs of a key that are queued or processing."""
        return self.book.running(account_fingerprint(key), now)

    def _key(self, params: dict[str, Any]) -> str:
        key = params.get("key")
        if not isinstance(key, str) or not key or (self._keys is not None and key not in self._keys):
            raise Refusal(401, "Invalid API Key", tip="Pass the key of your account.")
        return key

    def _balance(self, key: str) -> Decimal:
        return (Decimal(100) if self._wallet is None else self._wallet) - self.ledger.total(key)

    def _no_place(self) -> Refusal:
        words = f"Rate limit exceeded. Maximum {self.book.limit} queued requests allowed."
        return Refusal(429, words, retry_after=_RETRY_AFTER / self.speed)

    def _scaled(self, rule: Rule | None) -> float:
        return (rule.seconds if rule else 0.0) / self.speed


def _occasion(path: str) -> Occasion:
    if path in SUBMIT_PATHS.values():
        return "submit"
    return "fetch" if path.rpartition("/")[0] in _FETCH_FOLDERS else "call"
