"""What REST answers, for the OpenAPI document; msgspec encodes the answers from the same fields.

Times are integer milliseconds since the Unix epoch, UTC. Units of signals are UCUM codes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.signals import SIGNALS

BED_PATTERN = r"^[^\x00-\x1f\x7f\ufffd]+$"
"""No control characters; U+FFFD stands where the bytes of a path were no UTF-8."""
Ms = Annotated[int, Field(ge=0, le=1 << 52, examples=[1795409001078])]
P = Annotated[float, Field(ge=0, le=1, examples=[0.12])]
Point = Annotated[list[float], Field(min_length=4, max_length=4)]
State = Literal["open", "acknowledged", "snoozed", "escalated", "closed"]


class _Open(BaseModel):
    """Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")


class Risk(_Open):
    """A calibrated probability with its bounds."""

    p: P
    low: P
    high: P
    positive: bool = Field(description="Whether the shipped threshold is passed.")


class Score(_Open):
    """A bedside score from what is known."""

    value: float | None = Field(description="Null where nothing is known.", examples=[3])
    missing: list[str] = Field(description="Inputs that were not there; none is assumed.")


class Input(_Open):
    """The newest value of a signal."""

    v: float = Field(description="In the signal's UCUM unit.", examples=[82])
    age_ms: int = Field(description="How long before `ts_ms` it was measured.", examples=[1000])


class Driver(_Open):
    """A signal's part in the leading risk."""

    signal: str = Field(examples=["lactate"])
    effect: float = Field(description="Signed, in log-odds.", examples=[0.8])


class Source(_Open):
    """The newest observation message in the window."""

    partition: int
    offset: int


class Prediction(_Open):
    """What the model says of a bed. Research only: never the primary alarm, no diagnosis."""

    bed_id: str = Field(examples=["A-07"])
    case_id: str | None
    ts_ms: int = Field(description="Event time of the newest observation used.")
    produced_ms: int
    model: str
    model_version: str
    status: Literal["ok", "warming_up"] = Field(
        description="`warming_up`: the model has too little to speak; `risks` is then {}."
    )
    risks: dict[str, Risk] = Field(
        description="`sepsis` (onset within 6 h), `mortality` (in hospital), `hypotension` and "
        "`hypoxaemia` (within the next hour)."
    )
    experts: dict[str, float] = Field(description="The experts' shares, summing to 1.")
    novelty: float = Field(description="0 like the training data, 1 unlike it.")
    scores: dict[str, Score] = Field(description="NEWS2, qSOFA, MEWS, SIRS, shock index.")
    inputs: dict[str, Input] = Field(description="Newest value of each signal in the window.")
    drivers: list[Driver]
    source: Source


class Case(_Open):
    """Who lies in a bed, and what is known on admission."""

    case_id: str = Field(min_length=1, max_length=256, pattern=BED_PATTERN, examples=["c-2041"])
    status: Literal["open", "closed"] = "open"
    admitted_ms: Ms
    hospital_admitted_ms: Ms | None = None
    age_years: float | None = Field(None, ge=0, le=130, examples=[67])
    sex: Literal["female", "male"] | None = None
    unit_type: (
        Literal["medical", "surgical", "coronary", "cardiac_surgery", "neuro", "mixed"] | None
    ) = None
    weight_kg: float | None = Field(None, gt=0, le=700, examples=[71])
    height_cm: float | None = Field(None, gt=0, le=280, examples=[172])
    problems: list[Annotated[str, Field(max_length=64)]] = Field(
        [], max_length=256, examples=[["ICD10:C34.1", "ORPHA:558"]]
    )
    spo2_scale: Literal[1, 2] | None = Field(None, description="NEWS2's SpO2 scale.")


class PutCase(Case):
    """A case on its way into a bed."""

    bed_id: str | None = Field(None, description="Where given, the bed of the path.")


class AdhocCase(Case):
    """A case that lies in no bed."""

    case_id: str = Field("adhoc", min_length=1, max_length=256, pattern=BED_PATTERN)
    admitted_ms: Ms | None = None  # type: ignore[assignment]


class KnownCase(Case):
    """A case with its bed."""

    bed_id: str


class AlertChange(_Open):
    """Who changed an alert, when and why."""

    ms: int
    by: str = Field(examples=["api"])
    action: str = Field(examples=["acknowledge"])
    reason: str | None = None


class Alert(_Open):
    """One alert of a bed."""

    id: str
    bed_id: str
    case_id: str | None
    kind: str = Field(examples=["sepsis"])
    priority: Literal["high", "medium", "low"]
    state: State
    opened_ms: int
    updated_ms: int
    value: float | None
    threshold: float | None
    history: list[AlertChange] = []


class Bed(_Open):
    """A bed as it is now."""

    bed_id: str
    case_id: str | None
    stale: bool = Field(
        description="Nothing arrived for `stale_after_ms`, or the newest event time is older than "
        "that: the scores are not live."
    )
    age_ms: int | None = Field(
        description="Age of the newest observation, the larger of event time and arrival; null "
        "where none was seen."
    )
    prediction: Prediction | None
    open_alerts: int = Field(description="Alerts that are not closed.")


class BedDetail(Bed):
    """A bed with its case and its alerts."""

    case: KnownCase | None
    alerts: list[Alert] = Field(description="Those not closed.")


class BedEvent(_Open):
    """`bed` on the live stream: a bed became stale or live, or its case or alerts changed."""

    bed_id: str
    case_id: str | None
    stale: bool
    age_ms: int | None
    open_alerts: int
    cleared: bool = Field(
        description="There is no prediction of the present case: drop the one before."
    )


class Beds(_Open):
    """All beds."""

    beds: list[Bed]


class Predictions(_Open):
    """A bed's history."""

    predictions: list[Prediction]


class Trends(_Open):
    """A bed's trends."""

    step_s: int
    signals: dict[str, list[Point]] = Field(
        description="Signal to [start of the step in ms, mean, minimum, maximum], ascending.",
        examples=[{"hr": [[1795409000000, 81.2, 78.0, 85.0]]}],
    )


class Alerts(_Open):
    """Alerts, newest first."""

    alerts: list[Alert]


class Accepted(_Open):
    """Published and acknowledged by Kafka."""

    bed_id: str
    case_id: str | None


class Action(_Open):
    """What a person says with what they do."""

    reason: str | None = Field(None, max_length=500, pattern=r"^[^\x00]*$", examples=["seen"])
    minutes: int | None = Field(
        None, ge=1, le=1440, description="Length of a snooze; the ward's limit may be shorter."
    )
    by: str = Field("api", min_length=1, max_length=100, pattern=BED_PATTERN, description="Who.")


class AdhocObservation(_Open):
    """Values measured at one time."""

    ts_ms: Ms
    values: dict[str, float | None] = Field(
        description="Signal to value in its unit: "
        + ", ".join(f"`{s.name}` {s.unit}" for s in SIGNALS)
        + ".",
        max_length=200,
        examples=[{"hr": 112, "map": 58, "lactate": 4.1}],
    )


class AdhocRequest(_Open):
    """A case and its observations, of no bed; nothing of it is kept."""

    case: AdhocCase | None = None
    observations: list[AdhocObservation] = Field(min_length=1, max_length=5000)


class ModelCard(BaseModel):
    """The card that was shipped with the weights, and what is loaded."""

    model_config = ConfigDict(extra="allow")

    loaded: dict[str, Any] = Field(description="Name, version and device in use.")


class Part(_Open):
    """State of one part."""

    ok: bool
    detail: str


class Readiness(_Open):
    """State of each part."""

    status: Literal["ok", "unready"]
    parts: dict[str, Part]


class Liveness(_Open):
    """The process answers."""

    status: Literal["ok"]


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(extra="allow")

    type: str = Field("about:blank", description="`about:blank`: the title says it all.")
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str | None = Field(None, examples=["no such bed"])
    errors: list[dict[str, str]] | None = Field(None, description="Where and what, for 422.")
