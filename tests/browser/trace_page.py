"""Longest main-thread task of the page while 1,000 beds move at 1 Hz, from a Chromium trace.

`python tests/browser/trace_page.py --beds 1000 --seconds 30`; the ward is made up
(`fixture_ward`), the page is the one that is shipped. Exits with 1 where a task took over 50 ms
after the page was loaded.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

LIMIT_MS = 50.0
SETTLE_S = 5.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def tasks(trace: list[dict[str, Any]]) -> list[tuple[float, float, dict[str, float]]]:
    """The page's main-thread tasks: wall and CPU time in ms and what filled them, longest first."""
    names = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in trace
        if event["name"] == "thread_name"
    }
    pages = {
        event["pid"]
        for event in trace
        if event["name"] == "FunctionCall" or event["name"] == "FireAnimationFrame"
    }
    found = [
        event
        for event in trace
        if event["name"] == "ThreadControllerImpl::RunTask"
        and event["pid"] in pages
        and names.get((event["pid"], event["tid"])) == "CrRendererMain"
        and "dur" in event
    ]
    found.sort(key=lambda event: -event["dur"])
    told = []
    for task in found:
        inside: dict[str, float] = {}
        for event in trace if len(told) < 3 else ():
            if (
                event.get("tid") == task["tid"]
                and event["pid"] == task["pid"]
                and task["ts"] <= event["ts"] < task["ts"] + task["dur"]
                and event is not task
                and event.get("dur", 0) > 2_000
            ):
                name = event["name"]
                inside[name] = round(inside.get(name, 0.0) + event["dur"] / 1000, 1)
        told.append((task["dur"] / 1000, task.get("tdur", 0) / 1000, inside))
    return told


def main() -> int:
    """Run the ward and the browser, and say what the trace holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beds", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30)
    given = parser.parse_args()
    port = free_port()
    script = str(Path(__file__).with_name("fixture_ward.py"))
    size = ["--beds", str(given.beds), "--port", str(port)]
    ward = subprocess.Popen([sys.executable, script, *size])
    chromium = shutil.which("chromium")
    try:
        with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
            browser = playwright.chromium.launch(
                executable_path=chromium,
                args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
            )
            page = browser.new_page(viewport={"width": 1920, "height": 1080})
            address = f"http://127.0.0.1:{port}/#token=made-up-ward"
            for _ in range(40):
                try:
                    page.goto(address)
                    break
                except Exception as error:
                    if "ERR_CONNECTION_REFUSED" not in str(error):
                        raise
                    time.sleep(0.25)
            page.wait_for_selector(".card .v")
            page.wait_for_timeout(SETTLE_S * 1000)
            path = Path(folder) / "trace.json"
            browser.start_tracing(
                page=page,
                path=str(path),
                categories=[
                    "toplevel",
                    "devtools.timeline",
                    "disabled-by-default-devtools.timeline",
                ],
            )
            page.wait_for_timeout(given.seconds * 500)
            for _ in range(10):
                page.mouse.wheel(0, 900)
                page.wait_for_timeout(given.seconds * 50)
            browser.stop_tracing()
            trace = json.loads(path.read_text())["traceEvents"]
            beds = page.locator(".filters .count").first.inner_text()
            browser.close()
    finally:
        ward.terminate()
        ward.wait()
    durations = tasks(trace)
    total_s = sum(wall_ms for wall_ms, _, _ in durations) / 1000
    cpu_ms = max(cpu for _, cpu, _ in durations)
    for wall_ms, task_cpu_ms, inside in durations[:3]:
        print(f"  {wall_ms:.1f} ms ({task_cpu_ms:.1f} ms of CPU): {inside}")
    print(
        f"{beds} beds at 1 Hz for {given.seconds:g} s: {len(durations)} main-thread tasks, "
        f"longest {durations[0][0]:.1f} ms "
        f"({cpu_ms:.1f} ms of CPU), busy {100 * total_s / given.seconds:.0f} %"
    )
    return int(durations[0][0] > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
