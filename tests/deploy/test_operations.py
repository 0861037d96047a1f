"""Dashboards, alert rules and the runbook hold together with the metrics that the code exports."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
METRIC = re.compile(r"vitalstream_[a-z_]+")


def exported() -> set[str]:
    """Names of all series that the product exports, as Prometheus sees them."""
    from app.metrics import Metrics

    text = Metrics().exposition().decode()
    names = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        names |= (
            {f"{name}{s}" for s in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
        )
    return names


def test_there_are_three_dashboards() -> None:
    """Stream, devices and model, ward."""
    assert [p.stem for p in DASHBOARDS] == [
        "vitalstream-devices",
        "vitalstream-stream",
        "vitalstream-ward",
    ]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_every_query_of_a_dashboard_names_an_exported_metric(path: Path) -> None:
    """A panel on a metric that nobody exports would stay empty for ever."""
    queries = [t["expr"] for p in json.loads(path.read_text())["panels"] for t in p["targets"]]

    assert queries
    for query in queries:
        assert METRIC.findall(query), query
        assert set(METRIC.findall(query)) <= exported(), query


def test_every_rule_names_an_exported_metric() -> None:
    """A rule on a metric that nobody exports would never fire."""
    named = set(METRIC.findall("\n".join(re.findall(r"expr: (.*)", RULES.read_text()))))

    assert named <= exported()


def test_every_rule_has_its_runbook_entry() -> None:
    """Who is woken finds what to do."""
    headings = {
        heading.lower()
        for heading in re.findall(
            r"^#+ (\w+)$", (ROOT / "docs" / "operating.md").read_text(), re.MULTILINE
        )
    }
    rules = re.findall(r"- alert: (\w+)", RULES.read_text())

    assert rules
    assert {rule.lower() for rule in rules} <= headings
    assert len(re.findall(r"runbook: docs/operating.md#", RULES.read_text())) == len(rules)


@pytest.mark.parametrize(
    "check", [["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]]
)
def test_rules_pass_promtool(check: list[str]) -> None:
    """The rules fire when they should, and only then."""
    if not shutil.which("promtool"):
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is missing")
        pytest.skip("promtool is missing (Debian: prometheus)")

    done = subprocess.run(["promtool", *check], cwd=RULES.parent, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_unit_test() -> None:
    """No rule without a series on which it fires."""
    tested = set(re.findall(r"alertname: (\w+)", (RULES.parent / "rules_test.yml").read_text()))

    assert set(re.findall(r"- alert: (\w+)", RULES.read_text())) <= tested
