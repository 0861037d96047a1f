"""The network with its specialists spread over ranks: the gate and the general expert everywhere.

A specialist owns its part of the first layer too, most of its weights. So features travel, and what
it adds to the general expert's logits comes back: the bytes of a case stay the same, however wide
the specialists become.

Axes: B rows, X flat features, N specialists, R risks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from models.features import SLOW
from models.mixture import Bank, Dispatch, Mixture
from models.moe import EXPERTS, shares
from models.network import RISKS, Network, Said, flat
from models.parallel.experts import AllToAllDispatch, LocalDispatch, owned

SPECIALISTS: Final = len(EXPERTS) - 1


class Specialist(nn.Module):
    """One of the experts beside the general one.

    Args:
        features: X.
        widths: Units of its two hidden layers.
        outputs: R.
    """

    def __init__(self, features: int, widths: tuple[int, int], outputs: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(features, widths[0]) / features**0.5)
        self.first_bias = nn.Parameter(torch.zeros(widths[0]))
        self.body = nn.Parameter(torch.randn(*widths) / widths[0] ** 0.5)
        self.body_bias = nn.Parameter(torch.zeros(widths[1]))
        self.head = nn.Parameter(0.1 * torch.randn(widths[1], outputs) / widths[1] ** 0.5)

    def forward(self, rows: Tensor) -> Tensor:
        """What it adds to the general expert's logits, [n, R], of features [n, X]."""
        inner = silu(torch.addmm(self.first_bias, rows, self.first))
        return silu(torch.addmm(self.body_bias, inner, self.body)) @ self.head


class SplitNetwork(nn.Module):
    """A network whose specialists lie in a bank; says of a row what `models.network.Network` says.

    Where fewer than all specialists answer a row, the shares of the others are the general
    expert's.

    Args:
        network: What it is made from; its tensors are copied.
        dispatch: How rows come to specialists.
        held: Numbers of the specialists that are here.
        group: The ranks that hold all of them; None for this process alone.
        top: How many answer a row; default: all, as in the shipped network.
    """

    absent_D: Tensor

    def __init__(
        self,
        network: Network,
        dispatch: Dispatch,
        held: range,
        group: dist.ProcessGroup | None = None,
        top: int | None = None,
    ) -> None:
        super().__init__()
        self.config, self.group, self.top = network.config, group, top
        self.features, self.novelty = deepcopy(network.features), deepcopy(network.novelty)
        self.gate = deepcopy(network.gate)
        self.body, self.head = deepcopy(network.experts.body), deepcopy(network.experts.head)
        with torch.no_grad():
            first, bias = _first(network), network.bias
            self.first = nn.Parameter(first[:, : self.config.general[0]].clone())
            self.first_bias = nn.Parameter(bias[: self.config.general[0]].clone())
            here = [_taken(network, number) for number in held]
        bank = Bank(here, len(RISKS), first=held.start, count=SPECIALISTS)
        self.mixture = Mixture(bank, dispatch, top)
        self.register_buffer("absent_D", network.absent_D.clone(), persistent=False)

    def forward(self, signals: Tensor, minutes: Tensor, case: Tensor) -> Said:
        """Logits of features [B, S, D], [B, V, E] and [B, F]; a collective over the group.

        The answer's `hidden` are the general expert's units alone.
        """
        rows = flat(signals, minutes, case)
        hidden = torch.addmm(self.first_bias, rows, self.first)
        common = self._common(hidden)
        novelty, strange = self.novelty(signals)
        slow = torch.cat([signals[:, :, list(SLOW)].flatten(1), case], 1)
        gate = self.gate(slow, strange)
        share = shares(gate)
        logits = common + self.mixture(rows, share[:, 1:])
        return Said(logits, gate, routed(share, self.mixture.top), novelty, strange, hidden)

    def general(self, rows: Tensor) -> Tensor:
        """The general expert's logits [n, R] of features [n, X]."""
        return self._common(torch.addmm(self.first_bias, rows, self.first))

    def _common(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.head(silu(self.body(silu(hidden))))
        return logits

    def replicated(self) -> Iterator[nn.Parameter]:
        """Parameters that every rank holds a copy of."""
        own = {id(p) for p in self.mixture.bank.parameters()}
        return (p for p in self.parameters() if id(p) not in own)

    def sum_gradients(self) -> None:
        """Add the ranks' gradients of what every rank holds; a specialist's is whole already."""
        if self.group is not None:
            add_gradients(self.replicated(), self.group)

    def clip_gradients(self, most: float) -> Tensor:
        """Scale the gradient so that its norm, over all ranks' specialists, is at most this.

        Returns:
            The norm before.
        """
        own = list(self.mixture.bank.parameters())
        square = _square(own, self.first)
        if self.group is not None:
            dist.all_reduce(square, group=self.group)
        norm = (square + _square(self.replicated(), self.first)).sqrt()
        factor = (most / (norm + 1e-6)).clamp(max=1.0)
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        return norm

    @torch.no_grad()
    def whole(self) -> Network:
        """The network with all specialists, on every rank; a collective over the group."""
        network = Network(self.config).to(self.first.device)
        network.features.load_state_dict(self.features.state_dict())
        network.novelty.load_state_dict(self.novelty.state_dict())
        network.gate.load_state_dict(self.gate.state_dict())
        network.experts.body.load_state_dict(self.body.state_dict())
        network.experts.head.load_state_dict(self.head.state_dict())
        first, bias = _first(network), network.bias
        first[:, : self.config.general[0]] = self.first
        bias[: self.config.general[0]] = self.first_bias
        bank = self.mixture.bank
        for number in range(SPECIALISTS):
            held = number in bank.held
            one = bank.experts[number - bank.first] if held else _taken(network, number)
            if self.group is not None:
                owner = _owner(number, dist.get_world_size(self.group))
                vector = parameters_to_vector(one.parameters())
                dist.broadcast(vector, group=self.group, group_src=owner)
                vector_to_parameters(vector, one.parameters())
            assert isinstance(one, Specialist)
            _put(network, number, one, first)
        sizes = (len(network.of_signals) * network.of_signals.shape[1], len(network.of_case))
        signals, minutes, case = torch.split(first, [sizes[0], len(first) - sum(sizes), sizes[1]])
        network.of_signals.copy_(signals.view_as(network.of_signals))
        network.of_minutes.copy_(minutes.view_as(network.of_minutes))
        network.of_case.copy_(case)
        return network.train(self.training)


def expert_parallel(
    network: Network,
    group: dist.ProcessGroup | None = None,
    *,
    top: int | None = None,
    wire: torch.dtype | None = None,
) -> SplitNetwork:
    """The same network with its specialists spread over the ranks; a collective.

    Every rank gives the same network and keeps what `models.parallel.experts.owned` says. Where no
    process group was made, all specialists stay here.

    To train: each rank runs its own rows, the loss is a sum over all ranks' rows, then
    `sum_gradients`. `whole` makes a plain network of it.

    Args:
        network: The whole network.
        group: The ranks; None for all of them.
        top: How many specialists answer a row; default: all, as in the shipped network.
        wire: See `AllToAllDispatch`.
    """
    if not dist.is_initialized():
        return SplitNetwork(network, LocalDispatch(), range(SPECIALISTS), None, top)
    ranks = dist.group.WORLD if group is None else group
    held = owned(SPECIALISTS, dist.get_world_size(ranks), dist.get_rank(ranks))
    return SplitNetwork(network, AllToAllDispatch(ranks, wire=wire), held, ranks, top)


def add_gradients(parameters: Iterable[nn.Parameter], group: dist.ProcessGroup) -> None:
    """Sums of the gradients over the ranks, in one reduction; a missing one counts as zero.

    What is kept as it is has none, and is given none: a zero would let it decay.
    """
    own = [one for one in parameters if one.requires_grad]
    for one in own:
        if one.grad is None:
            one.grad = torch.zeros_like(one)
    total = torch.cat([p.grad.reshape(-1) for p in own if p.grad is not None])
    dist.all_reduce(total, group=group)
    for one, part in zip(own, torch.split(total, [p.numel() for p in own]), strict=True):
        assert one.grad is not None
        one.grad.copy_(part.view_as(one))


def routed(share: Tensor, top: int) -> Tensor:
    """Shares [B, 1 + N] as they count where `top` specialists answer; they sum to 1 as before."""
    others = share[:, 1:]
    # As the mixture chooses: of equal shares the lower number.
    chosen = others.sort(dim=1, descending=True, stable=True).indices[:, :top]
    kept = others * torch.zeros_like(others).scatter(1, chosen, 1.0)
    rest = (others - kept).sum(1, keepdim=True)
    return torch.cat([share[:, :1] + rest, kept], 1)


def _owner(number: int, world: int) -> int:
    return next(rank for rank in range(world) if number in owned(SPECIALISTS, world, rank))


def _square(parameters: Iterable[nn.Parameter], like: Tensor) -> Tensor:
    total = torch.zeros((), device=like.device)
    for one in parameters:
        if one.grad is not None:
            total += one.grad.detach().square().sum()
    return total


def _first(network: Network) -> Tensor:
    """The first layer of all experts as one matrix [X, H], detached."""
    width = network.experts.width
    parts = (network.of_signals, network.of_minutes, network.of_case)
    return torch.cat([part.detach().reshape(-1, width) for part in parts])


def _places(network: Network, number: int) -> slice:
    """Columns of a specialist's units in the first layer."""
    general, special = network.config.general[0], network.config.special[0]
    return slice(general + number * special, general + (number + 1) * special)


def _taken(network: Network, number: int) -> Specialist:
    """A specialist of the network by itself."""
    first, at, experts = _first(network), _places(network, number), network.experts
    one = Specialist(len(first), network.config.special, len(RISKS)).to(first.device)
    one.first.copy_(first[:, at])
    one.first_bias.copy_(network.bias[at])
    one.body.copy_(experts.bodies[number])
    one.body_bias.copy_(experts.body_bias[number, 0])
    one.head.copy_(experts.heads[number])
    return one


def _put(network: Network, number: int, one: Specialist, first: Tensor) -> None:
    """A specialist into the network; its first layer into the matrix of all."""
    at, experts = _places(network, number), network.experts
    first[:, at] = one.first
    network.bias[at] = one.first_bias
    experts.bodies[number] = one.body
    experts.body_bias[number, 0] = one.body_bias
    experts.heads[number] = one.head
