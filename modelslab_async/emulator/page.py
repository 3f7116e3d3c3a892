"""The emulator's HTML page for people, Pure."""

from __future__ import annotations

from html import escape

from modelslab_async.emulator.job import EmulatedJob
from modelslab_async.emulator.service import Service

_RECENT = 12
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.notice { border-left: .3rem solid #d97706; padding: .3rem .8rem; margin: 1rem 0; }
.figures { display: flex; flex-wrap: wrap; gap: 2.5rem; margin: 1rem 0; }
.figures b { display: block; font-size: 1.7rem; line-height: 1.2; }
.jobs { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
article { border: 1px solid #8884; border-radius: .5rem; overflow: hidden; }
article video, article .blank { display: block; width: 100%; aspect-ratio: 26/15; background: #8882; }
article .blank { display: grid; place-items: center; }
article div.text { padding: .5rem .8rem; } small { opacity: .75; } code { font-size: .9em; }
table { border-collapse: collapse; } td, th { padding: .15rem 1.5rem .15rem 0; text-align: left; }
"""

_REFRESH = """<script>setInterval(() => {
  if ([...document.querySelectorAll("video")].every(video => video.paused && !video.currentTime)) location.reload();
}, 2000)</script>"""


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
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>modelslab_async emulator (not ModelsLab)</title>
<meta name="viewport" content="width=device-width, initial-scale=1">{_REFRESH}<style>{_STYLE}</style></head><body>
<h1>modelslab_async emulator</h1>
<p class="notice">This is <b>not ModelsLab</b>. This server emulates ModelsLab's Image to Video Ultra endpoint on your
machine, to write and test programs without an account. Each video is the submitted picture with a moving camera.
The emulator charges no money.</p>
<p>Connect a client with <code>Client(api_key="any", base_url="{escape(origin)}")</code>.</p>
<div class="figures">{figures}</div>
<h2>Recent jobs</h2><div class="jobs">{recent or "<p>No jobs yet.</p>"}</div>
<h2>Ledger</h2>{_ledger_table(service)}
</body></html>"""


def _article(job: EmulatedJob, now: float) -> str:
    work, state = job.work, job.state(now)
    video = f'<div class="blank">{state}</div>'
    if state == "success" and now >= job.file_at:
        video = f'<video controls loop muted playsinline preload="metadata" src="{job.link("")}"></video>'
    facts = f"{work.width}×{work.height}, {work.frames} frames at {work.fps} fps, seed {work.seed}"
    is_unfinished = state in ("queued", "processing")
    age = f"{now - job.accepted_at:.0f} s ago" if is_unfinished else f"took {job.done_at - job.accepted_at:.0f} s"
    reason = f"<br>{escape(job.failure)}" if state == "failed" else ""
    return (
        f'<article>{video}<div class="text">{escape(work.prompt[:120])}<br>'
        f"<small>job {job.id}, {state}, {age}<br>{facts}{reason}</small></div></article>"
    )


def _ledger_table(service: Service) -> str:
    charges = service.ledger.charges
    if not charges:
        return "<p>No submit was accepted yet.</p>"
    rows = "".join(
        f"<tr><td><code>{account}</code></td><td>{sum(charge.account == account for charge in charges)}</td>"
        f"<td>${sum(charge.usd for charge in charges if charge.account == account)}</td></tr>"
        for account in dict.fromkeys(charge.account for charge in charges)
    )
    head = "<tr><th>account (digest of its key)</th><th>accepted submits</th><th>cost at ModelsLab</th></tr>"
    return f"<table>{head}{rows}</table>"
