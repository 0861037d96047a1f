"""Which way ranks talk: the one place that chooses a backend, says why, and makes the group.

NCCL with registered symmetric memory where all devices share NVLink, NCCL where every rank has a
device of its own, gloo otherwise. What each rank sees of its machine is exchanged first, so that
all of them choose alike. Nothing here reads or writes the environment: what NCCL takes from there
is given back by `nccl_environment` for whoever starts the ranks.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

import structlog
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

log = structlog.get_logger(__name__)

Backend = Literal["nccl-symmetric", "nccl", "gloo"]
PLUGIN: Final = "vitalstream"
"""Name by which NCCL knows the encrypted network plug-in of `cuda/nccl_net`."""
_SYMMETRIC_SINCE: Final = (2, 27)
_PLUGIN_SINCE: Final = (2, 24)


class NotEncrypted(RuntimeError):
    """Encryption was asked for and this way of talking cannot give it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one rank sees of its machine.

    Attributes:
        host: The machine's name.
        device: Where this rank's tensors live, "cpu" or "cuda".
        uuid: Of the rank's CUDA device; empty on the CPU.
        nccl: Version of torch's NCCL; None where torch has none.
        registers: Whether torch can register a memory pool as symmetric.
        nvlink: UUIDs of the devices that this one reaches over NVLink; None where it is unknown.
    """

    host: str
    device: Literal["cpu", "cuda"]
    uuid: str = ""
    nccl: tuple[int, ...] | None = None
    registers: bool = False
    nvlink: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The way that was chosen.

    Attributes:
        backend: Its name.
        reasons: Why this one, and why none that would be faster: a sentence each.
        encrypted: Whether what leaves a host is encrypted, by the plug-in.
    """

    backend: Backend
    reasons: tuple[str, ...]
    encrypted: bool = False

    @property
    def process_group(self) -> str:
        """The name that torch knows it by."""
        return "gloo" if self.backend == "gloo" else "nccl"

    def __str__(self) -> str:
        return f"{self.backend}{', encrypted' if self.encrypted else ''}: {'; '.join(self.reasons)}"


def probe(device: torch.device | str) -> Facts:
    """Look at this rank's machine; never fails for want of a device.

    Args:
        device: Where the rank's tensors live, with the index on CUDA.
    """
    place = torch.device(device)
    if place.type != "cuda":
        return Facts(host=platform.node(), device="cpu")
    uuid = str(torch.cuda.get_device_properties(place).uuid)
    has_nccl = dist.is_nccl_available()
    return Facts(
        host=platform.node(),
        device="cuda",
        uuid=uuid,
        nccl=_nccl_version() if has_nccl else None,
        registers=has_nccl and hasattr(dist.ProcessGroupNCCL, "register_mem_pool"),
        nvlink=_nvlink_peers(uuid),
    )


def _nccl_version() -> tuple[int, ...]:
    nccl: Any = torch.cuda.nccl
    return tuple(nccl.version())


def _nvlink_peers(uuid: str) -> tuple[str, ...] | None:
    """UUIDs of this machine's devices that a device reaches over NVLink, as the driver says."""
    try:
        nvml: Any = import_module("cuda.bindings.nvml")  # comes with torch's CUDA builds alone
    except ImportError as error:
        log.info("no word about NVLink", why=str(error))
        return None
    try:
        nvml.init_v2()
    except (RuntimeError, nvml.NvmlError) as error:  # no driver, or one that does not answer
        log.info("no word about NVLink", why=str(error))
        return None
    try:
        own = nvml.device_get_handle_by_uuid(f"GPU-{uuid.removeprefix('GPU-')}")
        peers = []
        for index in range(nvml.device_get_count_v2()):
            other = nvml.device_get_handle_by_index_v2(index)
            name = nvml.device_get_uuid(other).removeprefix("GPU-")
            if name != uuid.removeprefix("GPU-"):
                status = nvml.device_get_p2p_status(own, other, nvml.GpuP2PCapsIndex.NVLINK)
                if status == nvml.GpuP2PStatus.P2P_STATUS_OK:
                    peers.append(name)
        return tuple(sorted(peers))
    except nvml.NvmlError as error:
        log.info("no word about NVLink", why=str(error))
        return None
    finally:
        nvml.shutdown()


def choose(ranks: Sequence[Facts], *, encrypt: bool = False) -> Choice:
    """Choose from what all ranks see; the same facts give the same choice everywhere.

    Args:
        ranks: Every rank's facts, in order of the ranks.
        encrypt: Whether what leaves a host has to be encrypted.

    Raises:
        NotEncrypted: It has to be, and cannot.
        ValueError: No ranks.
    """
    if not ranks:
        raise ValueError("there are no ranks to choose for")
    hosts = {rank.host for rank in ranks}
    why_not = _why_not_nccl(ranks)
    if why_not is not None:
        if encrypt and len(hosts) > 1:
            raise NotEncrypted(f"gloo sends in the clear, and NCCL cannot be used: {why_not}")
        return Choice(backend="gloo", reasons=(why_not,))
    version = min(rank.nccl or (0,) for rank in ranks)
    encrypted = encrypt and len(hosts) > 1
    if encrypted and version < _PLUGIN_SINCE:
        raise NotEncrypted(f"NCCL {_dotted(version)} is older than 2.24, which the plug-in needs")
    reasons = ["every rank has a CUDA device of its own"]
    why_not = _why_not_symmetric(ranks, version)
    if encrypted:
        reasons.append(f"what goes between {len(hosts)} hosts is encrypted by {PLUGIN}")
    if why_not is not None:
        return Choice(backend="nccl", reasons=(*reasons, why_not), encrypted=encrypted)
    reasons.append("all devices share NVLink")
    return Choice(backend="nccl-symmetric", reasons=tuple(reasons))


def _why_not_nccl(ranks: Sequence[Facts]) -> str | None:
    on_cpu = sum(rank.device == "cpu" for rank in ranks)
    if on_cpu:
        return f"{on_cpu} of {len(ranks)} ranks have their tensors on the CPU"
    if any(rank.nccl is None for rank in ranks):
        return "this torch is built without NCCL"
    devices = {(rank.host, rank.uuid) for rank in ranks}
    if len(devices) < len(ranks):
        # gloo then has collectives for CUDA tensors, and neither send, receive nor barrier.
        return f"{len(ranks)} ranks share {len(devices)} devices, which NCCL refuses"
    return None


def _why_not_symmetric(ranks: Sequence[Facts], version: tuple[int, ...]) -> str | None:
    if len(ranks) == 1:
        return "one rank alone has nobody to share memory with"
    if len({rank.host for rank in ranks}) > 1:
        return "the ranks are on several hosts, which are taken to share no NVLink"
    if version < _SYMMETRIC_SINCE:
        return f"NCCL {_dotted(version)} is older than 2.27: no symmetric memory"
    if not all(rank.registers for rank in ranks):
        return "this torch cannot register a memory pool"
    if any(rank.nvlink is None for rank in ranks):
        return "the driver does not say which devices share NVLink"
    plain = {rank.uuid.removeprefix("GPU-") for rank in ranks}
    for rank in ranks:
        own = rank.uuid.removeprefix("GPU-")
        if not plain - {own} <= {peer.removeprefix("GPU-") for peer in rank.nvlink or ()}:
            return "not all devices share NVLink"
    return None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def nccl_environment(
    *,
    library: Path,
    key_file: Path,
    streams: int = 4,
    interface: str = "",
    device_memory: bool = False,
    wide: bool = True,
) -> dict[str, str]:
    """What the environment of a rank's process has to hold for NCCL to encrypt between hosts.

    NCCL_NET is part of it on purpose: with it NCCL stops where the plug-in cannot be used, without
    it NCCL goes on over its own sockets, in the clear.

    Args:
        library: libnccl-net-vitalstream.so.
        key_file: The secret that all hosts share, 32 bytes at least, readable by its owner alone.
        streams: TCP streams of a connection, 1 to 16.
        interface: How the names of the network interfaces begin; empty: all but loopback.
        device_memory: Whether the plug-in copies device memory itself.
        wide: Whether it may seal by the multi-buffer library that it was built with.

    Raises:
        ValueError: A number of streams that is not allowed.
    """
    if not 1 <= streams <= 16:
        raise ValueError(f"streams must lie in 1 to 16, not {streams}")
    variables = {
        "NCCL_NET_PLUGIN": str(library.absolute()),
        "NCCL_NET": PLUGIN,
        "VITALSTREAM_NET_KEY_FILE": str(key_file.absolute()),
        "VITALSTREAM_NET_STREAMS": str(streams),
        "VITALSTREAM_NET_CUDA": str(int(device_memory)),
        "VITALSTREAM_NET_WIDE": str(int(wide)),
    }
    if interface:
        variables["VITALSTREAM_NET_INTERFACE"] = interface
    return variables


def open_group(
    store: Store,
    rank: int,
    world: int,
    device: torch.device | str,
    *,
    encrypt: bool = False,
    timeout_s: float = 600.0,
) -> Choice:
    """Exchange facts over a store, choose, and make the default process group; a collective.

    Args:
        store: What all ranks reach, a TCPStore or FileStore.
        rank: This rank's number.
        world: How many ranks there are.
        device: Where this rank's tensors live.
        encrypt: Whether what leaves a host has to be encrypted; its environment then holds what
            `nccl_environment` gives.
        timeout_s: How long a collective may take.

    Raises:
        NotEncrypted: It has to be encrypted, and cannot.
    """
    place = torch.device(device)
    choice = choose(exchange(store, rank, world, probe(place)), encrypt=encrypt)
    log.info("transport chosen", backend=choice.backend, reasons=choice.reasons, world=world)
    options: Any = None
    if choice.process_group == "nccl":
        torch.cuda.set_device(place)
        options = dist.ProcessGroupNCCL.Options()
        if choice.encrypted:
            # Per group, too: NCCL then fails instead of falling back to sockets in the clear.
            options.config.net_name = PLUGIN
    dist.init_process_group(
        choice.process_group,
        store=PrefixStore("group", store),
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=timeout_s),
        pg_options=options,
    )
    return choice


def exchange(store: Store, rank: int, world: int, facts: Facts) -> list[Facts]:
    """Every rank's facts, in order of the ranks; waits until all have told theirs."""
    store.set(f"facts/{rank}", json.dumps(asdict(facts)))
    return [_told(store.get(f"facts/{other}")) for other in range(world)]


def _told(text: bytes) -> Facts:
    told: dict[str, Any] = json.loads(text)
    for name in ("nccl", "nvlink"):
        if told[name] is not None:
            told[name] = tuple(told[name])
    return Facts(**told)
