"""The emulator in tests that are written with `unittest`."""

from __future__ import annotations

from typing import ClassVar
from unittest import TestCase

from modelslab_async.emulator.options import EmulatorOptions
from modelslab_async.emulator.server import Emulator


class EmulatorMixin(TestCase):
    """Base class of test cases: each test gets a new emulator, `self.emulator`.

    The emulator serves in a separate thread, so synchronous and asynchronous tests may use it. `emulator_options` are
    those of `Emulator`. By default it is 100 times as fast as the service, and its etas are accurate. A class that
    overrides `setUp` must call `super().setUp()`.
    """

    emulator_options: ClassVar[EmulatorOptions] = {}
    emulator: Emulator

    def setUp(self) -> None:
        """Start the emulator. It is closed after the test."""
        super().setUp()
        options: EmulatorOptions = {"speed": 100.0, "eta": {"good": 1}, **self.emulator_options}
        self.emulator = self.enterContext(Emulator.running(**options))
