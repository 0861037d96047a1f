"""The model card: facts about the weights, what was measured, and the two told as an applied model
card of the Coalition for Health AI (schema v0.2); checked against `card.schema.json` when written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any, Final

import jsonschema

SCHEMA: Final = "card.schema.json"
_SLOPE: Final = (0.9, 1.1)


class BadCard(ValueError):
    """A card that its schema does not allow; says where and why."""


@cache
def schema() -> dict[str, Any]:
    """The card's JSON schema."""
    text = resources.files("models").joinpath("weights", SCHEMA).read_text("utf-8")
    said: dict[str, Any] = json.loads(text)
    return said


def checked(card: dict[str, Any]) -> dict[str, Any]:
    """The card as it was given.

    Raises:
        BadCard: It is not what the schema says.
    """
    try:
        # As it will be written: a number that JSON does not have is an error here.
        jsonschema.validate(json.loads(json.dumps(card, allow_nan=False)), schema())
    except jsonschema.ValidationError as error:
        where = "/".join(str(step) for step in error.absolute_path)
        raise BadCard(f"card: {where or 'the whole'}: {error.message[:200]}") from error
    return card


def completed(card: dict[str, Any], figures: dict[str, Any] | None) -> dict[str, Any]:
    """A card with the measured figures, its limits by them, and the applied model card.

    Args:
        card: The facts about the weights; figures of an earlier evaluation in it are replaced.
        figures: Of `models.evaluation.report`; None: nothing was evaluated yet.

    Raises:
        BadCard: It is not what the schema says.
    """
    said = {k: v for k, v in card.items() if k not in ("evaluation", "applied_model_card")}
    limits = [text for text in said["limits"] if not text.startswith(_MEASURED)]
    said["limits"] = limits + (list(_weak(figures)) if figures else [_UNMEASURED])
    if figures:
        said["evaluation"] = figures
    said["applied_model_card"] = _applied(said, figures or {})
    return checked(said)


_MEASURED: Final = ("Measured: ", "Not evaluated: ")
_UNMEASURED: Final = (
    "Not evaluated: intervals, groups, alarms, bounds and drivers of these weights."
)


def _weak(figures: dict[str, Any]) -> Iterator[str]:
    """What the figures say against the model, in words."""
    for task, groups in figures.get("subgroups", {}).items():
        out = [
            f"{g['group']} {g['slope']['value']:.2f}"
            for g in groups
            if g["slope"]["value"] is not None and not _SLOPE[0] <= g["slope"]["value"] <= _SLOPE[1]
        ]
        if out:
            yield (
                f"Measured: {_words(task)}: calibration slope outside 0.9 to 1.1: {', '.join(out)}."
            )
    for task, entry in figures.get("bounds", {}).items():
        inside = entry["twenty_bins"]["inside"]
        if inside is not None and inside < 0.9:
            yield (
                f"Measured: {_words(task)}: of 20 bins of the risk {inside:.0%} have an observed "
                "rate between low and high, less than the 90 % that is meant."
            )
    held = figures.get("novelty", {}).get("held_out", {})
    poor = [
        f"{_words(kind)} {entry['auroc']['value']:.2f}"
        for kind, entry in held.items()
        if (entry["auroc"]["value"] or 0) < 0.7
    ]
    if poor:
        yield (
            "Measured: novelty hardly tells patients of a kind that its statistics have not seen "
            f"(AUROC below 0.7): {', '.join(poor)}. It tells corrupted physiology."
        )
    for task, entry in figures.get("tasks", {}).items():
        for rival, his in entry["rivals"].items():
            low = his["ahead_auroc"]["low"]
            if low is not None and low <= 0:
                value = his["ahead_auroc"]["value"]
                yield (
                    f"Measured: {_words(task)}: not surely ahead of {_words(rival)} "
                    f"(AUROC {value:+.3f}, {low:+.3f} to {his['ahead_auroc']['high']:+.3f})."
                )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _applied(card: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """The applied model card, under its schema's names."""
    sets = ", ".join(entry["name"] for entry in card["data"])
    protocol = figures.get("protocol", "not evaluated yet")
    return {
        "Schema": "CHAI applied model card, fields of schema v0.2",
        "BasicInfo": {
            "ModelName": card["name"],
            "ModelDeveloper": "the vitalstream project",
            "Licence": "Apache-2.0",
        },
        "ReleaseInfo": {
            "ReleaseVersion": card["version"],
            "ReleaseStage": "research prototype",
            "RegulatoryApproval": "none: not a medical device, not cleared by FDA, CE or MHRA",
        },
        "IntendedUseAndWorkflow": card["intended_use"],
        "PrimaryIntendedUsers": "Researchers; clinicians and engineers who judge such a system.",
        "HowToUse": "Beside the bedside monitor, never in its place: each risk is shown with its "
        "bounds, the ages of its inputs, drivers and the experts that spoke. An alert asks for a "
        "look at the patient, not for a treatment.",
        "TargetedPatientPopulation": "Adults in intensive care.",
        "CautionedOutOfScopeSettings": card["populations_not_covered"],
        "KnownRisksAndLimitations": card["limits"],
        "KnownBiases": "Learned from hospitals of the United States; who is measured more often "
        "is known better. Groups that are served worse are listed among the limits.",
        "ClinicalRiskLevel": "high if it were used for care, which it must not be",
        "ModelType": "mixture of experts over a window of 72 hours and 60 minutes, with boosted "
        "trees as a member where the weights have any",
        "OutcomesAndOutputs": card["outputs"],
        "InputDataSource": "Vital signs, bedside observations and laboratory values as they "
        "arrive, and what is known on admission.",
        "DevelopmentDataCharacterization": f"{sets}; {card['training']['split']}.",
        "BiasMitigation": "None besides measuring: groups are calibrated together.",
        "OngoingMaintenance": "None is promised. Calibration has to be checked where it is used.",
        "Security": "Weights are checked against their digest at load; no patient data in them.",
        "Transparency": "Code, weights, training and evaluation are open; "
        "`vitalstream evaluate` makes every figure of this card again.",
        "KeyMetrics": {
            "Usefulness": _metric(_usefulness(figures), protocol, sets),
            "Fairness": _metric(_fairness(figures), protocol, sets),
            "Safety": _metric(_safety(figures), protocol, sets),
        },
    }


def _metric(result: list[str], protocol: str, sets: str) -> dict[str, Any]:
    return {
        "Result": result or ["not evaluated yet"],
        "Interpretation": "Intervals are 95 % by resampling patients; differences are paired.",
        "TestType": protocol,
        "TestData": sets,
    }


def _span(entry: dict[str, Any], digits: int = 3) -> str:
    if entry["value"] is None:
        return "unknown"
    low, high = entry["low"], entry["high"]
    return f"{entry['value']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _usefulness(figures: dict[str, Any]) -> list[str]:
    out = []
    for task, entry in figures.get("tasks", {}).items():
        text = f"{_words(task)}: AUROC {_span(entry['auroc'])}, AUPRC {_span(entry['auprc'])}"
        if "utility" in entry:
            text += f", official utility {_span(entry['utility']['model'])}"
        if "challenge" in entry:
            text += (
                f", Event 1 {_span(entry['challenge']['event1'])}, "
                f"Event 2 {_span(entry['challenge']['event2'], 1)}"
            )
        out.append(text)
    return out


def _fairness(figures: dict[str, Any]) -> list[str]:
    out = []
    for task, groups in figures.get("subgroups", {}).items():
        known = [g for g in groups if g["auroc"]["value"] is not None]
        if known:
            worst = min(known, key=lambda g: g["auroc"]["value"])
            best = max(known, key=lambda g: g["auroc"]["value"])
            out.append(
                f"{_words(task)}: AUROC from {_span(worst['auroc'])} ({worst['group']}) to "
                f"{_span(best['auroc'])} ({best['group']})"
            )
    return out


def _safety(figures: dict[str, Any]) -> list[str]:
    out = []
    policy = figures.get("alarm_policy")
    if policy:
        said = policy["as_shipped"]
        out.append(
            "sepsis alert as shipped: "
            f"{_span(said['septic_stays_caught_before_onset'])} of septic stays had one before "
            f"onset, {_span(said['alert_standing_within_12_h_before_onset'])} one that stood in "
            f"the 12 hours before; {_span(said['alerts_per_patient_day'])} a patient-day; "
            f"predictive value of an alert {_span(said['ppv_of_alerts'])}"
        )
    deletion = figures.get("drivers", {}).get("deletion")
    if deletion:
        out.append(
            f"drivers: deleting the first moves the risk as said in "
            f"{_span(deletion['moves_as_said'])} of windows, by "
            f"{_span(deletion['named_more_than_random'])} log-odds more than one at random"
        )
    return out
