"""A real browser for the tests of pages: the machine's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import pytest
from playwright.async_api import Page, async_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in _NAMES if (path := shutil.which(name))), None)
SHARES_BROWSER = pytest.mark.asyncio(loop_scope="session")
"""Mark of a module whose tests use `browsed`: they run in its loop."""


class Browsed(Protocol):
    """Open a URL in a browser profile of its own. An error in the page fails the test."""

    def __call__(self, url: str, **options: Any) -> AbstractAsyncContextManager[Page]: ...


async def browser_for_session() -> AsyncIterator[Browsed]:
    """Run one Chromium for all tests of this process."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        @asynccontextmanager
        async def browsed(url: str, **options: Any) -> AsyncIterator[Page]:
            errors: list[str] = []
            async with await browser.new_context(**options) as profile:
                page = await profile.new_page()
                page.on("pageerror", lambda error: errors.append(str(error)))
                await page.goto(url)
                yield page
            assert errors == []

        try:
            yield browsed
        finally:
            await browser.close()
