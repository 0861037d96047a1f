"""The running product and a browser that looks at it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

ROOT = Path(__file__).parents[2]
DIST = ROOT / "app" / "web" / "dist" / "index.html"
CHROMIUM = "/usr/bin/chromium"
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
]
BEDS = 24


def need(present: bool, what: str) -> None:
    """Skip where something is missing; on CI that is a failure."""
    if present:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is missing")


@dataclass
class Product:
    """A running `vitalstream run`."""

    process: subprocess.Popen[str]
    url: str
    token: str
    kafka: str

    def ask(self, path: str) -> Any:
        """GET a route of the API."""
        request = urllib.request.Request(
            self.url + path, headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST to a route of the API."""
        request = urllib.request.Request(
            self.url + path,
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    @property
    def address(self) -> str:
        """The page with its token, as `run` prints it."""
        return f"{self.url}/#token={self.token}"


def _lines(output: IO[str], deadline_s: float) -> tuple[str, str]:
    ready = kafka = ""
    for line in output:
        ready = line.split()[1] if line.startswith("ready ") else ready
        kafka = line.split()[1] if line.startswith("kafka ") else kafka
        if ready and kafka:
            return ready, kafka
        assert time.monotonic() < deadline_s, "the product was not ready in time"
    raise AssertionError("the product ended before it was ready")


def start(data_dir: Path, beds: int) -> Product:
    """Start the product and wait for its `ready` line."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("VITALSTREAM_")}
    options = ["--port", "0", "--beds", str(beds), "--data-dir", str(data_dir)]
    with (data_dir / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "run", *options],
            cwd=ROOT,
            env={**env, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    try:
        ready, kafka = _lines(process.stdout, time.monotonic() + 90)
    except BaseException:
        process.kill()
        process.wait()
        raise
    found = re.fullmatch(r"(http://[^/]+)/#token=(.+)", ready)
    assert found is not None, ready
    return Product(process, found[1], found[2], kafka)


def stop(product: Product) -> None:
    """End the product; kill it where it does not drain."""
    product.process.send_signal(signal.SIGTERM)
    try:
        product.process.wait(15)
    except subprocess.TimeoutExpired:
        product.process.kill()
        product.process.wait()
    if product.process.stdout is not None:
        product.process.stdout.close()


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """One running product for all tests that do not stop it."""
    need(DIST.exists(), "the built page (make web)")
    running = start(tmp_path_factory.mktemp("product"), BEDS)
    yield running
    stop(running)


@pytest.fixture
def new_product(tmp_path: Path) -> Iterator[Callable[[int], Product]]:
    """Starts a product for one test, which may stop it."""
    need(DIST.exists(), "the built page (make web)")
    running: list[Product] = []

    def make(beds: int) -> Product:
        running.append(start(tmp_path, beds))
        return running[-1]

    yield make
    for product in running:
        if product.process.poll() is None:
            stop(product)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's Chromium under Playwright, which runs an event loop of its own in this thread while
    it lives: no longer than these tests, for others want to run theirs.
    """
    need(shutil.which(CHROMIUM) is not None, CHROMIUM)
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page of its own session; an error in its console fails the test."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.set_default_timeout(15_000)
    yield opened
    context.close()
    assert not errors, errors


@pytest.fixture
def ward(product: Product, page: Any) -> Any:
    """The page on the ward board, with live cards."""
    page.goto(product.address)
    page.wait_for_selector(".card .v")
    page.wait_for_selector(".connection.live")
    return page
