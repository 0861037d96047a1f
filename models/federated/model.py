"""The federation's model: parameters as one vector, where it starts, how it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from models import checkpoint
from models.federated import bins, calibrate, lesson
from models.network import RISKS, Network
from models.training.cache import Table

_ROWS: int = 4096


def flat(network: Network) -> NDArray[np.float32]:
    """All parameters in one vector, float32 [parameters]."""
    vector: NDArray[np.float32] = parameters_to_vector(network.parameters()).detach().numpy().copy()
    return vector


def fill(network: Network, vector: NDArray[np.float32]) -> None:
    """Set all parameters. Raises ValueError for a vector of another size."""
    size = sum(p.numel() for p in network.parameters())
    if vector.shape != (size,):
        raise ValueError(f"a vector of {vector.shape} for {size} parameters")
    with torch.no_grad():
        vector_to_parameters(torch.from_numpy(vector.copy()), network.parameters())


def base(weights: Path | None, fresh_seed: int | None) -> tuple[Network, str]:
    """The network that a federation starts from, and its version.

    Args:
        weights: A checkpoint; default: the shipped one. Its typical values are everyone's.
        fresh_seed: Draw the parameters anew instead of going on with the checkpoint's.
    """
    loaded, version = checkpoint.load(weights or checkpoint.SHIPPED)
    network = loaded.network.requires_grad_(True)
    if fresh_seed is not None:
        torch.manual_seed(fresh_seed)
        fill(network, flat(Network(network.config)))
    return network, version


def informed(
    network: Network, vector: NDArray[np.float32], counts: tuple[int, ...]
) -> NDArray[np.float32]:
    """A new start whose risks are as frequent as those that were counted."""
    fill(network, vector)
    with torch.no_grad():
        network.experts.head.bias.copy_(torch.logit(lesson.rates(counts)))
    return flat(network)


def logits_of(network: Network, table: Table) -> NDArray[np.float64]:
    """Logits of every row, float64 [n, R]."""
    return _said(network, table, "logits", len(RISKS))


def shares_of(network: Network, table: Table) -> NDArray[np.float64]:
    """Shares of the experts in every row, float64 [n, N]."""
    return _said(network, table, "share", 4)


def _said(network: Network, table: Table, what: str, width: int) -> NDArray[np.float64]:
    network.eval()
    found = np.zeros((len(table.stay), width))
    with torch.inference_mode():
        for start in range(0, len(found), _ROWS):
            at = np.arange(start, min(start + _ROWS, len(found)))
            found[at] = getattr(network(*lesson.inputs(table, at)), what).double().numpy()
    return found


def federation(weights: Path | None) -> str:
    """What a federation is called: sites of another start take no part in it."""
    _, version = checkpoint.load(weights or checkpoint.SHIPPED)
    return f"vitalstream/{version}"


def save(
    network: Network,
    vector: NDArray[np.float32],
    weights: Path | None,
    path: Path,
    status: dict[str, Any],
    *,
    curves: bins.Curves | None = None,
    spread: bins.Spread | None = None,
) -> None:
    """Write the learnt model: the network alone, since the start's trees saw other hospitals' rows.

    Args:
        network: Of the federation; its buffers are kept.
        vector: What it has learnt.
        weights: What it started from.
        path: Where it goes, the card beside it.
        status: Of the hub; `privacy` in it goes into the card.
        curves: What was counted for the calibration, with the `spread`.
        spread: What was counted for the bounds.
    """
    _, version = checkpoint.load(weights or checkpoint.SHIPPED)
    fill(network, vector)
    model = checkpoint.Calibrated(network.config)
    model.network = network
    card: dict[str, Any] = {
        "federated": {
            "from": version,
            "rounds": status["succeeded"],
            "name": status["federation"],
            "privacy": status.get("privacy", {"unit": None, "epsilon": None}),
        }
    }
    done: list[int] = []
    if curves is not None and spread is not None:
        done = calibrate.apply(model.calibration, curves, spread, sepsis=RISKS.index("sepsis"))
        card["federated"]["calibrated"] = [RISKS[risk] for risk in done]
    if len(done) < len(RISKS):
        missing = ", ".join(name for risk, name in enumerate(RISKS) if risk not in done)
        card["note"] = f"Not calibrated: {missing}. Calibrate before use."
    checkpoint.save(model, path, card)
