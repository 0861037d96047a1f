"""The shipped model's network as a flat vector, taught on one hospital's rows."""

from __future__ import annotations

import secrets
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, vmap

from models.federated import bins, lesson
from models.federated.course import Material
from models.federated.messages import Recipe
from models.federated.model import base, federation, fill, flat, logits_of, save
from models.federated.outgoing import Contribution
from models.federated.rows import ROWS, parts_of, read, rows_of, write
from models.network import RISKS, Network, Said
from models.training import gate
from models.training.cache import Table
from models.training.metrics import gains

__all__ = [
    "BATCH",
    "ROWS",
    "NetworkLearner",
    "base",
    "federation",
    "fill",
    "flat",
    "parts_of",
    "read",
    "rows_of",
    "save",
    "write",
]

BATCH: Final = 512
_STEEPEST: Final = 5.0
"""Bound of a local step's gradient norm."""
_AT_ONCE: Final = 64
"""Stays whose gradients are held side by side."""


class NetworkLearner:
    """What a hospital computes on its rows, from the round's model.

    Args:
        network: Its buffers (typical values, novelty) are the federation's, its parameters are
            overwritten.
        table: This hospital's training rows.
        rate: Learning rate of a round that averages models, where the round says none.
        passes: Passes over the rows in such a round.
        seed: Of order, hiding and dropping.
        held: This hospital's rows for calibration.
    """

    def __init__(
        self,
        network: Network,
        table: Table,
        *,
        rate: float = 1e-3,
        passes: int = 1,
        seed: int = 7,
        held: Table | None = None,
    ) -> None:
        self._network, self._table, self._held = network, table, held
        self._rate, self._passes, self._seed = rate, passes, seed

    def answer(self, recipe: Recipe, material: Material, number: int) -> Contribution:
        """What a round asks for. Raises ValueError for a model of another size."""
        torch.set_num_threads(1)
        model = material.parameters
        nothing = np.zeros(0, np.float32)
        if recipe.kind == "count":
            return Contribution(nothing, lesson.count(self._table))
        if recipe.kind == "average":
            update, rows = self.train(model, number, rate=recipe.rate)
            return Contribution(update, np.array([rows], np.int64))
        if recipe.kind == "gradient":
            if recipe.noise and recipe.unit == "stay":
                return self._bounded(model, recipe)
            return self._gradient(model, recipe, material.counts, number)
        fill(self._network, model)
        self._network.eval()
        held = self._held if self._held is not None else self._table.select(np.zeros(0, np.int64))
        logits = logits_of(self._network, held)
        if recipe.kind == "spread":
            return Contribution(
                nothing, bins.spread(logits, held.labels, held.stay, material.edges)
            )
        sepsis = RISKS.index("sepsis")
        gain = gains(held.labels[:, sepsis], held.hour, held.stay) if len(held.stay) else nothing
        return Contribution(
            bins.gained(logits[:, sepsis], np.asarray(gain, np.float64)),
            bins.count(logits, held.labels, held.stay),
        )

    def train(
        self, model: NDArray[np.float32], number: int, *, rate: float | None = None
    ) -> tuple[NDArray[np.float32], int]:
        """The update after passes of AdamW, and the rows it was learnt from."""
        torch.set_num_threads(1)
        fill(self._network, model)
        rows = len(self._table.stay)
        if not rows:
            raise ValueError("a hospital without rows has nothing to learn from")
        optimiser = torch.optim.AdamW(
            self._network.parameters(), rate or self._rate, weight_decay=0.02
        )
        torch.manual_seed(self._seed * 100_003 + number)
        rng = np.random.default_rng((self._seed, number))
        self._network.train()
        for _ in range(self._passes):
            order = rng.permutation(rows)
            for start in range(0, rows, BATCH):
                at = np.sort(order[start : start + BATCH])
                loss = lesson.loss(self._network, self._table, at)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
                optimiser.step()
        self._network.eval()
        return flat(self._network) - model, rows

    def _gradient(
        self, model: NDArray[np.float32], recipe: Recipe, counts: tuple[int, ...], number: int
    ) -> Contribution:
        """The mean gradient, negative, of local steps over this round's share of the rows."""
        rows = self._drawn(recipe.share, number)
        weight = lesson.balance(counts) if counts else None
        fill(self._network, model)
        torch.manual_seed(self._seed * 100_003 + number)
        self._network.train()
        steps = max(1, round(len(rows) / recipe.batch))
        parameters = list(self._network.parameters())
        total = torch.zeros(len(model))
        for part in np.array_split(rows, steps) if len(rows) else ():
            self._network.zero_grad()
            lesson.loss(self._network, self._table, np.sort(part), weight).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, _STEEPEST)
            # Not of the rows: what they say is not to be cut for it, nor a private update's bound
            # to be spent on it.
            if not recipe.noise:
                lesson.restraint(self._network).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for parameter in parameters:
                    if parameter.grad is not None:
                        parameter.sub_(recipe.rate * parameter.grad)
                total -= torch.cat([_or_zero(p).reshape(-1) for p in parameters])
        self._network.eval()
        return Contribution((total / steps).numpy(), np.array([len(rows)], np.int64))

    def _drawn(self, share: float, number: int) -> NDArray[np.int64]:
        """This round's rows: all are taken once before any is taken again."""
        of_pass = max(1, round(1 / share))
        turn, place = divmod(number, of_pass)
        order = np.random.default_rng((self._seed, turn)).permutation(len(self._table.stay))
        start, end = (round(at * len(order) / of_pass) for at in (place, place + 1))
        return order[start:end]

    def _bounded(self, model: NDArray[np.float32], recipe: Recipe) -> Contribution:
        """The sum of stays' gradients, negative, each bounded; each stay is drawn by chance."""
        fill(self._network, model)
        self._network.train()
        rng = np.random.default_rng(secrets.randbits(128))
        _, first, count = np.unique(self._table.stay, return_index=True, return_counts=True)
        taken = rng.random(len(first)) < recipe.share
        by_stay = np.argsort(self._table.stay, kind="stable")
        start = np.concatenate([[0], np.cumsum(count)[:-1]]).astype(np.int64)
        # One row speaks for its stay.
        at = by_stay[start[taken] + (rng.random(int(taken.sum())) * count[taken]).astype(np.int64)]
        torch.manual_seed(secrets.randbits(62))
        parameters = {name: p.detach() for name, p in self._network.named_parameters()}
        buffers = dict(self._network.named_buffers())

        def lost(own: dict[str, Tensor], *row: Tensor) -> Tensor:
            signals, minutes, case, *labels = (x.unsqueeze(0) for x in row)
            said: Said = functional_call(self._network, (own, buffers), (signals, minutes, case))
            return lesson.sums(said, *labels)[0].sum()

        each = vmap(grad(lost), in_dims=(None, *(0,) * 6))
        total = torch.zeros(len(model))
        for begin in range(0, len(at), _AT_ONCE):
            some = at[begin : begin + _AT_ONCE]
            given = lesson.disturbed(self._network, lesson.inputs(self._table, some))
            label = torch.from_numpy(self._table.labels[some].astype(np.float32))
            found = each(parameters, *given, label, *gate.told(self._table, some))
            steep = torch.cat([found[name].reshape(len(some), -1) for name in parameters], 1)
            bound = (recipe.norm / steep.norm(dim=1).clamp(1e-12)).clamp(max=1.0)
            total -= bound @ steep
        self._network.eval()
        return Contribution(total.numpy(), np.array([len(at)], np.int64))


def _or_zero(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
