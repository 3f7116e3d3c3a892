"""What a client is made of: what the clients of several accounts share, and what each account has of its own."""

import asyncio
import random
from typing import TYPE_CHECKING, NamedTuple

from modelslab_async.engine.deliveries import DeliveryHandler
from modelslab_async.engine.dispatcher import Dispatcher
from modelslab_async.engine.poller import Poller
from modelslab_async.engine.recorder import Recorder
from modelslab_async.engine.recovery import Recoverer
from modelslab_async.engine.saver import Saver
from modelslab_async.engine.submitter import Submitter
from modelslab_async.engine.webhook_health import WebhookHealth
from modelslab_async.journal.base import Journal
from modelslab_async.polling.estimator import DurationEstimator
from modelslab_async.polling.flow import WaitStrategy
from modelslab_async.polling.schedule import RateLimiter
from modelslab_async.protocol.pricing import Budget, PriceList
from modelslab_async.protocol.request import Deployment, LimitsMode
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.timeouts import Timeouts
from modelslab_async.telemetry import Notifier, Telemetry
from modelslab_async.transport.api import ServiceApi
from modelslab_async.transport.base import Transport

if TYPE_CHECKING:
    from modelslab_async.webhook import Webhook


class Common(NamedTuple):
    """What is shared; the arguments of `Client` that are the same for all accounts."""

    base_url: str
    deployment: Deployment
    limits: LimitsMode
    wait: WaitStrategy
    estimator: DurationEstimator
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

    api: ServiceApi
    recorder: Recorder
    saver: Saver
    dispatcher: Dispatcher
    recoverer: Recoverer
    deliveries: DeliveryHandler


def make_account(
    common: Common, key: ApiKey, *, budget: Budget | None, max_in_flight: int, shares_journal: bool = False
) -> Account:
    """Put one together. A guest's journal is opened and closed by somebody else."""
    api = ServiceApi(common.transport, key, common.base_url, common.deployment, common.timeouts, common.rng)
    recorder = Recorder(key, common.base_url, common.journal, budget, common.prices, shares_journal=shares_journal)
    webhook_health, notifier = WebhookHealth(), Notifier(common.telemetry)
    poller = Poller(api, notifier, common.wait, common.estimator, common.rate_limiter, webhook_health)
    saver = Saver(api, notifier, recorder, common.saves)
    dispatcher = Dispatcher(Submitter(api, notifier, recorder), poller, saver, notifier, max_in_flight)
    recoverer = Recoverer(recorder, dispatcher)
    deliveries = DeliveryHandler(dispatcher, recorder, recoverer, webhook_health)
    return Account(api, recorder, saver, dispatcher, recoverer, deliveries)
