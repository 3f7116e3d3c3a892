"""What people and other processes may look at: a page, and the ledger as JSON."""

from __future__ import annotations

from html import escape
from typing import Any

from modelslab_async.emulator.order import Order
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


def page(service: Service, now: float) -> str:
    """The page at `/`: what this is, the queue, the recent jobs, the ledger."""
    orders = list(service.orders.values())
    states = [order.state(now) for order in orders]
    recent = "".join(_job(order, now) for order in orders[: -_RECENT - 1 : -1])
    figures = "".join(
        f"<span><b>{states.count(state)}</b>{state}</span>" for state in ("queued", "processing", "success", "failed")
    )
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>modelslab_async emulator</title>
<meta name="viewport" content="width=device-width, initial-scale=1">{_REFRESH}<style>{_STYLE}</style></head><body>
<h1>modelslab_async emulator</h1>
<p class="notice">This is <b>not ModelsLab</b>. It speaks the protocol of its Image to Video Ultra endpoint on this
machine, so that programs can be written and tested without an account. Videos are your picture with a moving camera;
no money is spent.</p>
<p>Use it with <code>Client(api_key="any", base_url="{escape(service.origin)}")</code>.</p>
<div class="figures">{figures}</div>
<h2>Recent jobs</h2><div class="jobs">{recent or "<p>None yet.</p>"}</div>
<h2>Ledger</h2>{_ledger(service)}
</body></html>"""


def _job(order: Order, now: float) -> str:
    work, state = order.work, order.state(now)
    shown = f'<div class="blank">{state}</div>'
    if state == "success" and now >= order.file_at:
        shown = f'<video controls loop muted playsinline preload="metadata" src="/generations/{order.name}"></video>'
    facts = f"{work.width}×{work.height}, {work.frames} frames at {work.fps} fps, seed {work.seed}"
    ago = (
        f"{now - order.taken_at:.0f} s ago"
        if state in ("queued", "processing")
        else (f"took {order.done_at - order.taken_at:.0f} s")
    )
    reason = f"<br>{escape(order.failed)}" if state == "failed" else ""
    return (
        f'<article>{shown}<div class="text">{escape(work.prompt[:120])}<br>'
        f"<small>job {order.id}, {state}, {ago}<br>{facts}{reason}</small></div></article>"
    )


def _ledger(service: Service) -> str:
    ledger = service.ledger
    if not ledger.charges:
        return "<p>Nothing was charged.</p>"
    rows = "".join(
        f"<tr><td><code>{account}</code></td><td>{sum(c.account == account for c in ledger.charges)}</td>"
        f"<td>${sum(c.usd for c in ledger.charges if c.account == account)}</td></tr>"
        for account in dict.fromkeys(charge.account for charge in ledger.charges)
    )
    return f"<table><tr><th>account (digest of its key)</th><th>calls</th><th>would have cost</th></tr>{rows}</table>"


def ledger_json(service: Service) -> dict[str, Any]:
    """The ledger for other processes."""
    charges = [
        {"account": c.account, "job_id": c.job_id, "track_id": c.track_id, "usd": str(c.usd), "at": c.at}
        for c in service.ledger.charges
    ]
    return {
        "emulator": True,
        "total_usd": str(service.ledger.total()),
        "charges": charges,
        "busiest": service.book.busiest,
    }
