"""The service's protocol on this machine, without an account: to develop and to test against. It is not the service."""

from modelslab_async.emulator.faults import Fault, Rule
from modelslab_async.emulator.inprocess import InProcess
from modelslab_async.emulator.order import Charge, Ledger, Work, skeleton
from modelslab_async.emulator.replies import Delivery
from modelslab_async.emulator.server import Emulator
from modelslab_async.emulator.service import Service

__all__ = ["Charge", "Delivery", "Emulator", "Fault", "InProcess", "Ledger", "Rule", "Service", "Work", "skeleton"]
