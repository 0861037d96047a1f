"""What is measured, from the challenges' own definitions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from models.calibration import platt

_EARLY, _OPTIMAL, _LATE = -12, -6, 3


def utilities(labels: NDArray[np.int8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Utility of silence and of an alarm at each hour of one stay (Reyna et al. 2019, official).

    Args:
        labels: SepsisLabel of each row; the first 1 is six hours before onset.
    """
    n = len(labels)
    silent, alarm = np.zeros(n), np.full(n, -0.05)
    if labels.any():
        d = np.arange(n) - (int(np.argmax(labels)) - _OPTIMAL)
        rising, counted = d <= _OPTIMAL, d <= _LATE
        alarm = np.where(rising, np.maximum(d / 6 + 2, -0.05), -d / 9 + 1 / 3)
        silent = np.where(rising, 0.0, -2.0 * (d + 6) / 9)
        alarm, silent = np.where(counted, alarm, 0.0), np.where(counted, silent, 0.0)
    return silent, alarm


def gains(
    labels: NDArray[np.int8], hour: NDArray[np.int64], stay: NDArray[np.int64]
) -> NDArray[np.float64]:
    """What an alarm gains over silence in each row, 0 where the label is unknown.

    Args:
        labels: SepsisLabel of each row, -1 unknown; a septic stay's first 1 must be among them.
        hour: Of each row, since admission; rows between may lack.
        stay: Number of each row's stay; its rows stand together, in order.
    """
    out = np.where(labels >= 0, -0.05, 0.0)
    for rows in np.split(np.arange(len(stay)), np.nonzero(np.diff(stay))[0] + 1):
        septic = labels[rows] == 1
        if septic.any():
            d = hour[rows] - hour[rows[int(np.argmax(septic))]] + _OPTIMAL
            rising = d <= _OPTIMAL
            gain = np.where(rising, np.maximum(d / 6 + 2, -0.05), d / 9 + 5 / 3)
            out[rows] = np.where(d <= _LATE, gain, 0.0)
    return out


def utility(stays: Sequence[tuple[NDArray[np.int8], NDArray[np.bool_]]]) -> float:
    """Normalised utility of (labels, alarms) of stays: 0 never alarms, 1 is perfect."""
    observed = best = none = 0.0
    for labels, alarms in stays:
        silent, alarm = utilities(labels)
        observed += float(np.where(alarms, alarm, silent).sum())
        none += float(silent.sum())
        ideal = np.zeros(len(labels), np.bool_)
        if labels.any():
            onset = int(np.argmax(labels)) - _OPTIMAL
            ideal[max(0, onset + _EARLY) : onset + _LATE + 1] = True
        best += float(np.where(ideal, alarm, silent).sum())
    return (observed - none) / (best - none) if best != none else float("nan")


def best_threshold(p: NDArray[np.float64], gain: NDArray[np.float64]) -> float:
    """The threshold at which alarms gain most; gain is utility of an alarm minus of silence."""
    order = np.argsort(-p, kind="stable")
    ranked, total = p[order], np.cumsum(gain[order])
    last = np.r_[ranked[1:] != ranked[:-1], True]
    at = int(np.argmax(np.where(last, total, -np.inf)))
    return float(ranked[at])


def discrimination(p: NDArray[np.float64], label: NDArray[np.bool_]) -> dict[str, float | int]:
    """AUROC, AUPRC, base rate and calibration of risks."""
    said: dict[str, float | int] = {"rows": len(p), "events": int(label.sum())}
    if 0 < label.sum() < len(label):
        clipped = np.clip(p, 1e-7, 1 - 1e-7)
        slope, intercept = platt(np.log(clipped / (1 - clipped)), label)
        said |= {
            "auroc": float(roc_auc_score(label, p)),
            "auprc": float(average_precision_score(label, p)),
            "calibration_slope": slope,
            "calibration_intercept": intercept,
            "mean_p": float(p.mean()),
        }
    return said


def event1(p: NDArray[np.float64], label: NDArray[np.bool_], threshold: float) -> float:
    """PhysioNet 2012, event 1: the lesser of sensitivity and positive predictive value."""
    alarm = p >= threshold
    hit = float((alarm & label).sum())
    return min(hit / max(1.0, float(label.sum())), hit / max(1.0, float(alarm.sum())))


def event1_threshold(p: NDArray[np.float64], label: NDArray[np.bool_]) -> float:
    """The threshold with the best event 1."""
    order = np.argsort(-p, kind="stable")
    hits = np.cumsum(label[order])
    least = np.minimum(hits / max(1, hits[-1]), hits / np.arange(1, len(p) + 1))
    return float(p[order][int(np.argmax(least))])


def event2(p: NDArray[np.float64], label: NDArray[np.bool_]) -> float:
    """PhysioNet 2012, event 2: Hosmer-Lemeshow H over deciles, divided by the risks' range."""
    order = np.argsort(p, kind="stable")
    risk, died = np.clip(p[order], 0.01, 0.99), label[order]
    h, mean = 0.0, []
    for group in np.array_split(np.arange(len(p)), min(10, len(p))):
        n, expected = len(group), float(risk[group].sum())
        mean.append(expected / n)
        h += (float(died[group].sum()) - expected) ** 2 / (n * mean[-1] * (1 - mean[-1]) + 0.001)
    return h / max(mean[-1] - mean[0], 1e-9)
