"""The page against the running product: what a clinician does in it."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from models.signals import SIGNALS

try:
    from playwright.sync_api import expect
except ImportError:  # the fixture `chromium` says what is missing
    expect = None

WEB = Path(__file__).parents[2] / "app" / "web"
NOTICE = "never the primary alarm"
BEDS = 24
FITS = "document.documentElement.scrollWidth <= innerWidth"


def wait_for(condition: Callable[[], Any], limit_s: float, what: str) -> Any:
    """Ask until the answer is true."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        found = condition()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"not within {limit_s:g} s: {what}")


def violations(page: Any) -> list[str]:
    """What axe finds serious or critical on the page as it is."""
    # Added as a page script of Playwright's own world: the content policy forbids what is inlined.
    page.evaluate((WEB / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate("axe.run(document).then(result => result.violations)")
    return [
        f"{each['id']} {each['impact']}: {each['nodes'][0]['html'][:200]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def standing(product: Any) -> Any:
    """An open alert, once there is one."""
    return wait_for(
        lambda: product.ask("/v1/alerts?state=open")["alerts"], 150, "an open alert of the ward"
    )[0]


def publish(product: Any, topic: str, key: str, message: dict[str, Any]) -> None:
    """Write to the product's own Kafka, as a monitor or a ward would."""
    producer = Producer({"bootstrap.servers": product.kafka, "partitioner": "murmur2_random"})
    producer.produce(topic, json.dumps(message).encode(), key.encode())
    assert producer.flush(10) == 0


def test_the_pages_signals_are_those_of_the_catalogue() -> None:
    """The page knows exactly the names, labels and groups of `models.signals`."""
    known = json.loads((WEB / "src" / "signals.json").read_text())
    assert list(known) == [signal.name for signal in SIGNALS]
    for each in SIGNALS:
        assert (known[each.name]["label"], known[each.name]["group"]) == (each.label, each.group)


@pytest.mark.browser
def test_the_board_counts_every_bed_and_its_values_move(ward: Any) -> None:
    """All beds are on the board, and within seconds some number on it is another."""
    expect(ward.locator(".filters .count").first).to_have_text(str(BEDS))
    values = ward.locator(".card .v")
    seen = values.all_inner_texts()
    wait_for(lambda: values.all_inner_texts() != seen, 15, "another number on the board")
    assert NOTICE in ward.locator("footer").inner_text()


@pytest.mark.browser
def test_a_bed_is_found_by_name(ward: Any) -> None:
    """Searching leaves the one bed, and says so where there is none."""
    ward.keyboard.press("/")
    ward.keyboard.type("A-07")
    expect(ward.locator(".card")).to_have_count(1)
    assert ward.locator(".card .bed").inner_text() == "A-07"
    ward.locator("#search").fill("nobody")
    ward.get_by_text("No bed matches.").wait_for()


@pytest.mark.browser
def test_the_board_is_walked_and_opened_by_keyboard(ward: Any) -> None:
    """Arrows move the focus card by card, Enter opens the bed, Escape returns."""
    ward.locator(".card a[tabindex='0']").focus()
    first = ward.evaluate("document.activeElement.parentElement.dataset.bed")
    ward.keyboard.press("ArrowRight")
    second = ward.evaluate("document.activeElement.parentElement.dataset.bed")
    assert first != second
    ward.keyboard.press("End")
    ward.keyboard.press("Home")
    ward.keyboard.press("Enter")
    ward.wait_for_selector(".bed-page")
    ward.keyboard.press("Escape")
    ward.wait_for_selector(".board")


@pytest.mark.browser
def test_a_beds_page_shows_risks_with_intervals_and_what_they_stand_on(
    product: Any, ward: Any
) -> None:
    """Four risks with bounds, ages of the inputs, experts, scores and a trend are there."""
    ward.evaluate("location.hash = '#/bed/A-01'")
    ward.wait_for_selector(".bed-page h1")
    wait_for(
        lambda: product.ask("/v1/beds/A-01")["prediction"]["risks"], 30, "a prediction that speaks"
    )
    expect(ward.locator(".risk-row")).to_have_count(4)
    for row in ward.locator(".risk-row .span").all():
        assert re.search(r"\d.*% to .*\d.*%", row.inner_text())
    assert ward.locator(".input .how-old").count() > 5
    panel = ward.locator("section.panel")
    assert panel.filter(has_text="Experts").get_by_text("Rare disease").count() == 1
    assert panel.filter(has_text="Scores").get_by_text("NEWS2").count() >= 1
    ward.wait_for_selector(".charts figure[aria-label*='Heart rate'] canvas", state="attached")
    assert NOTICE in ward.locator("footer").inner_text()


@pytest.mark.browser
def test_a_bed_that_warms_up_says_why_and_then_speaks(product: Any, ward: Any) -> None:
    """Nothing measured yet: words in place of risks, on the board too; then the four risks."""
    now_ms = time.time_ns() // 1_000_000
    publish(product, "icu.vitals", "W-1", {"bed_id": "W-1", "ts_ms": now_ms, "values": {}})
    ward.locator("#search").fill("W-1")
    expect(ward.locator(".card[data-bed='W-1']")).to_contain_text("Warming up: no risk yet")
    ward.evaluate("location.hash = '#/bed/W-1'")
    expect(ward.locator(".risks")).to_contain_text("Warming up: too little was measured")
    values = {"hr": 80, "spo2": 97, "resp": 16, "sbp": 120, "map": 85, "dbp": 70, "temp": 37}
    for later_ms in range(0, 3_000, 1_000):
        said = {"bed_id": "W-1", "ts_ms": now_ms + later_ms + 1, "values": values}
        publish(product, "icu.vitals", "W-1", said)
    expect(ward.locator(".risk-row")).to_have_count(4)
    expect(ward.locator(".risks")).not_to_contain_text("Warming up")


@pytest.mark.browser
def test_high_alerts_are_announced_one_by_one(product: Any, ward: Any) -> None:
    """Each is an addition to the live region, also when two come at once or one comes again."""
    now_ms = time.time_ns() // 1_000_000
    alert = {
        "id": "announced-1",
        "bed_id": "W-2",
        "case_id": None,
        "kind": "news2",
        "priority": "high",
        "state": "open",
        "opened_ms": now_ms,
        "updated_ms": now_ms,
        "value": 9.0,
        "threshold": 7.0,
        "history": [],
    }
    region = ward.locator("[aria-live='assertive']")
    assert region.get_attribute("aria-relevant") == "additions"
    publish(product, "icu.alerts", "W-2", alert)
    publish(product, "icu.alerts", "W-2", {**alert, "id": "announced-2"})
    said = region.get_by_text("bed W-2")
    expect(said).to_have_count(2)
    assert said.first.inner_text().startswith("High alert: ")
    publish(product, "icu.alerts", "W-2", {**alert, "state": "escalated", "updated_ms": now_ms + 1})
    expect(region.get_by_text("Escalated alert: ")).to_have_count(1)
    quiet = {**alert, "id": "announced-3", "priority": "medium"}
    publish(product, "icu.alerts", "W-2", quiet)
    ward.evaluate("location.hash = '#/bed/W-2'")
    ward.wait_for_selector("[data-alert='announced-3']")
    expect(said).to_have_count(3)
    for name in ("announced-1", "announced-2", "announced-3"):
        closed = {**alert, "id": name, "state": "closed", "updated_ms": now_ms + 2}
        publish(product, "icu.alerts", "W-2", closed)


@pytest.mark.browser
def test_without_a_token_the_page_asks_for_it(product: Any, page: Any) -> None:
    """A wrong token is refused in words; the right one opens the ward and is in no address."""
    page.goto(product.url)
    page.get_by_label("Token").fill("certainly-wrong")
    page.get_by_role("button", name="Open the ward").click()
    page.get_by_text("The token was refused.").wait_for()
    page.get_by_label("Token").fill(product.token)
    page.get_by_role("button", name="Open the ward").click()
    page.wait_for_selector(".card .v")
    assert product.token not in page.url


@pytest.mark.browser
def test_the_token_leaves_the_address_bar(product: Any, ward: Any) -> None:
    """What `run` prints opens the ward, and the token is then in neither address nor page."""
    assert product.token not in ward.url
    assert product.token not in ward.content()


@pytest.mark.browser
def test_a_phone_and_a_wall_display_need_no_sideways_scrolling(ward: Any) -> None:
    """From 360 to 3,840 pixels nothing lies outside the width."""
    for width in (360, 768, 1920, 3840):
        ward.set_viewport_size({"width": width, "height": 900})
        for place in ("", "bed/A-01", "alerts"):
            ward.evaluate(f"location.hash = '#/{place}'")
            ward.wait_for_selector(".inbox" if place == "alerts" else ".panels, .card .v")
            wait_for(lambda: ward.evaluate(FITS), 5, f"{place!r} fits {width} pixels")


# These four ask for an alert: the ward has had time for one since the product started.
@pytest.mark.browser
def test_who_needs_a_person_comes_first(product: Any, ward: Any) -> None:
    """A bed with an alert that waits stands before every calm bed."""
    standing(product)
    ward.wait_for_selector(".card.high, .card.medium, .card.low")
    ward.wait_for_timeout(3_000)
    order = [
        re.split(r"\s+", each.get_attribute("class"))[1] for each in ward.locator(".card").all()
    ]
    assert "calm" not in order or order.index("calm") > max(
        [i for i, kind in enumerate(order) if kind in ("high", "medium")], default=-1
    )


@pytest.mark.browser
def test_an_alert_is_answered_in_the_inbox(product: Any, ward: Any) -> None:
    """Escalate, snooze and acknowledge change the alert, with the reason and who gave it."""
    alert = standing(product)
    ward.evaluate("location.hash = '#/alerts'")

    def act(tab: str, action: str, reason: str) -> None:
        ward.get_by_role("button", name=re.compile(tab)).click()
        item = ward.locator(f"[data-alert='{alert['id']}']")
        item.locator(f"[data-action='{action}']").click()
        item.get_by_label("Reason").fill(reason)
        item.get_by_label("Your name").fill("RN 4")
        item.get_by_role("button", name=re.compile(" now$")).click()

    def state() -> dict[str, Any]:
        bed = product.ask(f"/v1/beds/{alert['bed_id']}")
        return next(each for each in bed["alerts"] if each["id"] == alert["id"])

    act("Waiting", "escalate", "getting worse")
    wait_for(lambda: state()["state"] == "escalated", 15, "escalated")
    act("Waiting", "snooze", "probe being changed")
    wait_for(lambda: state()["state"] == "snoozed", 15, "snoozed")
    act("Acknowledged", "acknowledge", "seen at the bedside")
    wait_for(lambda: state()["state"] == "acknowledged", 15, "acknowledged")
    said = [(each["by"], each.get("reason")) for each in state()["history"]]
    for reason in ("getting worse", "probe being changed", "seen at the bedside"):
        assert ("RN 4", reason) in said


@pytest.mark.browser
def test_who_answers_second_is_told_so(product: Any, ward: Any) -> None:
    """A colleague acknowledges while the form is open: the page says so and shows by whom."""
    alert = standing(product)
    ward.evaluate(f"location.hash = '#/bed/{alert['bed_id']}'")
    item = ward.locator(f"[data-alert='{alert['id']}']")
    item.locator("[data-action='acknowledge']").click()
    item.get_by_label("Reason").fill("seen at the bedside")
    product.post(f"/v1/alerts/{alert['id']}/acknowledge", {"by": "RN 9", "reason": "was faster"})
    item.get_by_role("button", name="Acknowledge now").click()
    expect(item.locator("[role='alert']")).to_contain_text("Somebody else was first")
    expect(item.locator(".state")).to_have_text("✓ Acknowledged")
    item.get_by_text("History").click()
    expect(item.locator(".history")).to_contain_text("RN 9")


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_nothing_serious_in_either_theme(chromium: Any, product: Any, theme: str) -> None:
    """Board, bed, alerts, model, shortcuts and login have no serious or critical violation."""
    standing(product)
    context = chromium.new_context(
        color_scheme=theme, bypass_csp=True, reduced_motion="reduce", service_workers="block"
    )
    page = context.new_page()
    page.goto(product.address)
    page.wait_for_selector(".card .v")
    found = {"board": violations(page)}
    for place, selector in (
        ("bed/A-01", ".risk-row, .risks .note"),
        ("alerts", ".alert"),
        ("model", ".model-card > *"),
    ):
        page.evaluate(f"location.hash = '#/{place}'")
        page.wait_for_selector(selector)
        found[place] = violations(page)
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    found["keys"] = violations(page)
    page.evaluate("sessionStorage.clear()")
    page.goto(product.url + "/?again")
    page.wait_for_selector(".login")
    found["login"] = violations(page)
    context.close()
    assert not any(found.values()), found


@pytest.mark.browser
def test_a_dead_server_is_unmistakable(new_product: Any, page: Any) -> None:
    """When the server ends, a banner says that all values are old and how old."""
    product = new_product(2)
    page.goto(product.address)
    page.wait_for_selector(".card .v")
    page.wait_for_selector(".connection.live")
    product.process.send_signal(signal.SIGTERM)
    product.process.wait(20)
    page.wait_for_selector(".banner:not([hidden])")
    words = page.locator(".banner").inner_text()
    assert re.search(r"DISCONNECTED – all values are old: nothing heard for \d+ s", words)
    assert "disconnected" in page.locator("body").get_attribute("class")
