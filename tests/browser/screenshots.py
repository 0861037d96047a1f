"""Take the pictures of the documents: `python tests/browser/screenshots.py URL docs/images`.

URL is what `vitalstream run` prints, token included. The board should have run for two minutes, so
that there are alerts to look at.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    """Take ward, bed and alerts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(
            viewport={"width": 1440, "height": 900},
            color_scheme="dark",
            reduced_motion="reduce",
        )
        page.goto(given.url)
        page.wait_for_selector(".card .v")
        page.wait_for_timeout(4_000)
        page.screenshot(path=given.folder / "ward.png")
        bed = page.locator(".card").first.get_attribute("data-bed")
        page.evaluate(f"location.hash = '#/bed/{bed}'")
        page.wait_for_selector(".charts figure:not([hidden]) canvas")
        page.get_by_role("button", name="1 h").click()
        # The notice stands at the window's lower edge: the window is made as high as the page.
        height = page.evaluate("document.documentElement.scrollHeight")
        page.set_viewport_size({"width": 1440, "height": min(1_800, height)})
        page.wait_for_timeout(2_500)
        page.screenshot(path=given.folder / "bed.png")
        page.set_viewport_size({"width": 1440, "height": 900})
        page.evaluate("location.hash = '#/alerts'")
        page.wait_for_selector(".alert")
        page.locator(".alert [data-action='snooze']").first.click()
        page.wait_for_timeout(500)
        page.screenshot(path=given.folder / "alerts.png")
        browser.close()


if __name__ == "__main__":
    main()
