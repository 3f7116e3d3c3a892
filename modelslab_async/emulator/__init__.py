"""An emulator of the service on this machine, to develop and test without an account. It is not ModelsLab.

`Emulator` serves the protocol over HTTP. `InProcess` connects a Client to a `Service` without sockets.
"""

from modelslab_async.emulator.faults import Fault, Rule
from modelslab_async.emulator.files import skeleton
from modelslab_async.emulator.inprocess import InProcess
from modelslab_async.emulator.job import Work
from modelslab_async.emulator.ledger import Charge, Ledger
from modelslab_async.emulator.options import EmulatorOptions
from modelslab_async.emulator.replies import Delivery
from modelslab_async.emulator.server import Emulator
from modelslab_async.emulator.service import Service
from modelslab_async.emulator.testcase import EmulatorMixin

__all__ = [
    "Charge",
    "Delivery",
    "Emulator",
    "EmulatorMixin",
    "EmulatorOptions",
    "Fault",
    "InProcess",
    "Ledger",
    "Rule",
    "Service",
    "Work",
    "skeleton",
]
