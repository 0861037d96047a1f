"""What a prediction and an observation say about each kind of alert. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from app.ward.beds import Bed, Run
from app.ward.policy import FROZEN_LEAST, FROZEN_MS, FROZEN_SIGNALS, Kind
from models.signals import INDEX, SIGNALS
from streaming.messages import Input, Source

_LOW: Final = {s.name: s.low for s in SIGNALS}
_HIGH: Final = {s.name: s.high for s in SIGNALS}
PRESSURE: Final = "pressure"
FEED: Final = "feed"


class RiskHead(Struct, gc=False):
    """What the engine needs of a risk."""

    p: float
    positive: bool


class ScoreHead(Struct, gc=False):
    """What the engine needs of a score."""

    value: float | None


class Head(Struct):
    """What the engine needs of a prediction; the rest stays undecoded."""

    bed_id: str
    case_id: str | None
    ts_ms: int
    produced_ms: int
    model_version: str
    status: str
    risks: dict[str, RiskHead]
    scores: dict[str, ScoreHead]
    inputs: dict[str, Input]
    source: Source


def judge(
    kind: Kind, head: Head, bed: Bed, live: bool, thresholds: Mapping[str, float]
) -> tuple[bool, float, float | None] | None:
    """Whether a prediction shows a kind's condition, by what value, against what threshold.

    Args:
        kind: The kind.
        head: The prediction.
        bed: What is remembered of the bed.
        live: Whether the prediction spoke of its own time when it was made.
        thresholds: Those that the model shipped with, by risk, as far as they are known.

    Returns:
        None where it says nothing: too little to speak, old, on stale or untrue input.
    """
    if not live or head.status != "ok" or FEED in bed.bad:
        return None
    fresh = sum(
        1
        for name in kind.fresh
        if (found := head.inputs.get(name)) is not None
        and found.age_ms <= kind.fresh_ms
        and name not in bed.bad
    )
    if fresh < kind.fresh_least:
        return None
    if kind.risk is not None:
        risk = head.risks.get(kind.risk)
        return None if risk is None else (risk.positive, risk.p, thresholds.get(kind.risk))
    score = head.scores.get(kind.score or "")
    if score is None or score.value is None:
        return None
    line = kind.leave if bed.timer(kind).holds() else kind.enter
    return score.value >= line, score.value, kind.enter


def examine(bed: Bed, values: Mapping[str, float | None], ts_ms: int) -> None:
    """Note in `bed.bad` which signals' values cannot be true, and which are believable again."""
    bad = bed.bad
    for name, value in values.items():
        if value is None or name not in INDEX:
            continue
        if not _LOW[name] <= value <= _HIGH[name]:
            bad[name] = value
        elif bad:
            bad.pop(name, None)
        if name in FROZEN_SIGNALS:
            _count(bed, name, value, ts_ms)
    if _frozen(bed, ts_ms):
        bad[FEED] = float(ts_ms - min(run.since_ms for run in bed.runs.values()))
    else:
        bad.pop(FEED, None)
    sbp, mean, dbp = values.get("sbp"), values.get("map"), values.get("dbp")
    if sbp is None or dbp is None:
        return
    if dbp >= sbp or (mean is not None and not dbp <= mean <= sbp):
        bad[PRESSURE] = dbp
    else:
        bad.pop(PRESSURE, None)


def describe(bed: Bed) -> tuple[float, float | None, str]:
    """The first of `bed.bad`: its value, the bound it passed, and words for a person."""
    name, value = next(iter(bed.bad.items()))
    if name == PRESSURE:
        return value, None, "pressures contradict each other"
    if name == FEED:
        return value, float(FROZEN_MS), "the values do not move"
    if value < _LOW[name]:
        return value, _LOW[name], f"{name}: below what is possible"
    return value, _HIGH[name], f"{name}: above what is possible"


def _count(bed: Bed, name: str, value: float, ts_ms: int) -> None:
    run = bed.runs.get(name)
    if run is None:
        bed.runs[name] = Run(value, ts_ms, 1)
    elif run.value != value:
        run.value, run.since_ms, run.count = value, ts_ms, 1
    else:
        run.count += 1


def _frozen(bed: Bed, ts_ms: int) -> bool:
    # One signal may well stand still: a pacemaker, a ventilator, a healthy saturation. Not all do.
    return len(bed.runs) > 1 and all(
        run.count >= FROZEN_LEAST and ts_ms - run.since_ms >= FROZEN_MS for run in bed.runs.values()
    )
