"""The emulated service as a pure state machine: a request and a time in, an answer out. No I/O, no clock.

Its answers follow the endpoint's documentation page and what users of the service published. It is not the service.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import attrs

from modelslab_async.emulator import replies
from modelslab_async.emulator.accounts import Account, Accounts
from modelslab_async.emulator.faults import CUT_FAULTS, Fault, FaultPlan, Occasion, Rule, magic_rule
from modelslab_async.emulator.files import FileAnswer
from modelslab_async.emulator.job import (
    DAY_SECONDS,
    DEFAULT_ETA,
    EmulatedJob,
    EtaKind,
    Work,
    draw_eta,
    draw_file_name,
    processing_seconds,
)
from modelslab_async.emulator.ledger import Charge, Ledger, account_fingerprint
from modelslab_async.emulator.operations import (
    COUNT_PATH,
    LIST_PATH,
    SERVER_COMMANDS,
    SERVER_FOLDERS,
    UPLOAD_PATHS,
    WALLET_PATH,
    Operation,
    is_fetch_folder,
    occasion_of,
    submitted_at,
)
from modelslab_async.emulator.options import Profile, check_of_faults, check_options
from modelslab_async.emulator.params import (
    Picture,
    Refusal,
    check_file,
    inline_picture,
    main_file,
    parse_body,
    parse_positive,
    read_upload,
    read_work,
    shown_params,
)
from modelslab_async.emulator.queue import JobQueue
from modelslab_async.emulator.replies import Action, Answer, Delivery, Links, json_answer
from modelslab_async.emulator.store import MemoryStore, Store
from modelslab_async.errors import InvalidRequestError
from modelslab_async.protocol.problems import require
from modelslab_async.protocol.request import is_http_url

_IMMEDIATE_SECONDS = 5.0
"""A submit whose job takes less is answered with success, as in the documentation page's sample (4.49 s)."""
_MAX_LINK_LAG_SECONDS = 3.0
"""A file appears at its link up to this long after its job is done."""
_COUNT_CALLS_PER_MINUTE = 30
_RETRY_AFTER_SECONDS = 30.0
_LOGGED_REQUESTS = 1000


@attrs.frozen
class LoggedRequest:
    """A POST to the API: when and where, its parameters without the key, and the HTTP status of the answer.

    account: the account whose key it carried; None without an accepted key.
    fault: the fault that hit it, or None.
    """

    at: float
    path: str
    account: str | None
    params: Mapping[str, Any] | None
    fault: Fault | None
    status: int


@attrs.frozen
class Call:
    """A POST to the API, decoded.

    params: the JSON object of its body, or None if there is none.
    shown: the same, without the key and long texts.
    account: the account of its key; None if the key is not accepted.
    refusal: why it is refused whatever it asks for, or None.
    operation: what it submits, or None for another call.
    picture: the inline picture, or the URL from which the caller must fetch it; None if the call needs no picture.
    """

    path: str
    params: dict[str, Any] | None = attrs.field(repr=False)
    shown: dict[str, Any] | None
    account: str | None
    refusal: Refusal | None
    operation: Operation | None
    picture: bytes | str | None = attrs.field(repr=False)


class Service:
    """The emulated service: accounts, their queues and their jobs. `Emulator` explains the options.

    Time is passed in, in seconds. Raises InvalidRequestError if an option is wrong.

    speed: divides all times.
    wallet: USD that each key may spend, or None for no limit. It may be changed at any time.
    origin: scheme and host of the links in replies, unless `handle` is called with another. It may be changed at any
        time.
    first_id: id of the first job; later jobs count on. `ids` yields other ids instead.
    name_seed: the file names follow from it, and are never those of a service with another name_seed.
    store: where pictures and uploads are kept.
    """

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
        keep: int = 10_000,
        origin: str = "http://emulator.invalid",
        first_id: int = 100_000,
        ids: Iterator[int] | None = None,
        name_seed: str = "",
        store: Store | None = None,
    ) -> None:
        eta = DEFAULT_ETA if eta is None else eta
        check_options(
            profile=profile,
            queue_limit=queue_limit,
            workers=workers,
            speed=speed,
            eta=eta,
            faults=faults,
            keys=keys,
            wallet=wallet,
            keep=keep,
        )
        self.origin = origin
        self.speed = speed
        self.wallet = wallet
        self.keep = keep
        self.ledger = Ledger(keep)
        self.accounts = Accounts(keys, keep)
        self.queue = JobQueue(queue_limit, workers or queue_limit, keep)
        self.requests: deque[LoggedRequest] = deque(maxlen=min(keep, _LOGGED_REQUESTS))
        """The newest requests, oldest first."""
        self.on_forget: Callable[[EmulatedJob], object] = lambda _: None
        """Called with each job that is forgotten."""
        self.store = MemoryStore() if store is None else store
        self._profile, self._eta = profile, eta
        self._seed = seed
        self._ids = ids or itertools.count(first_id)
        self._names = random.Random(f"names {name_seed} {seed}")
        self._rng = random.Random(f"service {seed}")
        self._uploads: dict[str, tuple[float, str]] = {}
        """The time of expiry and the name in the store, by file name."""
        self._temporary: deque[EmulatedJob] = deque()
        self._magic_used: dict[tuple[str, str], None] = {}
        self._first_faults = faults
        self.set_faults(faults)

    def set_faults(self, rules: Sequence[Rule], *, seed: int | None = None) -> None:
        """Replace the fault rules from now on; `times` of each rule counts anew.

        seed: of the draws of the new rules; None for the service's own seed.

        Raises InvalidRequestError if *rules* is not a sequence of `Rule`.
        """
        require(check_of_faults(rules))
        self.faults = FaultPlan(rules, random.Random(f"faults {self._seed if seed is None else seed}"))

    @property
    def jobs(self) -> dict[int, EmulatedJob]:
        """The jobs that are kept, by id."""
        return self.queue.jobs

    def unfinished_jobs(self, key: str, now: float) -> list[EmulatedJob]:
        """Return the jobs of *key* that are queued or processing."""
        return self.queue.unfinished(account_fingerprint(key), now)

    def work_of(self, job: EmulatedJob) -> Work:
        """Return what a renderer needs, with the picture. Raise LookupError if the picture is not kept any more."""
        return attrs.evolve(job.work, picture=self.store.get(job.picture) if job.source else b"")

    # --- control ---

    def forget_jobs(self) -> None:
        """Forget all jobs, as if their ids had expired. Their ids are not used again, and the ledger stays."""
        self._forget(self.queue.forget_jobs())

    def reset(self, key: str | None = None) -> None:
        """Forget jobs, charges and settings of *key*; of all keys, and also uploads and faults, if it is None.

        The faults are then those of the start again. Ids and file names are not used again.
        """
        account = None if key is None else account_fingerprint(key)
        self._forget(self.queue.forget_jobs(account))
        self.ledger.reset(account)
        self.accounts.reset(account)
        kept = [each for each in self.requests if account not in (None, each.account)]
        self.requests.clear()
        self.requests.extend(kept)
        self._magic_used = {used: None for used in self._magic_used if account not in (None, used[0])}
        if account is None:
            self._expire_uploads(len(self._uploads))
            self.set_faults(self._first_faults)

    def end_job(self, now: float, job: EmulatedJob, failure: str = "") -> bool:
        """Let a job end now, with *failure* as the reason if it is not empty. Return False if it has ended already."""
        if job.state(now) in ("success", "failed"):
            return False
        self.queue.end(job, now, failure)
        return True

    def _forget(self, jobs: Sequence[EmulatedJob]) -> None:
        for job in jobs:
            self.store.drop(job.picture)
            job.picture = ""
            self.on_forget(job)

    def _expire(self, now: float) -> None:
        """Forget what has expired: uploads and temporary files after a day of the service's time."""
        expired = 0
        for expires_at, _ in self._uploads.values():
            if expires_at > now and len(self._uploads) - expired <= self.keep:
                break
            expired += 1
        self._expire_uploads(expired)
        while self._temporary and self._has_expired(self._temporary[0], now):
            self.on_forget(self._temporary.popleft())

    def _expire_uploads(self, count: int) -> None:
        for name in [*itertools.islice(self._uploads, count)]:
            self.store.drop(self._uploads.pop(name)[1])

    def _has_expired(self, job: EmulatedJob, now: float) -> bool:
        return job.is_temporary and now >= job.done_at + DAY_SECONDS / self.speed

    # --- requests ---

    def handle(
        self, now: float, path: str, body: bytes, picture: bytes | None = None, *, origin: str | None = None
    ) -> Answer:
        """Answer a POST at time *now*.

        picture: the content of the URL that `read` names as the call's picture, or None if fetching it failed.
        origin: scheme and host of the links in the answer and in the deliveries of its job; None for `origin`.
        """
        call = self.read(path, body)
        found = None
        if call.picture is not None:
            found = check_file(picture if isinstance(call.picture, str) else call.picture, call.operation)
        return self.answer(now, call, found, Links(origin or self.origin, origin or self.origin))

    def read(self, path: str, body: bytes) -> Call:
        """Decode a POST. A call that will be refused for its key or its body needs no picture."""
        params = parse_body(body)
        operation = submitted_at(path)
        if params is None:
            refusal = Refusal(400, "Invalid API Request", tip="Send a JSON object, with its key.")
            return Call(path, None, None, None, refusal, operation, None)
        shown = shown_params(params)
        key = params.get("key")
        account = account_fingerprint(key) if isinstance(key, str) and key else None
        if account is None or not self.accounts.accepts(account):
            refusal = Refusal(401, "Invalid API Key", tip="Pass the key of your account.")
            return Call(path, params, shown, None, refusal, operation, None)
        source: bytes | str | None = None
        if operation and operation.main_file:
            source = inline_picture(params, operation)
            if source is None and is_http_url(url := main_file(params, operation)):
                source = url
        return Call(path, params, shown, account, None, operation, source)

    def answer(
        self,
        now: float,
        call: Call,
        picture: Picture | None,
        links: Links,
        *,
        render_seconds: Callable[[Work], float] = lambda _: 0.0,
    ) -> Answer:
        """Answer a decoded POST at time *now*.

        picture: the picture of the call, or None if it has none.
        render_seconds: returns the seconds until a video could be ready, given those that are rendered before it.
        """
        occasion = occasion_of(call.path)
        try:
            rule = self._magic_rule(call, occasion) or self.faults.draw(occasion)
        except InvalidRequestError as error:
            answer = self._refuse(Refusal(400, {"track_id": [str(error)]}))
            return self._logged(now, call, None, answer)
        fault = rule.fault if rule else None
        seconds = self._scaled_seconds(rule)
        match fault:
            case Fault.REFUSED:
                answer = Answer(action=Action.REFUSE, delay=seconds)
            case Fault.RESET_BEFORE:
                answer = Answer(action=Action.RESET)
            case Fault.RATE_LIMIT:
                answer = self._refuse(self._no_free_slot(call.account))
            case Fault.TRY_LATER:
                minutes = max(1, round(seconds / 60))
                text = f"Rate limit exceeded. Please try again in {minutes} minute{'s' * (minutes > 1)}."
                answer = self._refuse(Refusal(429, text))
            case Fault.ERROR_500:
                answer = self._refuse(Refusal(500, "Server Error"))
            case Fault.UNAVAILABLE_503:
                answer = self._refuse(Refusal(503, "The service is temporarily unavailable."))
            case _:
                answer = replies.apply_fault(
                    self._answer(now, call, picture, rule, links, render_seconds), fault, seconds
                )
        return self._logged(now, call, fault, answer)

    def _logged(self, now: float, call: Call, fault: Fault | None, answer: Answer) -> Answer:
        self.requests.append(LoggedRequest(now, call.path, call.account, call.shown, fault, answer.status))
        return answer

    def _magic_rule(self, call: Call, occasion: Occasion) -> Rule | None:
        """Return the rule that the track_id of a submit requests. A fault of the reply hits each track_id once."""
        if occasion != "submit" or call.refusal or call.params is None:
            return None
        rule = magic_rule(call.params.get("track_id"))
        if rule is None or rule.occasion != "submit":
            return None
        used = (call.account or "", call.params["track_id"])
        if rule.fault in (Fault.JOB_FAILS, Fault.EARLY_LINK, Fault.LATE_LINK):
            return rule
        if used in self._magic_used:
            return None
        self._magic_used[used] = None
        if len(self._magic_used) > self.keep:
            del self._magic_used[next(iter(self._magic_used))]
        return rule

    def _rule_of_job(self, job: EmulatedJob, occasion: Occasion, excluding: Collection[Fault] = ()) -> Rule | None:
        """Return the rule that the job's track_id requests for this occasion. It hits each job once."""
        rule = magic_rule(job.track_id)
        if rule is None or rule.occasion != occasion or rule.fault in excluding or job.faults_used:
            return None
        return rule

    def _answer(
        self,
        now: float,
        call: Call,
        picture: Picture | None,
        rule: Rule | None,
        links: Links,
        render_seconds: Callable[[Work], float],
    ) -> Answer:
        try:
            if call.refusal:
                raise call.refusal
            assert call.params is not None  # noqa: S101 - otherwise there is a refusal
            assert call.account is not None  # noqa: S101
            path, params, account = call.path, call.params, self.accounts.of(call.account)
            self._forget_accounts(now)
            if call.operation:
                return self._submit(now, account, call, call.operation, picture, rule, links, render_seconds)
            head, _, last = path.rpartition("/")
            if is_fetch_folder(path):
                return self._fetch(now, account, path, str(params.get("request_id", "")), rule, links)
            if is_fetch_folder(head):
                return self._fetch(now, account, head, last, rule, links)
            return self._other_call(now, account, path, params, links)
        except Refusal as refusal:
            return self._refuse(refusal)

    def _other_call(self, now: float, account: Account, path: str, params: dict[str, Any], links: Links) -> Answer:
        """Answer a call that neither submits nor fetches."""
        folder, _, command = path.rpartition("/")
        match path:
            case _ if path == COUNT_PATH:
                return self._count_unfinished(now, account)
            case _ if path == WALLET_PATH:
                wallet = {"balance": max(self.balance(account), Decimal(0)), "currency": "USD"}
                return json_answer({"status": "success", "data": wallet})
            case _ if path in UPLOAD_PATHS:
                return self._upload(now, params, links)
            case _ if path == LIST_PATH:
                return self._list_assets(now, account, params, links)
            case _ if folder in SERVER_FOLDERS and command in SERVER_COMMANDS:
                return self._run_server_command(now, command)
            case _:
                raise Refusal(404, "The route could not be found.")

    def _forget_accounts(self, now: float) -> None:
        if self.accounts.has_surplus:
            for name in self.accounts.surplus(self.queue.busy_accounts(now)):
                self.ledger.forget(name)

    def _refuse(self, refusal: Refusal) -> Answer:
        """Answer with an error.

        The legacy profile answers HTTP 200, and spells message "messege" at times. In the strict profile a message is
        always a text.
        """
        legacy = self._profile == "legacy" and refusal.status < 500
        name = "messege" if legacy and self._rng.random() < 0.5 else "message"
        message = refusal.message
        if self._profile == "strict" and isinstance(message, dict):
            message = " ".join(sentence for sentences in message.values() for sentence in sentences)
        reply = {"status": "error", name: message, **refusal.fields}
        return json_answer(reply, 200 if legacy else refusal.status)

    # --- one method per call ---

    def _submit(
        self,
        now: float,
        account: Account,
        call: Call,
        operation: Operation,
        picture: Picture | None,
        rule: Rule | None,
        links: Links,
        render_seconds: Callable[[Work], float],
    ) -> Answer:
        params, shown = call.params or {}, call.shown or {}
        rng = random.Random(f"job {self._seed} {self.queue.accepted}")
        work, steps = read_work(params, operation, picture, rng, is_strict=self._profile == "strict")
        if self.wallet_of(account) is not None and self.balance(account) < operation.price_usd:
            raise Refusal(402, "You have insufficient credits in your wallet.")
        if self.queue.slots_used(account.name, now) >= self.limit_of(account):
            raise self._no_free_slot(account.name)
        self._expire(now)
        seconds = processing_seconds(work, steps, rng) / self.speed
        starts_at = self.queue.next_start(account.name, now, account.workers)
        done_at = max(starts_at + seconds, now + render_seconds(work))
        fault = rule.fault if rule else None
        lag = rng.random() * _MAX_LINK_LAG_SECONDS / self.speed
        if fault is Fault.LATE_LINK:
            lag = self._scaled_seconds(rule)
        elif fault is Fault.EARLY_LINK:
            lag = -self._scaled_seconds(rule)
        job = EmulatedJob(
            id=next(self._ids),
            account=account.name,
            params={name: each for name, each in params.items() if name != "key" and name not in operation.files},
            operation=operation,
            path=call.path,
            source=str(main_file(shown, operation) or ""),
            picture=self.store.put(picture.content) if picture else "",
            work=work,
            origin=links.api,
            file_origin=links.files,
            file_name=draw_file_name(self._names).replace(".mp4", f".{work.container}"),
            accepted_at=now,
            starts_at=starts_at,
            done_at=done_at,
            file_at=max(now, done_at + lag),
            failure="Something went wrong while generating the video." if fault is Fault.JOB_FAILS else "",
        )
        self._forget(self.queue.add(job))
        if job.is_temporary:
            self._temporary.append(job)
        self.faults.count_effect(rule)
        self.ledger.charge(Charge(account.name, job.id, job.track_id, operation.price_usd, now))
        eta = draw_eta(job.done_at - now, self._eta, rng)
        processing = replies.processing_answer(job, links, eta, operation.fetch_folders[0])
        if job.starts_at == now and job.done_at - now <= _IMMEDIATE_SECONDS / self.speed and not job.failure:
            if fault not in (Fault.EARLY_LINK, Fault.LATE_LINK):
                job.file_at = job.done_at
            success = replies.immediate_success_answer(job, links, now, draw_file_name(self._names))
            return attrs.evolve(success, if_late=processing)
        return processing

    def _fetch(self, now: float, account: Account, folder: str, job_id: str, rule: Rule | None, links: Links) -> Answer:
        job = self.jobs.get(int(job_id)) if re.fullmatch(r"[0-9]{1,18}", job_id) else None
        if job is None or job.account != account.name or folder not in job.operation.fetch_folders:
            reply = {"status": "failed", "id": "", "message": "Request not found", "output": ""}
            return json_answer(reply, 404 if self._profile == "strict" else 200)
        job.polls += 1
        magic = self._rule_of_job(job, "fetch")
        rule = magic or rule
        if rule and (rule.fault is not Fault.EMPTY_OUTPUT or job.state(now) == "success"):
            self.faults.count_effect(rule)
            job.faults_used |= rule is magic
        return replies.fetch_answer(job, links, now, rule.fault if rule else None, self._rng)

    def _count_unfinished(self, now: float, account: Account) -> Answer:
        calls = account.count_calls
        while calls and calls[0] <= now - 60 / self.speed:
            calls.popleft()
        if len(calls) >= _COUNT_CALLS_PER_MINUTE:
            raise Refusal(429, "Rate limit exceeded. Maximum 30 calls per minute.", retry_after=60 / self.speed)
        calls.append(now)
        return json_answer({"status": "success", "processing_count": self.queue.slots_used(account.name, now)})

    def _upload(self, now: float, params: dict[str, Any], links: Links) -> Answer:
        picture, extension = read_upload(params)
        self._expire(now)
        name = draw_file_name(self._names).replace("mp4", extension)
        self._uploads[name] = (now + DAY_SECONDS / self.speed, self.store.put(picture))
        url = f"{links.files}/temp/{name}"
        return json_answer({"status": "success", "id": len(self._uploads), "output": [url]})

    def _list_assets(self, now: float, account: Account, params: dict[str, Any], links: Links) -> Answer:
        page, per_page = parse_positive(params.get("page"), 1), min(parse_positive(params.get("per_page"), 10), 30)
        done = [job for job in self.jobs.values() if job.account == account.name and job.state(now) == "success"]
        return replies.assets_answer(done[::-1], links, page, per_page)

    def _run_server_command(self, now: float, command: str) -> Answer:
        """Answer a command to a dedicated server. Only clear_queue has an effect: every unfinished job fails."""
        if command == "clear_queue":
            self.queue.fail_unfinished(now)
        return json_answer({"status": "success", "message": f"{command}: done, by the emulator"})

    # --- files and webhooks ---

    def file(self, now: float, name: str, byte_range: str = "") -> FileAnswer:
        """Return the state of the link of the file *name* at time *now*.

        byte_range: the request's Range header. A range with an end gets no cut file: a client that reads only the
        head of a file cannot notice the cut, and the fault would be used up without effect.
        """
        if name in self._uploads:
            expires_at, stored = self._uploads[name]
            return FileAnswer(200, upload=self.store.get(stored)) if now < expires_at else FileAnswer(404)
        job = self.queue.find_by_file_name(name)
        if job is None or job.failure:
            return FileAnswer(404)
        if now < job.file_at or job.is_rendering:
            return FileAnswer(403 if job.file_name < "4" else 404)  # names begin with a random hex digit
        if self._has_expired(job, now):
            return FileAnswer(404)
        excluding = CUT_FAULTS if re.fullmatch(r"bytes=\d+-\d+", byte_range) else ()
        rule = self._rule_of_job(job, "file", excluding)
        job.faults_used |= rule is not None
        rule = rule or self.faults.draw("file", excluding)
        fault = rule.fault if rule else None
        return FileAnswer(429 if fault is Fault.FILE_429 else 200, job=job, fault=fault)

    def deliveries(self, job: EmulatedJob) -> list[Delivery]:
        """Return the webhook deliveries of *job*, or [] if its request named no http(s) URL. Call it once per job."""
        url = job.params.get("webhook")
        if not is_http_url(url):
            return []
        rule = self._rule_of_job(job, "webhook") or self.faults.draw("webhook")
        fault = rule.fault if rule else None
        return replies.plan_deliveries(job, str(url), fault, self._scaled_seconds(rule))

    # --- helpers ---

    def wallet_of(self, account: Account) -> Decimal | None:
        """Return the USD that an account may spend, or None for no limit."""
        return self.wallet if account.wallet is None else account.wallet

    def balance(self, account: Account) -> Decimal:
        """Return the USD in an account's wallet, which may be below 0. Without a wallet, the balance begins at 100."""
        wallet = self.wallet_of(account)
        return (Decimal(100) if wallet is None else wallet) - self.ledger.account_total(account.name)

    def limit_of(self, account: Account) -> int:
        """Return how many jobs an account may have queued or processing."""
        return account.queue_limit or self.queue.limit

    def _no_free_slot(self, name: str | None) -> Refusal:
        account = None if name is None else self.accounts.find(name)
        limit = self.limit_of(account) if account else self.queue.limit
        message = f"Rate limit exceeded. Maximum {limit} queued requests allowed."
        return Refusal(429, message, retry_after=_RETRY_AFTER_SECONDS / self.speed)

    def _scaled_seconds(self, rule: Rule | None) -> float:
        return (rule.seconds if rule else 0.0) / self.speed
