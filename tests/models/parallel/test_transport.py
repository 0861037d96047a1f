"""One place chooses how ranks talk, alike on all of them, and says why."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from models.parallel import transport
from models.parallel.ranks import start
from models.parallel.symmetric import Pool
from models.parallel.transport import (
    PLUGIN,
    Choice,
    Facts,
    NotEncrypted,
    choose,
    exchange,
    nccl_environment,
    open_group,
    probe,
)

NET = Path(__file__).parents[3] / "cuda" / "nccl_net"


def gpus(*hosts: str, linked: bool = True) -> list[Facts]:
    """A rank with a device of its own on each of the hosts named."""
    uuids = [f"GPU-{i}" for i in range(len(hosts))]
    return [
        Facts(
            host=host,
            device="cuda",
            uuid=uuid,
            nccl=(2, 30, 7),
            registers=True,
            nvlink=tuple(u.removeprefix("GPU-") for u in uuids if u != uuid) if linked else (),
        )
        for host, uuid in zip(hosts, uuids, strict=True)
    ]


def test_devices_that_share_nvlink_share_memory() -> None:
    """The fastest way is taken where all of its conditions hold."""
    choice = choose(gpus("a", "a", "a"))

    assert choice.backend == "nccl-symmetric"
    assert choice.process_group == "nccl"
    assert "all devices share NVLink" in str(choice)


@pytest.mark.parametrize(
    ("change", "backend", "why"),
    [
        ({"device": "cpu"}, "gloo", "1 of 2 ranks have their tensors on the CPU"),
        ({"nccl": None}, "gloo", "this torch is built without NCCL"),
        ({"uuid": "GPU-1"}, "gloo", "2 ranks share 1 devices, which NCCL refuses"),
        ({"host": "b"}, "nccl", "several hosts"),
        ({"nccl": (2, 26, 9)}, "nccl", "NCCL 2.26.9 is older than 2.27"),
        ({"registers": False}, "nccl", "cannot register"),
        ({"nvlink": None}, "nccl", "does not say"),
        ({"nvlink": ()}, "nccl", "not all devices share NVLink"),
    ],
)
def test_one_rank_that_lacks_something_decides_for_all(
    change: dict[str, object], backend: str, why: str
) -> None:
    """Each condition that fails leads to the next way, with its reason."""
    ranks = gpus("a", "a")
    ranks[0] = replace(ranks[0], **change)

    choice = choose(ranks)

    assert choice.backend == backend
    assert why in choice.reasons[-1]


def test_a_rank_alone_shares_no_memory() -> None:
    """Symmetric memory needs somebody to be symmetric with."""
    assert choose(gpus("a")).backend == "nccl"


def test_nobody_is_not_chosen_for() -> None:
    """An empty group is a mistake of the caller's."""
    with pytest.raises(ValueError, match="no ranks"):
        choose([])


def test_encryption_covers_what_leaves_a_host() -> None:
    """Within a host nothing is sent over a network, between hosts the plug-in encrypts."""
    assert not choose(gpus("a", "a"), encrypt=True).encrypted
    between = choose(gpus("a", "b"), encrypt=True)
    assert between.encrypted
    assert any(PLUGIN in reason for reason in between.reasons)
    assert not choose(gpus("a", "b")).encrypted


@pytest.mark.parametrize("change", [{"device": "cpu"}, {"nccl": (2, 23, 4)}])
def test_nothing_goes_in_the_clear_where_encryption_was_asked_for(
    change: dict[str, object],
) -> None:
    """A way without encryption is refused, not taken."""
    ranks = gpus("a", "b")
    ranks[1] = replace(ranks[1], **change)

    with pytest.raises(NotEncrypted):
        choose(ranks, encrypt=True)


facts = st.builds(
    Facts,
    host=st.sampled_from(["a", "b"]),
    device=st.sampled_from(["cpu", "cuda"]),
    uuid=st.sampled_from(["0", "1", "2"]),
    nccl=st.sampled_from([None, (2, 20), (2, 26, 2), (2, 30, 7)]),
    registers=st.booleans(),
    nvlink=st.sampled_from([None, (), ("0", "1", "2")]),
)


@given(st.lists(facts, min_size=1, max_size=4), st.booleans())
def test_every_choice_has_its_reason_and_its_conditions(ranks: list[Facts], encrypt: bool) -> None:
    """Whatever the ranks see: a reason is given, NCCL has a device a rank, encryption is kept."""
    hosts = {rank.host for rank in ranks}
    try:
        choice = choose(ranks, encrypt=encrypt)
    except NotEncrypted:
        assert encrypt and len(hosts) > 1
        return
    assert choice.reasons and all(choice.reasons)
    assert choice.encrypted == (encrypt and len(hosts) > 1)
    if choice.backend != "gloo":
        assert all(rank.device == "cuda" and rank.nccl for rank in ranks)
        assert len({(rank.host, rank.uuid) for rank in ranks}) == len(ranks)
    if choice.backend == "nccl-symmetric":
        assert len(hosts) == 1 < len(ranks)
        assert all(rank.nvlink and rank.registers for rank in ranks)
    order = list(reversed(ranks))
    assert choose(order, encrypt=encrypt).backend == choice.backend


@given(st.lists(facts, min_size=1, max_size=4))
def test_facts_arrive_as_they_were_told(ranks: list[Facts]) -> None:
    """What goes through the store comes out equal, on every rank."""
    store = dist.HashStore()
    for rank, told in enumerate(ranks):
        store.set(f"facts/{rank}", "")
        exchange_one = exchange(dist.PrefixStore(str(rank), store), 0, 1, told)
        assert exchange_one == [told]


def _rank(rank: int, world: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", world)
    choice = open_group(store, rank, world, "cpu", timeout_s=60)
    try:
        pool = Pool(choice, "cpu")
        with pool.filling():
            numbers = torch.ones(3)
        registered = pool.register()
        dist.all_reduce(numbers)
        pool.close()
        pool.close()
        # As where every condition holds and NCCL then does not give the memory: said, not raised.
        forced = Pool(Choice(backend="nccl-symmetric", reasons=("forced",)), "cuda:0")
        with forced.filling():
            again = torch.ones(1)
        assert not forced.register() and "no pool of NCCL's memory" in forced.reason
        dist.all_reduce(again)
        torch.save(
            [choice.backend, choice.reasons, pool.reason, registered, numbers, again],
            f"{folder}/{rank}",
        )
    finally:
        dist.destroy_process_group()


def test_ranks_on_the_cpu_talk_by_gloo_and_say_why(tmp_path: Path) -> None:
    """Real processes agree, reduce, and go on with ordinary memory where there is no other."""
    start(_rank, 2, 2, str(tmp_path))

    for rank in range(2):
        backend, reasons, why, registered, numbers, again = torch.load(tmp_path / str(rank))
        assert backend == "gloo"
        assert reasons == ("2 of 2 ranks have their tensors on the CPU",)
        assert why == reasons[-1] and not registered
        assert numbers.tolist() == [2, 2, 2] and again.tolist() == [2]


def test_the_cpu_is_seen_without_a_driver() -> None:
    """Looking never fails for want of a device."""
    seen = probe("cpu")

    assert seen.device == "cpu" and seen.host and seen.nvlink is None


class _NvmlError(Exception):
    """As NVML's, which is no RuntimeError."""


@pytest.mark.parametrize(
    ("status", "peers"), [(lambda a, b: 0, ("1", "2")), (lambda a, b: b != 2, ("2",))]
)
def test_nvlink_is_what_the_driver_says_of_each_pair(
    monkeypatch: pytest.MonkeyPatch, status: Callable[[int, int], int], peers: tuple[str, ...]
) -> None:
    """Of three devices the first asks for the two others."""
    ended = []
    nvml = SimpleNamespace(
        NvmlError=_NvmlError,
        init_v2=lambda: None,
        shutdown=lambda: ended.append(True),
        device_get_count_v2=lambda: 3,
        device_get_handle_by_index_v2=lambda index: index,
        device_get_handle_by_uuid=lambda uuid: int(uuid.removeprefix("GPU-")),
        device_get_uuid=lambda handle: f"GPU-{handle}",
        device_get_p2p_status=lambda a, b, _: int(status(a, b)),
        GpuP2PCapsIndex=SimpleNamespace(NVLINK=2),
        GpuP2PStatus=SimpleNamespace(P2P_STATUS_OK=0),
    )
    monkeypatch.setattr(transport, "import_module", lambda _: nvml)

    assert transport._nvlink_peers("0") == peers
    assert ended == [True]

    def silent() -> None:
        raise _NvmlError("driver not loaded")

    nvml.init_v2 = silent
    assert transport._nvlink_peers("0") is None


def test_the_environment_is_the_one_that_the_plugin_reads(tmp_path: Path) -> None:
    """Every variable that is given is read by the plug-in or by NCCL, and none is left out."""
    given_ = nccl_environment(
        library=tmp_path / "libnccl-net-vitalstream.so",
        key_file=tmp_path / "key",
        streams=4,
        interface="eth",
        device_memory=True,
    )

    read = {
        name
        for source in NET.glob("*.c")
        if source.stem not in ("harness", "speed", "side")
        for name in re.findall(r'"(VITALSTREAM_NET_\w+)"', source.read_text())
    }
    assert {name for name in given_ if name.startswith("VITALSTREAM")} == read
    assert given_["NCCL_NET"] == PLUGIN
    assert f'.name = "{PLUGIN}"' in (NET / "plugin.c").read_text()
    assert all(isinstance(value, str) and value for value in given_.values())


@pytest.mark.parametrize("streams", [0, 17])
def test_impossible_streams_are_refused(tmp_path: Path, streams: int) -> None:
    """The plug-in would take its default; the caller hears of it instead."""
    with pytest.raises(ValueError, match="streams"):
        nccl_environment(library=tmp_path, key_file=tmp_path, streams=streams)
