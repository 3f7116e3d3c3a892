"""What a client is made of: what the clients of several accounts share, and what each account has of its own."""

import asyncio
import random
from typing import TYPE_CHECKING, NamedTuple

from modelslab_async.engine.deliveries import Receiver
from modelslab_async.engine.dispatcher import Dispatcher
from modelslab_async.engine.poller import Watcher
from modelslab_async.engine.recorder import Books
from modelslab_async.engine.recovery import Recoverer
from modelslab_async.engine.saver import Saver
from modelslab_async.engine.submitter import Submitter
from modelslab_async.engine.webhook_health import Hearing
from modelslab_async.journal.base import Journal
from modelslab_async.polling.estimator import Experience
from modelslab_async.polling.flow import WaitStrategy
from modelslab_async.polling.schedule import RateLimiter
from modelslab_async.protocol.pricing import Budget, PriceList
from modelslab_async.protocol.request import Endpoint, LimitsMode
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.timeouts import Timeouts
from modelslab_async.telemetry import Notifier, Telemetry
from modelslab_async.transport.api import Line
from modelslab_async.transport.base import Transport

if TYPE_CHECKING:
    from modelslab_async.webhook import Webhook


class Common(NamedTuple):
    """What is shared; the arguments of `Client` that are the same for all accounts."""

    base_url: str
    endpoint: Endpoint
    limits: LimitsMode
    wait: WaitStrategy
    experience: Experience
    rate_limiter: RateLimiter
    journal: Journal | None
    prices: PriceList
    timeouts: Timeouts
    webhook: "Webhook | None"
    telemetry: Telemetry | None
    rng: random.Random
    transport: Transport
    max_in_flight: int
    saves: asyncio.Semaphore


class Account(NamedTuple):
    """One key's jobs: its line to the service, its books, its places."""

    line: Line
    books: Books
    saver: Saver
    dispatcher: Dispatcher
    recoverer: Recoverer
    receiver: Receiver


def make_account(
    common: Common, key: ApiKey, *, budget: Budget | None, max_in_flight: int, is_guest: bool = False
) -> Account:
    """Put one together. A guest's journal is opened and closed by somebody else."""
    line = Line(common.transport, key, common.base_url, common.endpoint, common.timeouts, common.rng)
    books = Books(key, common.base_url, common.journal, budget, common.prices, is_guest=is_guest)
    hearing, notifier = Hearing(), Notifier(common.telemetry)
    watcher = Watcher(line, notifier, common.wait, common.experience, common.rate_limiter, hearing)
    saver = Saver(line, notifier, books, common.saves)
    dispatcher = Dispatcher(Submitter(line, notifier, books), watcher, saver, notifier, max_in_flight)
    recoverer = Recoverer(books, dispatcher)
    receiver = Receiver(dispatcher, books, recoverer, hearing)
    return Account(line, books, saver, dispatcher, recoverer, receiver)
