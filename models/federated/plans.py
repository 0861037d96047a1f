"""A plan of what an operator chooses."""

from __future__ import annotations

from typing import Final

from models.federated.course import Plan
from models.federated.lesson import COUNTS
from models.federated.messages import Recipe
from models.federated.strategy import RATES, Strategy
from models.network import RISKS

_LOCAL: Final = {"average": 1e-3, "gradient": 0.02}
_MANY: Final = 1000.0
"""Bound of an entry of a sum of stays, in bounds of one stay: what no sum of a round reaches."""


def plan_of(
    federation: str,
    *,
    rounds: int,
    strategy: str = "fedadamw",
    rate: float | None = None,
    share: float = 0.05,
    local_rate: float | None = None,
    batch: int = 512,
    keep: float = 1.0,
    bits: int = 31,
    clip: float = 1.0,
    max_weight: int = 100_000,
    threshold: int = 0,
    private: str = "no",
    norm: float = 1.0,
    noise: float = 1.0,
    calibrate: bool = True,
    gather_s: float = 600.0,
    phase_s: float = 60.0,
) -> Plan:
    """The plan of a federation of the shipped network; the options are those of `federate serve`.

    Raises:
        ValueError: An option is not possible.
    """
    if private not in ("no", "hospital", "stay"):
        raise ValueError(f"private must be no, hospital or stay, not {private}")
    hidden = private != "no"
    if strategy not in RATES:
        raise ValueError(f"strategy must be one of {', '.join(RATES)}, not {strategy}")
    averaged = strategy == "fedavg"
    if averaged and private == "stay":
        raise ValueError("stays are hidden in gradients: use fedadamw or fedadam")
    recipe = Recipe(
        kind="average" if averaged else "gradient",
        share=1.0 if averaged else share,
        rate=local_rate or _LOCAL["average" if averaged else "gradient"],
        batch=batch,
        norm=norm if hidden else 0.0,
        noise=noise if hidden else 0.0,
        unit="stay" if private == "stay" else "hospital",
    )
    if hidden:
        clip = norm * (_MANY if private == "stay" else 1.0)
    return Plan(
        federation=federation,
        rounds=rounds,
        bits=bits,  # type: ignore[arg-type]
        clip=clip,
        max_weight=max_weight,
        threshold=threshold,
        gather_s=gather_s,
        phase_s=phase_s,
        strategy=Strategy(
            name=strategy,
            rate=rate if rate is not None else RATES[strategy],
            tau=1e-8 if strategy == "fedadamw" else 1e-3,
        ),
        recipe=recipe,
        counts=0 if averaged or hidden else COUNTS,
        keep=keep,
        risks=len(RISKS) if calibrate and not hidden else 0,
    )
