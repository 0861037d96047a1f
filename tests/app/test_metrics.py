"""Metrics as Prometheus reads them."""

from __future__ import annotations

from app.lifecycle import Health
from app.metrics import Metrics


def test_names_and_labels_are_the_contract() -> None:
    """Dashboards and rules stand on these."""
    metrics = Metrics()
    metrics.message("icu.vitals", "accepted", 3)
    metrics.dead_letter("not_json")
    metrics.skipped("superseded", 2)
    metrics.batch("cpu", 4, "idle", [0.001, 0.002], 0.003)
    metrics.end_to_end([0.02])
    metrics.lag("icu.vitals", 1, 7)
    metrics.view_lag(3)
    metrics.beds({"live": 5})
    metrics.expert_share({"general": 0.7})
    metrics.alert("sepsis", "high")
    metrics.watch(lambda: {"kafka": Health(False, "away")})
    text = metrics.exposition().decode()

    for line in (
        'vitalstream_messages_total{outcome="accepted",topic="icu.vitals"} 3.0',
        'vitalstream_dead_letters_total{reason="not_json"} 1.0',
        'vitalstream_skipped_total{reason="superseded"} 2.0',
        'vitalstream_predictions_total{device="cpu"} 4.0',
        'vitalstream_queue_seconds_count{device="cpu"} 2.0',
        'vitalstream_inference_seconds_count{device="cpu"} 1.0',
        "vitalstream_end_to_end_seconds_count 1.0",
        'vitalstream_consumer_lag{partition="1",topic="icu.vitals"} 7.0',
        "vitalstream_view_lag 3.0",
        'vitalstream_beds{state="live"} 5.0',
        'vitalstream_expert_share{expert="general"} 0.7',
        'vitalstream_alerts_total{kind="sepsis",priority="high"} 1.0',
        'vitalstream_part_ok{part="kafka"} 0.0',
    ):
        assert line in text
    assert "_created" not in text


def test_two_processes_in_one_do_not_meet() -> None:
    """Each has a registry of its own."""
    one, other = Metrics(), Metrics()
    one.dead_letter("not_json")

    assert "not_json" not in other.exposition().decode()
