"""Gradient compression for slow links: a DDP communication hook that sends the largest entries
only.

Top-K with momentum correction, local gradient clipping and warm-up, after Lin et al., "Deep
Gradient Compression" (ICLR 2018, arXiv 1712.01887). Momentum lives in the hook: train with plain
SGD (momentum 0). What is not sent, for its rank or for the rounding of its code, is kept and sent
later, per parameter, so that it survives checkpoints and DDP's rebuilding of buckets.

What is kept are updates, at the learning rate of the step that made them (Karimireddy et al.,
arXiv 1901.09847): at a thousandth an entry waits for hundreds of steps, and a rate that falls
meanwhile would take from what it is due. So what was sent and what is kept are together what dense
training with momentum would have done with these gradients. `sparse_code` says what an entry is on
the wire.
"""

# No postponed annotations here: DDP compares the hook's annotation of `bucket` by identity.
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models import ops
from models.parallel.sparse_code import (
    ValueBits,
    rice_decode,
    rice_encode,
    values_bytes,
    values_decode,
    values_encode,
)


@dataclass(frozen=True, kw_only=True)
class TopKConfig:
    """How gradients are thinned out.

    Attributes:
        ratio: Share of the entries that is sent, in (0, 1].
        momentum: Momentum factor, in [0, 1).
        clip_norm: Bound of the averaged gradient's norm. Each rank clips its own at this times the
            square root of the world size: the mean of as many independent gradients is that much
            shorter. Of each bucket by itself, where a model has several. None clips nothing.
        warmup_steps: Steps over which the ratio falls exponentially from `warmup_ratio` to `ratio`.
        warmup_ratio: Share that the first step sends.
        value_bits: Of an entry's value on the wire: 8, in equal ratios, or 16, bfloat16.
        masking: Forget the momentum of what was sent (section 3.3). It guards against momentum that
            is stale, but slows down the entries that are sent most: up to 1 / (1 - momentum) times.
    """

    ratio: float = 0.001
    momentum: float = 0.9
    clip_norm: float | None = None
    warmup_steps: int = 0
    warmup_ratio: float = 0.25
    value_bits: ValueBits = 8
    masking: bool = False

    def __post_init__(self) -> None:
        for name in ("ratio", "warmup_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], not {getattr(self, name)}")
        if self.value_bits not in (8, 16):
            raise ValueError(f"value_bits must be 8 or 16, not {self.value_bits}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), not {self.momentum}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be positive, not {self.clip_norm}")

    def ratio_at(self, step: int) -> float:
        """Share that a step sends; steps count from 0."""
        if step >= self.warmup_steps:
            return self.ratio
        left = 1 - step / self.warmup_steps
        return float(self.ratio * (self.warmup_ratio / self.ratio) ** left)


@dataclass(slots=True)
class _Memory:
    """What one parameter has not sent yet: its velocity and its accumulated updates, flat."""

    velocity: Tensor
    residual: Tensor


class TopKState:
    """State of `topk_hook`: memory for each parameter, steps, and the bytes that went out.

    Args:
        named_parameters: The model's, so that the state can be saved by name.
        config: How gradients are thinned out.
        group: The ranks; None for the default group.
        optimiser: What takes the steps, whose learning rate may change; its rates must be positive.
            Default: the rate is taken to stay as it is.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        config: TopKConfig | None = None,
        group: dist.ProcessGroup | None = None,
        optimiser: torch.optim.Optimizer | None = None,
    ) -> None:
        self.config = config or TopKConfig()
        self.group = group
        self.step = 0
        self.sent_bytes = 0
        self.dense_bytes = 0
        self._parameters = dict(named_parameters)
        self._names = {parameter: name for name, parameter in self._parameters.items()}
        self._memory: dict[str, _Memory] = {}
        groups = [] if optimiser is None else optimiser.param_groups
        self._groups = {self._names[p]: one for one in groups for p in one["params"]}

    def rate(self, parameter: nn.Parameter) -> float:
        """Learning rate of the step to come; 1 where there is no optimiser.

        Raises:
            ValueError: It is not positive: nothing could be sent and later made good.
        """
        group = self._groups.get(self._names[parameter])
        rate = 1.0 if group is None else float(group["lr"])
        if rate <= 0:
            raise ValueError(f"thinned-out gradients need a positive learning rate, not {rate}")
        return rate

    def memory(self, parameter: nn.Parameter) -> _Memory:
        """What the parameter has not sent yet."""
        name = self._names[parameter]
        if name not in self._memory:
            flat = torch.zeros(parameter.numel(), dtype=torch.float32, device=parameter.device)
            self._memory[name] = _Memory(flat, flat.clone())
        return self._memory[name]

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs to go on as if it had not stopped; each rank's
        is its own.
        """
        return {
            "step": self.step,
            "memory": {
                n: {"velocity": m.velocity, "residual": m.residual} for n, m in self._memory.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state.

        Raises:
            ValueError: A parameter that this model lacks, or one of another size.
        """
        memory = {}
        for name, kept in state["memory"].items():
            parameter = self._parameters.get(name)
            if parameter is None or parameter.numel() != kept["residual"].numel():
                raise ValueError(f"the saved state of {name!r} does not fit this model")
            memory[name] = _Memory(
                kept["velocity"].to(parameter.device, torch.float32).clone(),
                kept["residual"].to(parameter.device, torch.float32).clone(),
            )
        self.step, self._memory = int(state["step"]), memory


def topk_hook(
    state: TopKState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """DDP communication hook: `ddp.register_comm_hook(TopKState(...), topk_hook)`."""
    world = dist.get_world_size(state.group)
    buffer = bucket.buffer()
    parameters = list(bucket.parameters())
    rates = [state.rate(parameter) for parameter in parameters]
    message, count = thin(state, parameters, buffer.detach(), world)
    state.sent_bytes += message.numel() * (world - 1)
    state.dense_bytes += 2 * (world - 1) * buffer.numel() * buffer.element_size() // world
    if bucket.is_last():
        state.step += 1
    # Straight to each rank: as many bytes as round a ring, and half of gloo's headers.
    arrived = message.new_empty(world * message.numel())
    work = dist.all_to_all_single(arrived, message.repeat(world), group=state.group, async_op=True)
    assert work is not None  # only a process outside the group gets none
    bits, sizes = state.config.value_bits, [parameter.numel() for parameter in parameters]

    # Runs on gloo's own thread, which lets go of it last: were the group in its closure, a group
    # that ends just then would be taken down by the thread that it has to wait for, an abort.
    def gather(_: torch.futures.Future[Any]) -> Tensor:
        total = summed(list(arrived.view(world, -1)), count, buffer.numel(), bits)
        # Updates that are due, as the gradient of which the optimiser makes them.
        for part, rate in zip(torch.split(total, sizes), rates, strict=True):
            part.div_(world * rate)
        return total.to(buffer.dtype)

    future: torch.futures.Future[Tensor] = work.get_future().then(gather)
    return future


def thin(
    state: TopKState, parameters: Sequence[nn.Parameter], gradient: Tensor, world: int
) -> tuple[Tensor, int]:
    """What one rank sends of a step, uint8, and how many entries that are; the rest is kept.

    Args:
        state: The rank's.
        parameters: Those that the gradient is of.
        gradient: The rank's own, flat.
        world: How many ranks there are.
    """
    config, gradient = state.config, gradient.to(torch.float32)
    memories = [state.memory(parameter) for parameter in parameters]
    sizes = [parameter.numel() for parameter in parameters]
    if config.clip_norm is not None:
        # Section 3.2, whose gradients are shares of the mean: 1 / world of what is held here.
        norm = torch.linalg.vector_norm(gradient)
        gradient = gradient * torch.clamp(config.clip_norm * world**0.5 / (norm + 1e-12), max=1.0)
    for memory, part, parameter in zip(
        memories, torch.split(gradient, sizes), parameters, strict=True
    ):
        memory.velocity.mul_(config.momentum).add_(part)
        memory.residual.add_(memory.velocity, alpha=state.rate(parameter))
    residual = torch.cat([memory.residual for memory in memories])
    count = max(1, round(residual.numel() * config.ratio_at(state.step)))
    chosen = largest(residual, count)
    values = values_encode(residual[chosen], config.value_bits)
    # What rounding loses stays behind.
    residual[chosen] -= values_decode(values, config.value_bits)
    for memory, kept in zip(memories, torch.split(residual, sizes), strict=True):
        memory.residual.copy_(kept)
    if config.masking:
        sent = torch.zeros(residual.numel(), dtype=torch.bool, device=residual.device)
        sent[chosen] = True
        for memory, mask in zip(memories, torch.split(sent, sizes), strict=True):
            memory.velocity.masked_fill_(mask, 0)
    code = torch.from_numpy(rice_encode(chosen.cpu().numpy(), residual.numel())).to(values.device)
    return torch.cat([values, code]), count


def summed(messages: Sequence[Tensor], count: int, entries: int, bits: ValueBits) -> Tensor:
    """The sum of what ranks have sent of a step, float32[entries]."""
    total = torch.zeros(entries, dtype=torch.float32, device=messages[0].device)
    end = values_bytes(count, bits)
    for one in messages:
        indices = rice_decode(one[end:].cpu().numpy(), count, entries)
        total.index_add_(
            0, torch.from_numpy(indices).to(total.device), values_decode(one[:end], bits)
        )
    return total


def largest(x: Tensor, count: int) -> Tensor:
    """Ascending places of the `count` entries of largest magnitude of a flat float32 tensor.

    On a device with a kernel, `ops.topk_indices`. Otherwise blocks first: `count` blocks whose
    largest entry is at least some size hold `count` entries at least as large, so that only a few
    entries are left to be ranked.
    """
    if x.is_cuda and ops.runs_on(x.device):
        chosen: Tensor = ops.topk_indices(x, count)
        return chosen
    size = x.abs()
    width = x.numel() // (8 * count)
    if width > 1:
        peaks = size[: x.numel() // width * width].view(-1, width).amax(1)
        left = (size >= peaks.topk(count, sorted=False).values.min()).nonzero()[:, 0]
        if left.numel() >= count:  # fewer where there are NaN
            return left[size[left].topk(count, sorted=False).indices].sort().values
    return size.topk(count, sorted=False).indices.sort().values
