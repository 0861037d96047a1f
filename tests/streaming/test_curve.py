"""What batches cost, measured by a fake clock: the clock is the device, and what disturbs it."""

import random

import pytest

from streaming.batcher import Batcher
from streaming.curve import Curve, measure_curve


def test_the_cap_is_the_smallest_size_with_nearly_the_best_throughput() -> None:
    """Five percent more throughput is not worth twice the latency."""
    curve = Curve((8,), (1, 2, 4, 8), ((1.0, 1.2, 2.0, 3.9),))
    assert curve.best(8) == 8
    assert Batcher((8,), curve).caps == (8,) and Batcher((8,), curve, max_batch=3).caps == (3,)


def test_costs_between_the_measured_sizes_lie_between_the_measured_costs() -> None:
    """And beyond the largest go on at its rate; a length costs what the next longer one does."""
    curve = Curve((8, 72), (1, 4), ((1.0, 2.5), (2.0, 8.0)))
    assert curve.cost(1, 8) == 1.0 and curve.cost(3, 8) == 2.0 and curve.cost(8, 8) == 5.0
    assert curve.cost(4, 9) == 8.0


def test_measuring_stops_when_larger_batches_are_worse() -> None:
    """The clock is the model here: from 16 on a window costs twice as much."""
    now = 0.0

    def predict(size: int, bins: int) -> None:
        nonlocal now
        now += (1 + size * bins / 72 * (2 if size > 8 else 1)) * 1e-4

    curve = measure_curve(predict, (24, 72), clock=lambda: now)
    assert curve.sizes[-1] == 32 and curve.best(72) == 8
    assert curve.cost(4, 24) < curve.cost(4, 72)


def test_measuring_stops_when_its_time_is_spent() -> None:
    """A slow device is measured at few sizes."""
    now = 0.0

    def predict(size: int, bins: int) -> None:
        nonlocal now
        now += 1.0 + size / 100

    assert measure_curve(predict, (72,), budget_s=3.0, clock=lambda: now).sizes == (1, 2)


def test_the_cap_is_small_only_where_the_device_truly_is_slower() -> None:
    """Noise of a fifth does not make 2 the cap; a device to which 8 are a burden keeps 2."""
    noisy = Curve((8,), (1, 2, 4, 8), ((1.0, 1.6, 3.6, 7.4),))
    slower = Curve((8,), (1, 2, 4, 8), ((1.0, 1.6, 6.0, 16.0),))
    assert noisy.best(8) == 8 and slower.best(8) == 2


def test_of_sizes_as_good_the_largest_quick_one_is_the_cap() -> None:
    """Fewer batches cost the loop less, but none may hold up the others for long."""
    flat = Curve((8,), (8, 16, 32, 64), ((0.004, 0.008, 0.016, 0.032),))
    slow = Curve((8,), (8, 16, 32, 64), ((0.04, 0.08, 0.16, 0.32),))
    assert flat.best(8) == 32 and slow.best(8) == 8


def test_a_machine_that_is_busy_for_a_while_does_not_change_the_cap() -> None:
    """For the first 100 ms everything takes ten times as long; what is measured again is right."""
    now = 0.0

    def predict(size: int, bins: int) -> None:
        nonlocal now
        now += (1e-3 + size * 1e-4) * (10 if now < 0.1 else 1)

    curve = measure_curve(predict, (24, 72), clock=lambda: now)
    assert curve.best(72) >= 128
    assert curve.cost(8, 72) == pytest.approx(1.8e-3)


def test_a_disturbed_measurement_does_not_make_less_cost_more() -> None:
    """The machine was busy with something else while batches of 2 were measured."""
    now = 0.0

    def predict(size: int, bins: int) -> None:
        nonlocal now
        now += 9.0 if size == 2 else size * 1e-3 * bins

    curve = measure_curve(predict, (24, 72), budget_s=1e3, clock=lambda: now)
    for shorter, longer in zip(*curve.seconds, strict=True):
        assert shorter <= longer
    for row in curve.seconds:
        assert list(row) == sorted(row)


@pytest.mark.parametrize("slower", [1, 4, 10, 25])
def test_a_machine_busy_all_the_time_gets_no_silly_cap(slower: float) -> None:
    """All its batches are slow; so few are measured, and yet a cap is none of 1 or 2."""
    now = 0.0

    def predict(size: int, bins: int) -> None:
        nonlocal now
        now += (2e-3 + size * bins / 72 * 1.2e-3) * slower

    curve = measure_curve(predict, (6, 24, 72), budget_s=1.5, clock=lambda: now)
    assert 8 <= curve.best(72) <= 32
    assert now < 2 * 1.5 + 0.5


def test_a_machine_that_stalls_now_and_then_gets_no_silly_cap() -> None:
    """Three in ten batches wait up to 120 ms for a processor: most of the throughput is kept."""

    def seconds(size: int, bins: int) -> float:
        return 2e-3 + size * bins / 72 * 1.2e-3

    def cap(seed: int) -> int:
        draw, now = random.Random(seed), 0.0

        def predict(size: int, bins: int) -> None:
            nonlocal now
            stall_s = 0.12 * draw.random() if draw.random() < 0.3 else 0.0
            now += seconds(size, bins) + stall_s

        return measure_curve(predict, (6, 24, 72), budget_s=1.5, clock=lambda: now).best(72)

    caps = sorted(cap(seed) for seed in range(200))
    assert caps[0] >= 4 and caps[10] >= 8
    assert caps[0] / seconds(caps[0], 72) > 0.7 * 64 / seconds(64, 72)


def test_a_hopelessly_slow_device_gets_no_batch_that_hangs() -> None:
    """Half a second a window: eight together would hold everybody up for four seconds."""
    now = 0.0

    def predict(size: int, bins: int) -> None:
        nonlocal now
        now += 0.05 + size * 0.5

    curve = measure_curve(predict, (72,), budget_s=1.5, clock=lambda: now)
    assert curve.best(72) * 0.5 <= 1.0
