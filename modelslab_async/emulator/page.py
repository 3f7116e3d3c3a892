"""The emulator's HTML page for people: jobs, faults, ledger and requests. Pure."""

from __future__ import annotations

from html import escape
from itertools import islice

from modelslab_async.emulator.faults import Fault, RuleState
from modelslab_async.emulator.job import EmulatedJob
from modelslab_async.emulator.service import LoggedRequest, Service

_RECENT = 12
_REQUESTS = 20
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.notice { border-left: .3rem solid #d97706; padding: .3rem .8rem; margin: 1rem 0; }
.leak { border-left: .3rem solid #dc2626; padding: .3rem .8rem; }
.figures { display: flex; flex-wrap: wrap; gap: .5rem 2.5rem; margin: 1rem 0; }
.figures b { display: block; font-size: 1.7rem; line-height: 1.2; }
.jobs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); gap: 1rem; }
article { border: 1px solid #8884; border-radius: .5rem; overflow: hidden; }
article video, article .blank { display: block; width: 100%; aspect-ratio: 26/15; background: #8882; }
article .blank { display: grid; place-items: center; }
article .text { padding: .5rem .8rem; overflow-wrap: anywhere; } small { opacity: .75; } code { font-size: .9em; }
button, select, input { font: inherit; min-height: 2.75rem; padding: 0 .8rem; max-width: 100%; }
form { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
td, th { padding: .15rem 1.5rem .15rem 0; text-align: left; white-space: nowrap; }
"""

_SCRIPT = """<script>
const call = (method, path, body) =>
  fetch("emulator/" + path, {method, body: body && JSON.stringify(body)}).then(show);
async function show() {
  const fresh = new DOMParser().parseFromString(await (await fetch("")).text(), "text/html");
  for (const part of fresh.querySelectorAll("[data-live]")) {
    const old = document.getElementById(part.id);
    for (const child of [...part.children]) {  // an unchanged child stays, so that its video plays on
      const same = child.id && document.getElementById(child.id);
      if (same && same.dataset.state === child.dataset.state && child.dataset.state) child.replaceWith(same);
    }
    old.replaceChildren(...part.childNodes);
  }
}
document.addEventListener("click", event => {
  const {method, path} = event.target.dataset;
  if (method) call(method, path);
});
document.querySelector("form").addEventListener("submit", event => {
  event.preventDefault();
  const data = new FormData(event.target);
  const times = data.get("times");
  call("POST", "faults", {fault: data.get("fault"), ...(times && {times: Number(times)})});
});
setInterval(() => document.hidden || show(), 2000);
</script>"""


def page(service: Service, now: float, origin: str) -> str:
    """Return the HTML page at `/`: a notice that this is not ModelsLab, the queue, recent jobs and the ledger.

    origin: the base URL by which the reader of the page can reach the emulator.
    """
    jobs = list(service.jobs.values())
    states = [job.state(now) for job in jobs]
    recent = "".join(_article(job, now) for job in jobs[: -_RECENT - 1 : -1])
    figures = "".join(
        f"<span><b>{states.count(state)}</b>{state}</span>" for state in ("queued", "processing", "success", "failed")
    )
    faults = "".join(f'<option value="{fault.name}">{fault.name.lower()}: {fault.value}</option>' for fault in Fault)
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>modelslab_async emulator (not ModelsLab)</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>
<h1>modelslab_async emulator</h1>
<p class="notice">This is <b>not ModelsLab</b>. This server emulates ModelsLab's video endpoints on your machine, to
write and test programs without an account. Its videos show what was submitted, such as the picture with a moving
camera. It charges no money.</p>
<p>Connect a client with <code>Client(api_key="any", base_url="{escape(origin)}")</code>.</p>
<div class="figures" id="figures" data-live>{figures}</div>
<h2>Recent jobs</h2><div class="jobs" id="jobs" data-live>{recent or "<p>No jobs yet.</p>"}</div>
<h2>Faults</h2>
<form><select name="fault" aria-label="fault">{faults}</select>
<input name="times" type="number" min="1" placeholder="times: no limit" aria-label="times"><button>Add</button></form>
<div class="wide" id="faults" data-live>{_faults_table(service.faults.states)}</div>
<h2>Ledger</h2><div class="wide" id="ledger" data-live>{_ledger_table(service)}</div>
<h2>Requests</h2><div class="wide" id="requests" data-live>{_requests_table(service, now)}</div>
<p><button data-method="POST" data-path="reset">Reset everything</button></p>
{_SCRIPT}</body></html>"""


def _article(job: EmulatedJob, now: float) -> str:
    work, state = job.work, job.state(now)
    video = f'<div class="blank">{state}</div>'
    shown = state
    if state == "success" and now >= job.file_at:
        video = f'<video controls loop muted playsinline preload="metadata" src="{job.link("").lstrip("/")}"></video>'
        shown = "ready"
    facts = f"{work.width}×{work.height}, {work.frames} frames at {work.fps} fps, seed {work.seed}"
    is_unfinished = state in ("queued", "processing")
    age = f"{now - job.accepted_at:.0f} s ago" if is_unfinished else f"took {job.done_at - job.accepted_at:.0f} s"
    reason = f"<br>{escape(job.failure)}" if state == "failed" else ""
    buttons = ""
    if is_unfinished:
        path = f'data-method="POST" data-path="jobs/{job.id}'
        buttons = f'<p><button {path}/finish">Finish</button> <button {path}/fail">Fail</button></p>'
    track_id = f"<br>track_id {escape(str(job.track_id)[:80])}" if job.track_id is not None else ""
    return (
        f'<article id="job-{job.id}" data-state="{"" if is_unfinished else shown}">{video}'
        f'<div class="text">{escape(work.prompt[:120])}<br>'
        f"<small>job {job.id}, {state}, {age}<br>{facts}{track_id}{reason}</small>{buttons}</div></article>"
    )


def _faults_table(states: list[RuleState]) -> str:
    if not states:
        return "<p>No fault is in effect.</p>"
    rows = "".join(
        f"<tr><td><code>{state.rule.fault.name.lower()}</code></td><td>{state.rule.occasion}</td>"
        f"<td>{state.rule.rate:g}</td><td>{state.hits} of {state.rule.times or 'any number'}</td>"
        f'<td><button data-method="DELETE" data-path="faults/{state.number}">Remove</button></td></tr>'
        for state in states
    )
    return f"<table><tr><th>fault</th><th>on</th><th>rate</th><th>hits</th><th></th></tr>{rows}</table>"


def _ledger_table(service: Service) -> str:
    leaks = "".join(
        f'<p class="leak">A key came with a request for a file ({escape(leak.where)}): {escape(leak.path)}</p>'
        for leak in service.ledger.leaks[-3:]
    )
    ledger = service.ledger
    accounts = [account for account in service.accounts if ledger.account_total(account.name)]
    if not accounts:
        return f"<p>No submit was accepted yet.</p>{leaks}"
    rows = "".join(
        f"<tr><td><code>{account.name}</code></td><td>${ledger.account_total(account.name)}</td>"
        f"<td>${service.balance(account)}</td></tr>"
        for account in accounts[-_RECENT:]
    )
    total = f"<tr><td>all {ledger.count} submits</td><td>${ledger.total()}</td><td></td></tr>"
    head = "<tr><th>account (digest of its key)</th><th>cost at ModelsLab</th><th>balance</th></tr>"
    return f"<table>{head}{rows}{total}</table>{leaks}"


def _requests_table(service: Service, now: float) -> str:
    rows = "".join(_request_row(each, now) for each in islice(reversed(service.requests), _REQUESTS))
    return f"<table>{rows}</table>" if rows else "<p>No requests yet.</p>"


def _request_row(request: LoggedRequest, now: float) -> str:
    fault = f"fault {request.fault.name.lower()}" if request.fault else ""
    return (
        f"<tr><td>{now - request.at:.0f} s ago</td><td><code>{escape(request.path[:80])}</code></td>"
        f"<td>{request.status}</td><td>{fault}</td></tr>"
    )
