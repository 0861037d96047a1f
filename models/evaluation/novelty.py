"""What the novelty score is worth: does it tell what is unlike the training data, and does the
interval widen where the model knows less.

Another kind of patient: the score's statistics are made without one unit type, or from one hospital
alone, and the score has to tell the patients that were left out from others that were not trained
on either. Corrupted physiology: windows as they are against the same windows spoilt. Both need no
outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from models.data import Stay
from models.evaluation import measures
from models.evaluation.bootstrap import Counts, Draws, interval
from models.evaluation.faithfulness import log_odds, sampled
from models.evaluation.told import Told
from models.features import VITAL_AT, Features
from models.novelty import Novelty
from models.predictor import Predictor
from models.signals import HIGH, INDEX, LOW
from models.training.cache import statistics
from models.window_store import Windows

Floats = NDArray[np.float64]
BANDS: Final = (0.0, 0.05, 0.2, 0.5, 1.01)
_BINS: Final = 24
Spoil = Callable[[Windows, np.random.Generator], dict[int, NDArray[np.float32]]]


def held_out(
    train: list[Stay], test: list[Stay], left_out: Callable[[Stay], bool], seed: int = 4
) -> dict[str, Any]:
    """The score's AUROC for a kind of patient that its statistics have never seen.

    Args:
        train: Stays of the training part; those left out are not used.
        test: Stays of the others.
        left_out: Whether a stay is of the kind.
        seed: Of the hours looked at.
    """
    features = Features()
    known = [stay for stay in train if not left_out(stay)]
    statistics(features, known)
    score = Novelty()
    seen, _ = sampled(known, 3, _BINS, seed)
    score.fit(_signals(features, seen))
    windows, owner = sampled(test, 3, _BINS, seed)
    with torch.inference_mode():
        said = score(_signals(features, windows))[0].numpy().astype(np.float64)
    label = np.array([left_out(stay) for stay in test])[owner]
    counts = Counts.of(said, label, Draws(owner))
    return {
        "patients": len(test),
        "left_out": int(sum(left_out(stay) for stay in test)),
        "auroc": interval(measures.auroc(counts)),
        "median_novelty_left_out": round(float(np.median(said[label])), 4),
        "median_novelty_others": round(float(np.median(said[~label])), 4),
    }


def _signals(features: Features, windows: Windows) -> torch.Tensor:
    with torch.inference_mode():
        signals, _ = features.of_windows(windows, slice(None))
    return signals


def _probe_off(windows: Windows, rng: np.random.Generator) -> dict[int, NDArray[np.float32]]:
    n = len(windows.cases)
    return {
        INDEX["spo2"]: rng.uniform(40, 65, n).astype(np.float32),
        INDEX["temp"]: rng.uniform(25, 30, n).astype(np.float32),
    }


def _flushed(windows: Windows, rng: np.random.Generator) -> dict[int, NDArray[np.float32]]:
    n = len(windows.cases)
    return {
        INDEX[name]: rng.uniform(low, high, n).astype(np.float32)
        for name, low, high in (("sbp", 230, 290), ("map", 220, 280), ("dbp", 210, 270))
    }


def _doubled(windows: Windows, rng: np.random.Generator) -> dict[int, NDArray[np.float32]]:
    return {INDEX["hr"]: np.minimum(2 * windows.newest_value[:, INDEX["hr"]], HIGH[INDEX["hr"]])}


def _other_units(windows: Windows, rng: np.random.Generator) -> dict[int, NDArray[np.float32]]:
    factor = {"glucose": 1 / 18, "bun": 0.357, "lactate": 9.0, "hct": 0.05, "calcium": 0.25}
    return {
        INDEX[name]: np.clip(
            windows.newest_value[:, INDEX[name]] * f, LOW[INDEX[name]], HIGH[INDEX[name]]
        ).astype(np.float32)
        for name, f in factor.items()
    }


def _extreme(windows: Windows, rng: np.random.Generator) -> dict[int, NDArray[np.float32]]:
    n = len(windows.cases)
    out = {}
    for at in VITAL_AT:
        edge = np.where(rng.random(n) < 0.5, 0.05, 0.95)
        out[at] = (LOW[at] + edge * (HIGH[at] - LOW[at])).astype(np.float32)
    return out


def _mixed(windows: Windows, rng: np.random.Generator) -> dict[int, NDArray[np.float32]]:
    """Every signal of another patient: each alone is plausible."""
    value = windows.newest_value
    out = {}
    for at in range(value.shape[1]):
        there = value[:, at][~np.isnan(value[:, at])]
        if len(there):
            out[at] = rng.choice(there, len(value)).astype(np.float32)
    return out


SPOILT: Final[dict[str, Spoil]] = {
    "probes_off": _probe_off,
    "pressure_line_flushed": _flushed,
    "heart_rate_counted_twice": _doubled,
    "laboratory_in_other_units": _other_units,
    "vitals_at_the_edge_of_the_possible": _extreme,
    "signals_of_several_patients": _mixed,
}


def spoilt(windows: Windows, kind: str, rng: np.random.Generator) -> Windows:
    """The windows with some signals replaced in the last 8 hours, where they are measured."""
    hours, minutes = windows.hours.copy(), windows.minutes.copy()
    value = windows.newest_value.copy()
    for at, new in SPOILT[kind](windows, rng).items():
        there = ~np.isnan(value[:, at])
        value[there, at] = new[there]
        late = hours[:, -8:, at]
        hours[:, -8:, at] = np.where(np.isnan(late), late, new[:, None])
        if at in VITAL_AT:
            column = minutes[:, :, VITAL_AT.index(at)]
            minutes[:, :, VITAL_AT.index(at)] = np.where(np.isnan(column), column, new[:, None])
    return Windows(
        hours=hours,
        minutes=minutes,
        newest_value=value,
        newest_age_ms=windows.newest_age_ms,
        newest_ms=windows.newest_ms,
        phase_ms=windows.phase_ms,
        length=windows.length,
        cases=windows.cases,
    )


def corrupted(
    predictor: Predictor, stays: list[Stay], *, each: int = 2, seed: int = 6
) -> dict[str, Any]:
    """For each way of spoiling: the score's AUROC, and how much wider the bounds become."""
    windows, _ = sampled(stays, each, predictor.length_buckets[-1], seed)
    before = predictor.predict(windows)
    rng = np.random.default_rng(seed)
    out: dict[str, Any] = {"windows": len(windows.cases)}
    width = log_odds(before.high) - log_odds(before.low)
    for kind in SPOILT:
        after = predictor.predict(spoilt(windows, kind, rng))
        label = np.r_[np.zeros(len(before.novelty)), np.ones(len(after.novelty))]
        now = log_odds(after.high) - log_odds(after.low)
        out[kind] = {
            "auroc": round(float(roc_auc_score(label, np.r_[before.novelty, after.novelty])), 4),
            "median_novelty": round(float(np.median(after.novelty)), 4),
            "bounds_wider_by": round(float(np.median((now / width).mean(1))), 3),
            "rare_disease_share": round(float(after.share[:, -1].mean()), 4),
        }
    out["as_they_are"] = {
        "median_novelty": round(float(np.median(before.novelty)), 4),
        "rare_disease_share": round(float(before.share[:, -1].mean()), 4),
    }
    return out


def by_band(
    told: Told,
    risk: int,
    label: NDArray[np.int8],
    patient: NDArray[np.int64],
) -> list[dict[str, Any]]:
    """Width of the bounds and error by band of novelty: where it is higher, is less known?

    Args:
        told: What was said of rows.
        risk: Which.
        label: -1 unknown.
        patient: Of each row.
    """
    out = []
    width = log_odds(told.high[:, risk]) - log_odds(told.low[:, risk])
    for low, high in pairwise(BANDS):
        mine = (told.novelty >= low) & (told.novelty < high) & (label >= 0)
        if mine.sum() < 200 or not (label[mine] == 1).any():
            continue
        counts = Counts.of(told.p[mine, risk], label[mine] == 1, Draws(patient[mine]))
        out.append(
            {
                "novelty_from": low,
                "novelty_to": min(high, 1.0),
                "rows": int(mine.sum()),
                "median_width_log_odds": round(float(np.median(width[mine])), 4),
                "auroc": interval(measures.auroc(counts)),
                "calibration_slope": interval(measures.slope(counts)),
                "brier_skill": interval(measures.skill(counts)),
            }
        )
    return out
