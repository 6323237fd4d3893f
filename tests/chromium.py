"""A headless Chromium that takes no more of the machine than any other program."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
IN_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
    pytest.mark.timeout(120, method="thread"),  # a signal would leave playwright turning in a circle for ever
]
"""The marks of a file whose tests need it."""


def in_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Mark one test that needs it."""
    for mark in IN_BROWSER:
        test = mark(test)
    return test


def launch(driver: Playwright, folder: Path) -> Browser:
    """Start it; ``folder`` takes a script.

    For root its threads for sound run at real-time priority, and without a sound card they can spin: that leaves all
    other programs a twentieth of a second in each. Without the capability they run as others do.
    """
    program = str(CHROMIUM)
    if os.geteuid() == 0 and shutil.which("setpriv"):
        script = folder / "chromium"
        script.write_text(f'#!/bin/sh\nexec setpriv --bounding-set=-sys_nice --inh-caps=-sys_nice {program} "$@"\n')
        script.chmod(0o755)
        program = str(script)
    return driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
