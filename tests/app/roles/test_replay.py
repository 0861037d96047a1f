"""The replay role: what it makes of a stay, and what arrives over the embedded broker."""

import asyncio
import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.lifecycle import Deadline, serve
from app.roles.replay import Replay, base_at_speed, case_of, due_ms, observations
from app.settings import BadSetting, load
from models.data import SETS, Admission, Stay, read_all
from models.signals import INDEX
from streaming.broker import EmbeddedBroker
from streaming.codec import VitalsDecoder, decode_case, encode
from streaming.messages import CASES, VITALS
from streaming.reader import Reader

NOW_MS = 1_795_409_001_078


@pytest.fixture
async def broker():
    """An embedded broker of this test's own."""
    async with EmbeddedBroker() as running:
        yield running


def stay_of(*minutes):
    """A stay with a heart rate at every other time."""
    times_ms = np.array(minutes, np.int64) * 60_000
    row = np.arange(0, len(times_ms), 2, dtype=np.int32)
    return Stay(
        "physionet2012",
        "132539",
        Admission(hospital_admitted_ms=-7_200_000, age_years=54.0, problems=["ICD10:I21.0"]),
        times_ms,
        row,
        np.full(len(row), INDEX["temp"], np.int16),
        np.full(len(row), 36.6, np.float32),
    )


async def everything(servers, topic):
    """All records of a topic, by partition and offset."""
    async with Reader(servers) as reader:
        return [
            record
            async for records in reader.read(topic, await reader.partitions(topic))
            for record in records
        ]


def test_every_time_is_one_message_also_without_values():
    """Rows where nothing was measured say that the bed was watched."""
    messages = list(observations(stay_of(0, 7, 37), NOW_MS, "c"))

    assert [m.ts_ms - NOW_MS for m in messages] == [0, 420_000, 2_220_000]
    assert [m.values for m in messages] == [{"temp": 36.6}, {}, {"temp": 36.6}]
    assert json.loads(encode(messages[1]))["values"] == {}


def test_numbers_are_those_the_record_said():
    """Not the digits a float32 has behind them."""
    (message,) = observations(stay_of(0), NOW_MS, "c")

    assert b'"temp":36.6}' in encode(message)


def test_the_case_says_what_was_known_on_admission():
    """Times are absolute; the case id tells replays apart."""
    case = case_of(stay_of(0, 5), NOW_MS)

    assert decode_case(encode(case), b"132539") == case
    assert (case.bed_id, case.admitted_ms) == ("132539", NOW_MS)
    assert case.hospital_admitted_ms == NOW_MS - 7_200_000
    assert case.problems == ["ICD10:I21.0"]
    assert case.case_id != case_of(stay_of(0, 5), NOW_MS + 1).case_id


@given(
    st.lists(st.integers(0, 5_000), min_size=1, max_size=20, unique=True),
    st.floats(0.01, 10_000),
)
def test_at_any_speed_no_event_time_is_ahead_of_the_clock(minutes, speed):
    """Each message leaves at its moment, with an event time not later than that."""
    stay = stay_of(*sorted(minutes))
    base_ms = base_at_speed(stay, NOW_MS, speed)
    wait_ms, owner = due_ms([stay], speed)
    leaves_ms = NOW_MS + wait_ms

    assert (owner == 0).all()
    assert (base_ms + stay.times_ms <= leaves_ms + 1).all()


def test_at_real_time_event_times_are_the_moments_of_sending():
    """Speed 1 is the bedside."""
    stay = stay_of(3, 4, 9)
    wait_ms, _ = due_ms([stay], 1.0)

    assert (base_at_speed(stay, NOW_MS, 1.0) + stay.times_ms == NOW_MS + wait_ms).all()


def test_records_are_published_side_by_side():
    """Messages of all records come in the order in which they are due."""
    wait_ms, owner = due_ms([stay_of(0, 10), stay_of(0, 4, 20)], 2.0)

    assert owner.tolist() == [0, 1, 1, 0, 1]
    assert (wait_ms / 60_000).tolist() == [0, 0, 2, 5, 10]


@pytest.mark.parametrize("name", SETS)
async def test_a_set_replayed_at_max_arrives_whole_and_ends_now(name, recorded, broker, tmp_path):
    """Case and every row, in order, within bounds of the clock; then the role ends."""
    folder = recorded.WRITERS[name](tmp_path / "set")
    role = Replay(load(kafka=broker.servers), name, [folder], speed=None, progress=False)
    before_ms = time.time_ns() // 1_000_000
    await serve([role])
    after_ms = time.time_ns() // 1_000_000
    cases = [decode_case(r.value, r.key) for r in await everything(broker.servers, CASES)]
    records = await everything(broker.servers, VITALS)
    stays = {stay.record: stay for stay in read_all(name, [folder])}
    admitted = {case.bed_id: case.admitted_ms for case in cases}

    assert len(cases) == len(stays) == role.stays
    assert admitted.keys() == stays.keys()
    for bed_id, stay in stays.items():
        mine = [json.loads(r.value) for r in records if r.key.decode() == bed_id]
        times_ms = [m["ts_ms"] for m in mine]
        assert times_ms == (admitted[bed_id] + stay.times_ms).tolist()
        assert before_ms <= times_ms[-1] <= after_ms
        assert sum(len(m["values"]) for m in mine) == len(stay.value)
    by_partition = [[r for r in records if r.partition == p] for p in range(4)]
    assert all(VitalsDecoder().decode(some)[1] == [] for some in by_partition)


async def test_labels_never_leave_the_files(recorded, broker, tmp_path):
    """Neither the sepsis label nor an outcome is in any message."""
    for name in ("physionet2019", "eicu-demo"):
        folder = recorded.WRITERS[name](tmp_path / name)
        await serve(
            [Replay(load(kafka=broker.servers), name, [folder], speed=None, progress=False)]
        )
    cases = await everything(broker.servers, CASES)
    records = await everything(broker.servers, VITALS)
    sent = b"".join(record.value for record in [*cases, *records]).lower()

    for word in (b"sepsis", b"expired", b"alive", b"mortality", b"oncology", b"hospitalid"):
        assert word not in sent


async def test_a_fast_replay_streams_in_time_and_ends(recorded, broker, tmp_path):
    """30 s of monitors at 60 times real time; the last message is at the end of the record."""
    folder = recorded.bidmc(tmp_path / "set")
    role = Replay(load(kafka=broker.servers), "bidmc", [folder], speed=60.0, progress=False)
    await serve([role])
    records = await everything(broker.servers, VITALS)

    assert role.acknowledged == role.sent == 2 * 31
    assert len(records) == 60
    assert all(json.loads(r.value)["ts_ms"] <= r.timestamp + 1 for r in records)


async def test_the_limit_counts_records(recorded, broker, tmp_path):
    """Two of the twelve patients."""
    folder = recorded.physionet2019(tmp_path / "set")
    role = Replay(
        load(kafka=broker.servers), "physionet2019", [folder], speed=None, limit=2, progress=False
    )
    await serve([role])

    assert role.stays == 2
    assert len(await everything(broker.servers, CASES)) == 2


async def test_a_replay_is_stopped_in_its_middle(recorded, broker, tmp_path):
    """Draining lets what is in flight arrive."""
    folder = recorded.bidmc(tmp_path / "set")
    role = Replay(load(kafka=broker.servers), "bidmc", [folder], speed=1.0, progress=False)
    await role.start()
    async with asyncio.timeout(20):
        while True:
            if role.acknowledged >= 4:
                break
            await asyncio.sleep(0.01)
    await role.drain(Deadline(5))
    await role.drain(Deadline(5))

    assert role.acknowledged == role.sent < 2 * 31
    assert role.health()["replay"].ok


async def test_files_without_a_record_fail_with_the_setting(broker, tmp_path):
    """An empty folder is a wrong path."""
    role = Replay(load(kafka=broker.servers), "bidmc", [tmp_path], speed=None, progress=False)

    with pytest.raises(BadSetting, match="bidmc"):
        await serve([role])


@pytest.mark.parametrize(
    ("dataset", "options", "word"),
    [
        ("mimic", {}, "mimic"),
        ("bidmc", {"speed": 0.0}, "speed"),
        ("bidmc", {"speed": float("nan")}, "speed"),
        ("bidmc", {"limit": 0}, "limit"),
    ],
)
def test_bad_options_stop_the_start(dataset, options, word, tmp_path):
    """One line names the setting and the value."""
    with pytest.raises(BadSetting, match=word):
        Replay(load(kafka="localhost:9092"), dataset, [tmp_path], **options)


def test_a_missing_path_and_a_missing_cluster_are_named(tmp_path, monkeypatch):
    """Before anything is published."""
    monkeypatch.delenv("VITALSTREAM_DATA", raising=False)
    with pytest.raises(BadSetting, match="nowhere"):
        Replay(load(kafka="localhost:9092"), "bidmc", [tmp_path / "nowhere"])
    with pytest.raises(BadSetting, match="paths"):
        Replay(load(kafka="localhost:9092"), "bidmc")
    with pytest.raises(BadSetting, match="kafka"):
        Replay(load(), "bidmc", [tmp_path])
