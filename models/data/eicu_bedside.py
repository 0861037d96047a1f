"""What eICU's nurses and physicians charted at the bedside: coma scale, ventilation, oxygen.

`hourly.parquet` holds none of these. They stand in two tables of the set: examinations
(`physicalExam`) and the respiratory chart (`respiratoryCharting`). A chart says that a patient is
ventilated; where it is silent it says nothing, as in PhysioNet 2012.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from models.signals import INDEX

EXAM: Final = "physicalExam"
RESPIRATORY: Final = "respiratoryCharting"
SIGNALS: Final = tuple(INDEX[name] for name in ("gcs", "mech_vent", "on_oxygen"))
_GCS, _VENTILATED, _OXYGEN = SIGNALS

Row = dict[str, str]
Charted = tuple[int, int, float]
"""Minute since admission, signal, value."""

_SCALE: Final = {"Eyes Score": (1, 4), "Verbal Score": (1, 5), "Motor Score": (1, 6)}
_VENTILATED_BY_EXAM: Final = ("/Resp Mode/ventilated", "/Airway/intubated")
# A machine breathes where one of these is above 0.
_MACHINE: Final = frozenset(
    {
        "Tidal Volume (set)",
        "Vent Rate",
        "PEEP",
        "Pressure Support",
        "Peak Insp. Pressure",
        "Plateau Pressure",
        "Mean Airway Pressure",
        "Exhaled TV (machine)",
    }
)
_FLOW: Final = frozenset({"LPM O2", "Oxygen Flow Rate"})
_DEVICE: Final = frozenset({"O2 Device", "Oxygen Delivery Method"})
_CHARTED: Final = _MACHINE | _FLOW | _DEVICE
_BY_DEVICE: Final = {
    "ventilator": ((_VENTILATED, 1.0), (_OXYGEN, 1.0)),
    "mechanical ventilator": ((_VENTILATED, 1.0), (_OXYGEN, 1.0)),
    "none (room air)": ((_OXYGEN, 0.0),),
    "room air": ((_OXYGEN, 0.0),),
    **dict.fromkeys(
        (
            *("nasal cannula", "high flow nasal cannula", "bi-pap", "bipap", "cpap"),
            *("simple mask", "face mask", "high flow mask", "non-rebreather mask", "ambubag"),
        ),
        ((_OXYGEN, 1.0),),
    ),
}


def keeps(table: str, row: Row) -> bool:
    """Whether a row of one of the tables says anything here; most do not."""
    if table == EXAM:
        path = row.get("physicalexampath", "")
        return "/GCS/" in path or path.endswith(_VENTILATED_BY_EXAM)
    return row.get("respchartvaluelabel", "") in _CHARTED


def charted(exam: Iterable[Row], respiratory: Iterable[Row]) -> list[Charted]:
    """Everything the rows of one stay say, by time; what cannot be read says nothing."""
    said = [*_examined(exam), *_breathing(respiratory)]
    return sorted(said, key=lambda one: one[0])


def _examined(rows: Iterable[Row]) -> Iterable[Charted]:
    parts: dict[int, dict[str, int]] = defaultdict(dict)
    whole: dict[int, int] = {}
    for row in rows:
        minute = _whole(row.get("physicalexamoffset", ""))
        path = row.get("physicalexampath", "")
        if minute is None:
            continue
        if path.endswith(_VENTILATED_BY_EXAM):
            yield minute, _VENTILATED, 1.0
            continue
        *_, before, name = path.split("/")
        score = _whole(name)
        if score is None:
            continue
        if before == "GCS" and 3 <= score <= 15:
            whole[minute] = score
        elif before in _SCALE and _SCALE[before][0] <= score <= _SCALE[before][1]:
            parts[minute][before] = score
    for minute, scale in parts.items():
        if len(scale) == len(_SCALE):
            whole.setdefault(minute, sum(scale.values()))
    for minute, total in whole.items():
        yield minute, _GCS, float(total)


def _breathing(rows: Iterable[Row]) -> Iterable[Charted]:
    for row in rows:
        minute = _whole(row.get("respchartoffset", ""))
        if minute is None:
            continue
        label, text = row.get("respchartvaluelabel", ""), row.get("respchartvalue", "").strip()
        if label in _DEVICE:
            for signal, value in _BY_DEVICE.get(text.lower(), ()):
                yield minute, signal, value
            continue
        amount = _number(text)
        if amount is None:
            continue
        if label in _FLOW:
            yield minute, _OXYGEN, float(amount > 0)
        elif amount > 0:
            yield minute, _VENTILATED, 1.0


def _whole(text: str) -> int | None:
    number = _number(text)
    return None if number is None or number != int(number) else int(number)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e9 else None  # also neither NaN nor infinite
