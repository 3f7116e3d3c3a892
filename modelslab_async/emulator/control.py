"""The emulator's own API under `/emulator/`: what a test in any language sets up and reads. Pure.

No answer contains a key. An account is named by the digest of its key, as in the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any

import attrs

from modelslab_async.emulator.accounts import PLANS, Account
from modelslab_async.emulator.faults import Fault, RuleState, rule_as_json, rule_from
from modelslab_async.emulator.job import EmulatedJob
from modelslab_async.emulator.ledger import account_fingerprint
from modelslab_async.emulator.service import LoggedRequest, Service
from modelslab_async.errors import InvalidRequestError
from modelslab_async.protocol.problems import refusal

_MOST_ROWS = 1000
_ROWS = 100


@attrs.frozen
class ControlCall:
    """A call of the control API: `parts` of the path after `/emulator/`, and the parameters of query and body."""

    service: Service
    now: float
    origin: str
    method: str
    parts: tuple[str, ...]
    params: Mapping[str, Any]


class NotFoundError(LookupError):
    """There is no such route, job or rule."""


def control(call: ControlCall) -> tuple[int, dict[str, Any]]:
    """Answer a call of the control API with an HTTP status and JSON."""
    name, *rest = call.parts or ("",)
    handlers = _ROUTES.get((name, len(rest)), {})
    if name == "jobs" and len(rest) == 2 and rest[1] in _JOB_ACTIONS:
        handlers = {"POST": _JOB_ACTIONS[rest[1]]}
    if not handlers:
        return 404, {"error": f"/emulator/{'/'.join(call.parts)}: no such route (hint: {_KNOWN})"}
    try:
        if call.method not in handlers:
            return 405, {"error": f"{call.method}: must be {' or '.join(handlers)}"}
        return 200, {"emulator": True, **handlers[call.method](call)}
    except NotFoundError as error:
        return 404, {"error": str(error)}
    except InvalidRequestError as error:
        return 400, {"error": str(error)}


def read_params(query: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Return the parameters of a query and of a JSON object in the body. Raise InvalidRequestError for another body."""
    params: dict[str, Any] = dict(query)
    if body.strip():
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise refusal("body", body, "must be a JSON object", 'pass {"fault": "reset_after"}, for example')
        params |= given
    return params


# --- reset and ledger ---


def _reset(call: ControlCall) -> dict[str, Any]:
    key = _text(call, "key")
    call.service.reset(key)
    return {"reset": "everything" if key is None else account_fingerprint(key)}


def _ledger(call: ControlCall) -> dict[str, Any]:
    return ledger_json(call.service)


def ledger_json(service: Service) -> dict[str, Any]:
    """Return the ledger as JSON: the totals, the newest charges, and the keys that came with requests for files."""
    ledger = service.ledger
    return {
        "emulator": True,
        "total_usd": str(ledger.total()),
        "count": ledger.count,
        "charges": [{**attrs.asdict(charge), "usd": str(charge.usd)} for charge in ledger.charges],
        "leaked_keys": [attrs.asdict(leak) for leak in ledger.leaks],
        "busiest": service.queue.peak_slots_used,
    }


# --- faults ---


def _list_faults(call: ControlCall) -> dict[str, Any]:
    known = {fault.name.lower(): fault.value for fault in Fault}
    return {"faults": [_rule_json(state) for state in call.service.faults.states], "known": known}


def _add_fault(call: ControlCall) -> dict[str, Any]:
    return _rule_json(call.service.faults.add(rule_from(call.params)))


def _clear_faults(call: ControlCall) -> dict[str, Any]:
    call.service.faults.remove()
    return {"faults": []}


def _remove_fault(call: ControlCall) -> dict[str, Any]:
    if not call.service.faults.remove(_number(call.parts[1])):
        raise NotFoundError(f"id={call.parts[1]}: no such fault")
    return _list_faults(call)


def _rule_json(state: RuleState) -> dict[str, Any]:
    return {"id": state.number, **rule_as_json(state.rule), "hits": state.hits}


# --- accounts ---


def _list_accounts(call: ControlCall) -> dict[str, Any]:
    return {"accounts": [_account_json(call, account) for account in call.service.accounts], "plans": PLANS}


def _set_account(call: ControlCall) -> dict[str, Any]:
    key = _required(call, "key")
    params = call.params
    unknown = next((name for name in params if name not in ("key", "wallet", "plan", "queue_limit", "workers")), None)
    if unknown is not None:
        hint = "choose from wallet, plan, queue_limit, workers"
        raise refusal(unknown, params[unknown], "unknown field", hint)
    changes: dict[str, Any] = {}
    if "wallet" in params:
        changes["wallet"] = _amount(params["wallet"])
    if "plan" in params:
        if params["plan"] not in PLANS:
            raise refusal("plan", params["plan"], "must be a plan", f"choose from {', '.join(PLANS)}")
        changes["queue_limit"] = PLANS[params["plan"]]
    for name in ("queue_limit", "workers"):
        if name in params:
            value = params[name]
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise refusal(name, value, "must be an integer of at least 1", "pass 5, 10 or 15")
            changes[name] = value
    account = call.service.accounts.set_accepted(key, True)
    for name, value in changes.items():
        setattr(account, name, value)
    return _account_json(call, account)


def _remove_account(call: ControlCall) -> dict[str, Any]:
    key = _required(call, "key")
    account = call.service.accounts.set_accepted(key, False)
    return _account_json(call, account)


def _account_json(call: ControlCall, account: Account) -> dict[str, Any]:
    service = call.service
    wallet = service.wallet_of(account)
    return {
        "account": account.name,
        "is_accepted": service.accounts.accepts(account.name),
        "wallet": None if wallet is None else str(wallet),
        "balance": str(service.balance(account)),
        "spent": str(service.ledger.account_total(account.name)),
        "queue_limit": service.limit_of(account),
        "workers": account.workers or service.queue.workers,
        "unfinished": service.queue.slots_used(account.name, call.now),
    }


# --- jobs and requests ---


def _list_jobs(call: ControlCall) -> dict[str, Any]:
    key, track_id, state = (_text(call, name) for name in ("key", "track_id", "state"))
    account = None if key is None else account_fingerprint(key)
    found = (
        job
        for job in reversed(call.service.jobs.values())
        if account in (None, job.account) and track_id in (None, job.track_id) and state in (None, job.state(call.now))
    )
    return {
        "jobs": [_job_json(call, job) for job in islice(found, _limit(call))],
        "accepted": call.service.queue.accepted,
    }


def _show_job(call: ControlCall) -> dict[str, Any]:
    return _job_json(call, _job(call))


def _finish_job(call: ControlCall) -> dict[str, Any]:
    return _end_job(call, "")


def _fail_job(call: ControlCall) -> dict[str, Any]:
    return _end_job(call, _text(call, "message") or "Something went wrong while generating the video.")


def _end_job(call: ControlCall, failure: str) -> dict[str, Any]:
    job = _job(call)
    if not call.service.end_job(call.now, job, failure):
        raise refusal("id", job.id, f"must be a job that has not ended, and this one is {job.state(call.now)}", "wait")
    return _job_json(call, job)


def _job(call: ControlCall) -> EmulatedJob:
    job = call.service.jobs.get(_number(call.parts[1]))
    if job is None:
        raise NotFoundError(f"id={call.parts[1]}: no such job")
    return job


def _job_json(call: ControlCall, job: EmulatedJob) -> dict[str, Any]:
    picture = {"init_image": job.source} if job.source else {}
    return {
        "id": job.id,
        "account": job.account,
        "track_id": job.track_id,
        "state": job.state(call.now),
        "failure": job.failure,
        "accepted_at": job.accepted_at,
        "done_at": job.done_at,
        "polls": job.polls,
        "link": job.link(job.file_origin),
        "request": {"path": job.path, "body": {**job.params, **picture}},
    }


def _list_requests(call: ControlCall) -> dict[str, Any]:
    return {"requests": [request_json(each) for each in islice(reversed(call.service.requests), _limit(call))]}


def request_json(request: LoggedRequest) -> dict[str, Any]:
    """Return a logged request as JSON."""
    return {
        "at": request.at,
        "path": request.path,
        "account": request.account,
        "body": request.params,
        "fault": request.fault.name.lower() if request.fault else None,
        "status": request.status,
    }


# --- parameters ---


def _text(call: ControlCall, name: str) -> str | None:
    """Return a text, or None if it is not given."""
    return _required(call, name) if name in call.params else None


def _required(call: ControlCall, name: str) -> str:
    value = call.params.get(name)
    if not isinstance(value, str) or not value:
        shown = "hidden" if name == "key" else value
        raise refusal(name, shown, "must be non-empty text", f'pass {{"{name}": "..."}}')
    return value


def _limit(call: ControlCall) -> int:
    return min(_number(call.params.get("limit", _ROWS)), _MOST_ROWS)


def _number(value: object) -> int:
    try:
        return max(int(str(value)), 0)
    except ValueError:
        raise NotFoundError(f"{value}: must be a number") from None


def _amount(value: object) -> Decimal | None:
    try:
        amount = None if value is None else Decimal(str(value))
    except InvalidOperation:
        amount = Decimal("NaN")
    if isinstance(value, bool) or (amount is not None and not amount.is_finite()):
        raise refusal("wallet", value, "must be an amount in USD, or null for no limit", 'pass "10.00"')
    return amount


_Handler = Callable[[ControlCall], dict[str, Any]]
_ROUTES: Mapping[tuple[str, int], Mapping[str, _Handler]] = {
    ("reset", 0): {"POST": _reset},
    ("ledger", 0): {"GET": _ledger},
    ("faults", 0): {"GET": _list_faults, "POST": _add_fault, "DELETE": _clear_faults},
    ("faults", 1): {"DELETE": _remove_fault},
    ("accounts", 0): {"GET": _list_accounts, "POST": _set_account, "DELETE": _remove_account},
    ("jobs", 0): {"GET": _list_jobs},
    ("jobs", 1): {"GET": _show_job},
    ("requests", 0): {"GET": _list_requests},
}
_JOB_ACTIONS: Mapping[str, _Handler] = {"finish": _finish_job, "fail": _fail_job}
_KNOWN = "see /emulator/health, reset, faults, accounts, jobs, requests, time, ledger"
