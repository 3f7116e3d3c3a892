"""What a client is made of: what the clients of several accounts share, and what each account has of its own."""

import asyncio
import random
from typing import TYPE_CHECKING, NamedTuple

from modelslab_async.books import Books
from modelslab_async.dispatch import Dispatcher
from modelslab_async.hearing import Hearing
from modelslab_async.journal import Journal
from modelslab_async.line import Line
from modelslab_async.protocol.experience import Experience
from modelslab_async.protocol.pace import Pace
from modelslab_async.protocol.pricing import Budget, PriceList
from modelslab_async.protocol.request import Endpoint, LimitsMode
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.watch import WaitStrategy
from modelslab_async.receiver import Receiver
from modelslab_async.recovery import Recoverer
from modelslab_async.saver import Saver
from modelslab_async.submitter import Submitter
from modelslab_async.telemetry import Telemetry
from modelslab_async.transport import Timeouts, Transport
from modelslab_async.watcher import Watcher

if TYPE_CHECKING:
    from modelslab_async.webhook import Webhook


class Common(NamedTuple):
    """What is shared; the arguments of `Client` that are the same for all accounts."""

    base_url: str
    endpoint: Endpoint
    limits: LimitsMode
    wait: WaitStrategy
    experience: Experience
    pace: Pace
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
    line = Line(common.transport, key, common.base_url, common.endpoint, common.timeouts, common.rng, common.telemetry)
    books = Books(key, common.base_url, common.journal, budget, common.prices, is_guest=is_guest)
    hearing = Hearing()
    watcher = Watcher(line, common.wait, common.experience, common.pace, hearing)
    saver = Saver(line, books, common.saves)
    dispatcher = Dispatcher(Submitter(line, books), watcher, saver, max_in_flight)
    recoverer = Recoverer(books, dispatcher)
    receiver = Receiver(dispatcher, books, recoverer, hearing)
    return Account(line, books, saver, dispatcher, recoverer, receiver)
