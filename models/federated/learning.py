"""The shipped model's network as a flat vector, trained on one hospital's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from models import checkpoint
from models.network import Network
from models.training import fit
from models.training.cache import SETS, Table, build, folder_of
from models.training.evaluate import part, without_outcome

BATCH: Final = 512
ROWS: Final = "rows.npz"


def flat(network: Network) -> NDArray[np.float32]:
    """All parameters in one vector, float32 [parameters]."""
    vector: NDArray[np.float32] = parameters_to_vector(network.parameters()).detach().numpy().copy()
    return vector


def fill(network: Network, vector: NDArray[np.float32]) -> None:
    """Set all parameters. Raises ValueError for a vector of another size."""
    size = sum(p.numel() for p in network.parameters())
    if vector.shape != (size,):
        raise ValueError(f"a vector of {vector.shape} for {size} parameters")
    vector_to_parameters(torch.from_numpy(vector.copy()), network.parameters())


class NetworkLearner:
    """Local passes of AdamW over a hospital's rows, from the round's model.

    Args:
        network: Its buffers (typical values, novelty) are the federation's, its parameters are
            overwritten.
        table: This hospital's training rows.
        rate: Learning rate.
        passes: Passes over the rows in a round.
        seed: Of order, hiding and dropping.
    """

    def __init__(
        self, network: Network, table: Table, *, rate: float, passes: int = 1, seed: int = 7
    ) -> None:
        self._network, self._table = network, table
        self._rate, self._passes, self._seed = rate, passes, seed

    def train(self, model: NDArray[np.float32], number: int) -> tuple[NDArray[np.float32], int]:
        """The update after the passes, and the rows it was learnt from."""
        torch.set_num_threads(1)
        fill(self._network, model)
        rows = len(self._table.stay)
        if not rows:
            raise ValueError("a hospital without rows has nothing to learn from")
        optimiser = torch.optim.AdamW(self._network.parameters(), self._rate, weight_decay=0.02)
        torch.manual_seed(self._seed * 100_003 + number)
        rng = np.random.default_rng((self._seed, number))
        self._network.train()
        for _ in range(self._passes):
            order = rng.permutation(rows)
            for start in range(0, rows, BATCH):
                at = np.sort(order[start : start + BATCH])
                loss = fit._loss(self._network, self._table, at)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
                optimiser.step()
        self._network.eval()
        return flat(self._network) - model, rows


def base(weights: Path | None, fresh_seed: int | None) -> tuple[Network, str]:
    """The network that a federation starts from, and its version.

    Args:
        weights: A checkpoint; default: the shipped one. Its typical values are everyone's.
        fresh_seed: Draw the parameters anew instead of going on with the checkpoint's.
    """
    loaded, version = checkpoint.load(weights or checkpoint.SHIPPED)
    network = loaded.network
    if fresh_seed is not None:
        torch.manual_seed(fresh_seed)
        fill(network, flat(Network(network.config)))
    return network, version


def rows_of(data: Path, cache: Path, network: Network) -> Table:
    """A hospital's training rows: `rows.npz` where it made them itself, else its recorded sets.

    Raises:
        ValueError: The folder has neither.
    """
    if (data / ROWS).exists():
        return read(data / ROWS)
    sets = tuple(name for name in SETS if folder_of(data, name).is_dir())
    if not sets:
        raise ValueError(f"{data} has neither {ROWS} nor a recorded set")
    table = build(data, cache, sets, None, network.features, 7, fit_typical=False)
    return without_outcome(part(table, "train"))


def write(path: Path, table: Table) -> None:
    """Keep rows as a file of arrays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, **{name: getattr(table, name) for name in Table.__slots__})


def read(path: Path) -> Table:
    """Rows of `write`."""
    with np.load(path) as found:
        return Table(**{name: found[name] for name in Table.__slots__})


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
) -> None:
    """Write the learnt model; calibration and thresholds are still those of the start."""
    loaded, version = checkpoint.load(weights or checkpoint.SHIPPED)
    fill(network, vector)
    loaded.network = network
    card = {
        "federated": {"from": version, "rounds": status["succeeded"], "name": status["federation"]},
        "note": "Calibration and thresholds are those of the start: calibrate before use.",
    }
    checkpoint.save(loaded, path, card)
