"""The card's plots as pictures, from its figures alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

TITLES: Final = {
    "sepsis_physionet2019": "Sepsis within 6 h, PhysioNet 2019",
    "mortality_48h_physionet2012": "Death in hospital, PhysioNet 2012",
    "hypotension": "Hypotension within the hour",
    "hypoxaemia": "Hypoxaemia within the hour",
}
_NAMES: Final = {
    "model": "this model",
    "news2": "NEWS2",
    "trees": "boosted trees alone",
    "last_value": "last value",
}
_COLOURS: Final = {
    "model": "#0072b2",
    "news2": "#d55e00",
    "trees": "#009e73",
    "last_value": "#856a00",
}
Figures = dict[str, Any]


def draw(figures: Figures, folder: Path) -> list[Path]:
    """Write every plot as SVG; returns the files.

    Args:
        figures: The card's `evaluation`.
        folder: Where they go; made where it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    style: Any = {
        "svg.hashsalt": "vitalstream",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
    }
    made: list[Path] = []
    with pyplot.rc_context(style):
        for name, panel in _PANELS.items():
            made.append(_panels(figures, folder / f"{name}.svg", panel))
        if "alarm_policy" in figures:
            made.append(_one(figures, folder / "alarm_burden.svg", _burden))
        made.append(_panels(figures, folder / "subgroups.svg", _groups))
    return made


Panel = Callable[[Axes, Figures, str], None]


def _save(path: Path, figure: Any) -> Path:
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)
    return path


def _panels(figures: Figures, path: Path, panel: Panel) -> Path:
    tasks = [task for task in TITLES if task in figures["curves"]]
    figure, axes = pyplot.subplots(1, max(len(tasks), 1), figsize=(3.2 * max(len(tasks), 1), 3.0))
    for axis, task in zip(axes if len(tasks) > 1 else [axes], tasks, strict=False):
        panel(axis, figures, task)
        axis.set_title(TITLES[task], fontsize=9)
    figure.tight_layout()
    return _save(path, figure)


def _one(figures: Figures, path: Path, panel: Callable[[Axes, Figures], None]) -> Path:
    figure, axis = pyplot.subplots(figsize=(5.2, 3.6))
    panel(axis, figures)
    return _save(path, figure)


def _reliability(axis: Axes, figures: Figures, task: str) -> None:
    said = figures["calibration"][task]
    kept = [row for row in zip(*said.values(), strict=True) if row[1] is not None]
    x, y, low, high, _ = zip(*kept, strict=True)
    top = 1.1 * max(*x, *high)
    axis.plot([0, top], [0, top], color="0.6", lw=1, ls=":")
    errors = [
        [b - a for a, b in zip(low, y, strict=True)],
        [b - a for a, b in zip(y, high, strict=True)],
    ]
    axis.errorbar(x, y, yerr=errors, fmt="o-", ms=3, lw=1, color=_COLOURS["model"])
    axis.set(xlabel="risk said", ylabel="observed, 95 %", xlim=(0, top), ylim=(0, top))


def _roc(axis: Axes, figures: Figures, task: str) -> None:
    _lines(axis, figures, task, "false_positive_rate", "recall")
    axis.plot([0, 1], [0, 1], color="0.6", lw=1, ls=":")
    axis.set(xlabel="false positive rate", ylabel="sensitivity")


def _precision(axis: Axes, figures: Figures, task: str) -> None:
    _lines(axis, figures, task, "recall", "precision")
    axis.set(xlabel="sensitivity", ylabel="positive predictive value")


def _lines(axis: Axes, figures: Figures, task: str, x: str, y: str) -> None:
    for name, curve in figures["curves"][task].items():
        axis.plot(curve[x], curve[y], color=_COLOURS[name], lw=1.3, label=_NAMES[name])
    axis.legend(fontsize=7, frameon=False)


def _decision(axis: Axes, figures: Figures, task: str) -> None:
    said = figures["decision_curve"][task]
    x = said["threshold"]
    axis.plot(x, said["model"], color=_COLOURS["model"], label="this model")
    axis.plot(x, said["news2"], color=_COLOURS["news2"], label="NEWS2 as probability")
    axis.plot(x, said["all"], color="0.5", ls="--", label="treat all")
    axis.axhline(0, color="0.5", ls=":", label="treat none")
    top = max(*said["model"], *said["news2"])
    axis.set(xscale="log", xlabel="threshold", ylabel="net benefit", ylim=(-0.15 * top, 1.15 * top))
    shown = [t for t in (0.003, 0.01, 0.03, 0.1, 0.3) if x[0] <= t <= x[-1]]
    axis.set_xticks(shown, [f"{t:g}" for t in shown])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.legend(fontsize=7, frameon=False)


def _burden(axis: Axes, figures: Figures) -> None:
    said = figures["alarm_policy"]
    for name, key in (("model", "operating_curve"), ("news2", "operating_curve_news2")):
        curve = said[key]
        axis.plot(
            curve["alerts_per_day"], curve["recall"], color=_COLOURS[name], label=_NAMES[name]
        )
    shipped = said["as_shipped"]
    axis.plot(
        shipped["alerts_per_patient_day"]["value"],
        shipped["septic_stays_caught_before_onset"]["value"],
        "o",
        color=_COLOURS["model"],
        label="as shipped",
    )
    axis.axhline(0.8, color="0.6", ls=":")
    axis.axvline(1.0, color="0.6", ls=":")
    axis.set(
        xlabel="sepsis alerts a patient-day",
        ylabel="septic stays with an alert before onset",
        xlim=(0, 2),
        ylim=(0, 1.02),
    )
    axis.legend(fontsize=8, frameon=False)


def _groups(axis: Axes, figures: Figures, task: str) -> None:
    rows = [g for g in figures["subgroups"][task] if g["auroc"]["value"] is not None][::-1]
    for at, row in enumerate(rows):
        said = row["auroc"]
        axis.plot([said["low"], said["high"]], [at, at], color=_COLOURS["model"], lw=1)
        axis.plot(said["value"], at, "o", ms=3, color=_COLOURS["model"])
    axis.set_yticks(range(len(rows)), [row["group"].replace("_", " ") for row in rows], fontsize=7)
    axis.set(xlabel="AUROC, 95 %")


_PANELS: Final[dict[str, Panel]] = {
    "reliability": _reliability,
    "roc": _roc,
    "precision_recall": _precision,
    "decision_curve": _decision,
}
