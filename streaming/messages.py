"""The messages on every topic, as types: what is valid is what these types decode.

Times are integer milliseconds since the Unix epoch, UTC. Every key is the bed id in UTF-8; every
value is JSON.
Unknown fields are ignored; a missing or ill-typed required field is an error
(`msgspec.ValidationError`).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

VITALS: Final = "icu.vitals"
CASES: Final = "icu.cases"
PREDICTIONS: Final = "icu.predictions"
WINDOWS: Final = "icu.windows"
ALERTS: Final = "icu.alerts"
DEAD_LETTERS: Final = "icu.vitals.dlq"

MAX_MESSAGE_BYTES: Final = 1 << 20
MAX_BED_ID_BYTES: Final = 128

BedId = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_BED_ID_BYTES, description="Bed, at most 128 bytes of UTF-8."),
]
CaseId = Annotated[str, Meta(min_length=1, max_length=256, description="One patient's stay.")]
TimeMs = Annotated[int, Meta(ge=0, description="Milliseconds since the Unix epoch, UTC.")]
Probability = Annotated[float, Meta(ge=0, le=1)]


class Observation(Struct, frozen=True, omit_defaults=True, gc=False):
    """One message of values from a bed: monitor numerics and lab results alike (`icu.vitals`)."""

    bed_id: str
    ts_ms: int
    values: dict[str, float | None]
    case_id: str | None = None
    device_id: str | None = None
    seq: int | None = None


class Case(Struct, frozen=True, omit_defaults=True):
    """Who lies in a bed, and what is known on admission (`icu.cases`, compacted)."""

    bed_id: BedId
    case_id: CaseId
    status: Literal["open", "closed"]
    admitted_ms: TimeMs
    hospital_admitted_ms: TimeMs | None = None
    age_years: Annotated[float, Meta(ge=0, le=130)] | None = None
    sex: Literal["female", "male"] | None = None
    unit_type: (
        Literal["medical", "surgical", "coronary", "cardiac_surgery", "neuro", "mixed"] | None
    ) = None
    weight_kg: Annotated[float, Meta(gt=0, le=700)] | None = None
    height_cm: Annotated[float, Meta(gt=0, le=280)] | None = None
    problems: list[str] = []
    spo2_scale: Literal[1, 2] | None = None


class Risk(Struct, frozen=True):
    """A calibrated probability, its bounds, and whether the shipped threshold is passed."""

    p: float
    low: float
    high: float
    positive: bool


class Score(Struct, frozen=True):
    """A bedside score from what is known; `value` is null when nothing is."""

    value: float | None
    missing: list[str]


class Input(Struct, frozen=True):
    """The newest value of a signal and how long before `ts_ms` it was measured."""

    v: float
    age_ms: int


class Driver(Struct, frozen=True):
    """A signal's signed effect on the leading risk, in log-odds."""

    signal: str
    effect: float


class Source(Struct, frozen=True):
    """The newest observation message in the window."""

    partition: int
    offset: int


class Prediction(Struct, frozen=True):
    """What the model says of a bed (`icu.predictions`); (`bed_id`, `source`, `model_version`) is
    its identity.
    """

    bed_id: str
    case_id: str | None
    ts_ms: int
    produced_ms: int
    model: str
    model_version: str
    status: Literal["ok", "warming_up"]
    risks: dict[str, Risk]
    experts: dict[str, float]
    novelty: float
    scores: dict[str, Score]
    inputs: dict[str, Input]
    drivers: list[Driver]
    source: Source


class Snapshot(Struct, frozen=True):
    """One bed's window and the source offset it includes (`icu.windows`, compacted)."""

    bed_id: str
    case_id: str | None
    source: Source
    grid: str
    """Digest of the grid the window was cut on; a snapshot of another grid is not used."""
    newest_ms: int
    window: bytes
    """The store's own packed form (base64 in JSON); empty where the case was not heard of yet."""
    previous_cases: list[str] = []
    """Cases that lay in the bed before; a late observation of theirs is not this case's."""
    since_ms: int = -1
    """When the case began, as far as was known; -1 where nothing was."""
    heard_ms: int = -1
    """When the bed was last heard, by the worker's clock; -1 where that was not written down."""


AlertState = Literal["open", "acknowledged", "snoozed", "escalated", "closed"]
Priority = Literal["high", "medium", "low"]


class AlertChange(Struct, frozen=True):
    """Who changed an alert's state, when and why."""

    ms: int
    by: str
    action: str
    reason: str | None = None


class Alert(Struct, frozen=True):
    """The state of one alert (`icu.alerts`, compacted by the alert's bed)."""

    id: str
    bed_id: str
    case_id: str | None
    kind: str
    priority: Priority
    state: AlertState
    opened_ms: int
    updated_ms: int
    value: float | None
    threshold: float | None
    history: list[AlertChange] = []
