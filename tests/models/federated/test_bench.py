"""The bench of the secure sum measures whole rounds, and its sums are right."""

from __future__ import annotations

from models.federated.bench import rounds
from models.federated.messages import Recipe


def test_a_bench_counts_time_bytes_and_error() -> None:
    """Four bytes an entry and the protocol's own; the mean within half a step; noise is noise."""
    cost = rounds(5000, 4, 32, 2)
    assert len(cost.spent_ms["client"]) == 2
    assert 4 * 5001 < cost.sent_bytes < 4 * 5001 + 2000
    assert cost.error < 1e-8
    assert rounds(5000, 4, 31, 1).sent_bytes < 31 / 8 * 5001 + 2000
    assert rounds(5000, 4, 24, 1).sent_bytes < 3 * 5001 + 2000
    assert rounds(5000, 4, 32, 1, Recipe(norm=1.0, noise=1.0)).error > 0.1
