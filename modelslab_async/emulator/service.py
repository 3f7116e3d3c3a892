"""The emulated service as a pure state machine: a request and a time in, an answer out. No I/O, no clock.

Its answers follow the endpoint's documentation page and what users of the service published. It is not the service.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any

from modelslab_async.emulator import replies
from modelslab_async.emulator.faults import CUT_FAULTS, Fault, FaultPlan, Occasion, Rule
from modelslab_async.emulator.files import FileAnswer
from modelslab_async.emulator.job import (
    DAY_SECONDS,
    DEFAULT_ETA,
    PRICE_USD,
    EmulatedJob,
    EtaKind,
    Work,
    draw_eta,
    draw_file_name,
    processing_seconds,
)
from modelslab_async.emulator.ledger import Charge, Ledger, account_fingerprint
from modelslab_async.emulator.options import Profile, check_of_faults, check_options
from modelslab_async.emulator.params import (
    Refusal,
    has_inline_picture,
    main_file,
    parse_body,
    parse_bool,
    parse_positive,
    read_upload,
    read_work,
)
from modelslab_async.emulator.queue import JobQueue
from modelslab_async.emulator.replies import Action, Answer, Delivery, json_answer
from modelslab_async.protocol.operations import DEFAULT_OPERATION, OPERATIONS, Operation, operation_at
from modelslab_async.protocol.problems import require
from modelslab_async.protocol.request import Deployment, is_http_url
from modelslab_async.protocol.wire import BALANCE_PATH, QUEUE_DEPTH_PATH, UPLOAD_PATH

ASSETS_PATH = "/api/v6/assets_generated"
_ENTERPRISE_FOLDER = OPERATIONS[DEFAULT_OPERATION].endpoints[Deployment.ENTERPRISE].submit.rpartition("/")[0]
_SERVER_COMMANDS = ("restart_server", "update_server", "clear_cache", "clear_queue", "system_details")
_IMMEDIATE_SECONDS = 5.0
"""A submit whose job takes less is answered with success, as in the documentation page's sample (4.49 s)."""
_MAX_LINK_LAG_SECONDS = 3.0
"""A file appears at its link up to this long after its job is done."""
_COUNT_CALLS_PER_MINUTE = 30
_RETRY_AFTER_SECONDS = 30.0


class Service:
    """The emulated service: accounts, their queues and their jobs. `Emulator` explains the options.

    Time is passed in, in seconds. Raises InvalidRequestError if an option is wrong.

    speed: divides all times.
    wallet: USD that each key may spend, or None for no limit. It may be changed at any time.
    origin: scheme and host of the links in replies, unless `handle` is called with another. It may be changed at any
        time.
    first_id: id of the first job.
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
        origin: str = "http://emulator.invalid",
        first_id: int = 100_000,
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
        )
        self.origin = origin
        self.speed = speed
        self.wallet = wallet
        self.ledger = Ledger()
        self.queue = JobQueue(queue_limit, workers or queue_limit)
        self._profile, self._eta, self._keys = profile, eta, keys
        self._seed, self._first_id = seed, first_id
        self._accepted = 0
        self._rng = random.Random(f"service {seed}")
        self._uploads: dict[str, tuple[float, bytes]] = {}
        self._count_calls: defaultdict[str, deque[float]] = defaultdict(deque)
        self.set_faults(faults)

    def set_faults(self, rules: Sequence[Rule], *, seed: int | None = None) -> None:
        """Replace the fault rules from now on; `times` of each rule counts anew.

        seed: of the draws of the new rules; None for the service's own seed.

        Raises InvalidRequestError if *rules* is not a sequence of `Rule`.
        """
        require(check_of_faults(rules))
        self._faults = FaultPlan(rules, random.Random(f"faults {self._seed if seed is None else seed}"))

    @property
    def jobs(self) -> dict[int, EmulatedJob]:
        """All accepted jobs, by id."""
        return self.queue.jobs

    def unfinished_jobs(self, key: str, now: float) -> list[EmulatedJob]:
        """Return the jobs of *key* that are queued or processing."""
        return self.queue.unfinished(account_fingerprint(key), now)

    def forget_jobs(self) -> None:
        """Forget all jobs, as if their ids had expired. Their ids are not used again, and the ledger stays."""
        self.queue.forget_jobs()

    # --- requests ---

    def handle(
        self, now: float, path: str, body: bytes, picture: bytes | None = None, *, origin: str | None = None
    ) -> Answer:
        """Answer a POST at time *now*.

        picture: the content of `picture_url`, or None if fetching it failed.
        origin: scheme and host of the links in the answer and in the deliveries of its job; None for `origin`.
        """
        params = parse_body(body)
        rule = self._faults.draw(_occasion(path))
        fault = rule.fault if rule else None
        match fault:
            case Fault.REFUSED:
                return Answer(action=Action.REFUSE, delay=self._scaled_seconds(rule))
            case Fault.RESET_BEFORE:
                return Answer(action=Action.RESET)
            case Fault.RATE_LIMIT:
                return self._refuse(self._no_free_slot())
            case Fault.ERROR_500:
                return self._refuse(Refusal(500, "Server Error"))
            case Fault.UNAVAILABLE_503:
                return self._refuse(Refusal(503, "The service is temporarily unavailable."))
            case _:
                answer = self._answer(now, path, params, picture, rule, origin or self.origin)
                return replies.apply_fault(answer, fault, self._scaled_seconds(rule))

    def picture_url(self, path: str, body: bytes) -> str | None:
        """Return the URL of the picture, or of another first file, that the caller must fetch before it calls `handle`.

        Return None if there is none.
        """
        params = parse_body(body)
        if (found := operation_at(path)) is None:
            return None
        operation, deployment = found
        is_inline = has_inline_picture(params, operation, enterprise=deployment is Deployment.ENTERPRISE)
        source = main_file(params, operation)
        return str(source) if not is_inline and is_http_url(source) else None

    def _answer(
        self,
        now: float,
        path: str,
        params: dict[str, Any],
        picture: bytes | None,
        rule: Rule | None,
        origin: str,
    ) -> Answer:
        try:
            key = self._check_key(params)
            head, _, last = path.rpartition("/")
            match path:
                case _ if found := operation_at(path):
                    return self._submit(now, key, *found, params, picture, rule, origin)
                case _ if f"{head}/" in _fetch_folders():
                    return self._fetch(now, key, f"{head}/", last, rule, origin)
                case _ if path == QUEUE_DEPTH_PATH:
                    return self._count_unfinished(now, key)
                case _ if path == BALANCE_PATH:
                    wallet = {"balance": max(self._balance(key), Decimal(0)), "currency": "USD"}
                    return json_answer({"status": "success", "data": wallet})
                case _ if path == UPLOAD_PATH:
                    return self._upload(now, params, origin)
                case _ if path == ASSETS_PATH:
                    return self._list_assets(now, key, params, origin)
                case _ if head == _ENTERPRISE_FOLDER and last in _SERVER_COMMANDS:
                    return self._run_server_command(now, last)
                case _:
                    return self._refuse(Refusal(404, "The route could not be found."))
        except Refusal as refusal:
            return self._refuse(refusal)

    def _refuse(self, refusal: Refusal) -> Answer:
        """Answer with an error. The legacy profile answers HTTP 200, and spells message "messege" at times."""
        legacy = self._profile == "legacy" and refusal.status < 500
        name = "messege" if legacy and self._rng.random() < 0.5 else "message"
        reply = {"status": "error", name: refusal.message, **refusal.fields}
        return json_answer(reply, 200 if legacy else refusal.status)

    # --- one method per call ---

    def _submit(
        self,
        now: float,
        key: str,
        operation: Operation,
        deployment: Deployment,
        params: dict[str, Any],
        picture: bytes | None,
        rule: Rule | None,
        origin: str,
    ) -> Answer:
        rng = random.Random(f"job {self._seed} {self._accepted}")
        enterprise = deployment is Deployment.ENTERPRISE
        work, steps = read_work(operation, params, picture, rng, enterprise=enterprise)
        price = PRICE_USD if operation.price is None else operation.price.quantize(PRICE_USD)
        if self.wallet is not None and self._balance(key) < price:
            raise Refusal(402, "You have insufficient credits in your wallet.")
        account = account_fingerprint(key)
        if not self.queue.has_free_slot(account, now):
            raise self._no_free_slot()
        seconds = processing_seconds(work, steps, rng) / self.speed
        job = self._accept(now, account, operation, deployment, params, work, seconds, rule, rng, origin)
        self._accepted += 1
        self.queue.add(job)
        self._faults.count_effect(rule)
        self.ledger.charges.append(Charge(account, job.id, params.get("track_id"), price, now))
        if job.starts_at == now and job.done_at - now <= _IMMEDIATE_SECONDS / self.speed and not job.failure:
            if rule is None or rule.fault not in (Fault.EARLY_LINK, Fault.LATE_LINK):
                job.file_at = job.done_at
            return replies.immediate_success_answer(job, origin, now, draw_file_name(rng))
        eta = draw_eta(job.done_at - now, self._eta, rng)
        return replies.processing_answer(job, origin, eta)

    def _accept(
        self,
        now: float,
        account: str,
        operation: Operation,
        deployment: Deployment,
        params: dict[str, Any],
        work: Work,
        seconds: float,
        rule: Rule | None,
        rng: random.Random,
        origin: str,
    ) -> EmulatedJob:
        starts_at = self.queue.next_start(account, now)
        files = {each.name for each in operation.inputs}
        fault = rule.fault if rule else None
        lag = rng.random() * _MAX_LINK_LAG_SECONDS / self.speed
        if fault is Fault.LATE_LINK:
            lag = self._scaled_seconds(rule)
        elif fault is Fault.EARLY_LINK:
            lag = -self._scaled_seconds(rule)
        return EmulatedJob(
            id=self._first_id + self._accepted,
            operation=operation,
            endpoint=operation.endpoints[deployment],
            account=account,
            params={name: value for name, value in params.items() if name != "key" and name not in files},
            work=work,
            origin=origin,
            file_name=draw_file_name(rng),
            accepted_at=now,
            starts_at=starts_at,
            done_at=starts_at + seconds,
            file_at=max(now, starts_at + seconds + lag),
            failure="Something went wrong while generating the video." if fault is Fault.JOB_FAILS else "",
        )

    def _fetch(self, now: float, key: str, folder: str, job_id: str, rule: Rule | None, origin: str) -> Answer:
        job = self.jobs.get(int(job_id)) if re.fullmatch(r"[0-9]{1,18}", job_id) else None
        if job is None or job.endpoint.fetch != folder or job.account != account_fingerprint(key):
            return json_answer({"status": "failed", "id": "", "message": "Request not found", "output": ""})
        if rule and (rule.fault is not Fault.EMPTY_OUTPUT or job.state(now) == "success"):
            self._faults.count_effect(rule)
        return replies.fetch_answer(job, origin, now, rule.fault if rule else None, self._rng)

    def _count_unfinished(self, now: float, key: str) -> Answer:
        calls = self._count_calls[account_fingerprint(key)]
        while calls and calls[0] <= now - 60 / self.speed:
            calls.popleft()
        if len(calls) >= _COUNT_CALLS_PER_MINUTE:
            raise Refusal(429, "Rate limit exceeded. Maximum 30 calls per minute.", retry_after=60 / self.speed)
        calls.append(now)
        return json_answer({"status": "success", "processing_count": len(self.unfinished_jobs(key, now))})

    def _upload(self, now: float, params: dict[str, Any], origin: str) -> Answer:
        picture, extension = read_upload(params)
        name = draw_file_name(self._rng).replace("mp4", extension)
        self._uploads[name] = (now + DAY_SECONDS / self.speed, picture)
        url = f"{origin}/uploads/{name}"
        return json_answer({"status": "success", "id": len(self._uploads), "output": [url]})

    def _list_assets(self, now: float, key: str, params: dict[str, Any], origin: str) -> Answer:
        page, per_page = parse_positive(params.get("page"), 1), min(parse_positive(params.get("per_page"), 10), 30)
        account = account_fingerprint(key)
        done = [job for job in self.jobs.values() if job.account == account and job.state(now) == "success"]
        return replies.assets_answer(done[::-1], origin, page, per_page)

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
            expires_at, picture = self._uploads[name]
            return FileAnswer(200, upload=picture) if now < expires_at else FileAnswer(404)
        job = self.queue.find_by_file_name(name)
        if job is None or job.failure:
            return FileAnswer(404)
        if now < job.file_at or job.is_rendering:
            return FileAnswer(403 if job.file_name < "4" else 404)  # names begin with a random hex digit
        if parse_bool(job.params.get("temp")) and now >= job.done_at + DAY_SECONDS / self.speed:
            return FileAnswer(404)
        reads_head = re.fullmatch(r"bytes=\d+-\d+", byte_range)
        rule = self._faults.draw("file", excluding=CUT_FAULTS if reads_head else ())
        return FileAnswer(200, job=job, fault=rule.fault if rule else None)

    def deliveries(self, job: EmulatedJob) -> list[Delivery]:
        """Return the webhook deliveries of *job*, or [] if its request named no http(s) URL. Call it once per job."""
        url = job.params.get("webhook")
        if not is_http_url(url):
            return []
        rule = self._faults.draw("webhook")
        fault = rule.fault if rule else None
        return replies.plan_deliveries(job, str(url), fault, self._scaled_seconds(rule))

    # --- helpers ---

    def _check_key(self, params: dict[str, Any]) -> str:
        key = params.get("key")
        if not isinstance(key, str) or not key or (self._keys is not None and key not in self._keys):
            raise Refusal(401, "Invalid API Key", tip="Pass the key of your account.")
        return key

    def _balance(self, key: str) -> Decimal:
        return (Decimal(100) if self.wallet is None else self.wallet) - self.ledger.total(key)

    def _no_free_slot(self) -> Refusal:
        message = f"Rate limit exceeded. Maximum {self.queue.limit} queued requests allowed."
        return Refusal(429, message, retry_after=_RETRY_AFTER_SECONDS / self.speed)

    def _scaled_seconds(self, rule: Rule | None) -> float:
        return (rule.seconds if rule else 0.0) / self.speed


def _occasion(path: str) -> Occasion:
    if operation_at(path):
        return "submit"
    return "fetch" if path.rpartition("/")[0] + "/" in _fetch_folders() else "call"


def _fetch_folders() -> set[str]:
    return {endpoint.fetch for row in OPERATIONS.values() for endpoint in row.endpoints.values()}
