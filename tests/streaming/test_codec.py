"""Every message decodes or has a reason; nothing a record holds raises."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from aiokafka import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from models import signals
from streaming import codec, refusals
from streaming.codec import VitalsDecoder, decode_case, encode
from streaming.messages import MAX_MESSAGE_BYTES, Case, Observation, Snapshot, Source
from streaming.refusals import REASONS, BadMessage
from streaming.telemetry import Telemetry

NOW_MS = 1_795_409_000_000
SENDERS_CLOCK, BROKERS_CLOCK = 0, 1


def record(
    value: bytes | None,
    key: bytes | None = b"A-07",
    offset: int = 0,
    stamp_ms: int = NOW_MS,
    clock: int = BROKERS_CLOCK,
) -> Any:
    size = len(value or b"")
    return ConsumerRecord("icu.vitals", 0, offset, stamp_ms, clock, key, value, None, 0, size, ())


def text(**changes: Any) -> bytes:
    fields = {"bed_id": "A-07", "ts_ms": NOW_MS - 5, "values": {"hr": 82}} | changes
    return json.dumps({k: v for k, v in fields.items() if v is not ...}).encode()


class Heard(Telemetry):
    def __init__(self) -> None:
        self.messages: dict[str, int] = {}
        self.skips: dict[str, int] = {}

    def message(self, topic: str, outcome: str, count: int = 1) -> None:
        self.messages[outcome] = self.messages.get(outcome, 0) + count

    def skipped(self, reason: str, count: int = 1) -> None:
        self.skips[reason] = self.skips.get(reason, 0) + count


def reason_of(one: Any, **settings: Any) -> str | None:
    """The reason, None where the record is accepted."""
    good, bad = VitalsDecoder(**settings).decode([one], NOW_MS)
    assert good.n + len(bad) == 1
    return bad[0].reason if bad else None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, refusals.TOMBSTONE),
        (b"", refusals.NOT_JSON),
        (b"hello", refusals.NOT_JSON),
        (text()[:-1], refusals.NOT_JSON),
        (text() + b"x", refusals.NOT_JSON),
        (b"\xef\xbb\xbf" + text(), refusals.NOT_JSON),
        (b"[" * 100_000, refusals.NOT_JSON),
        (text().replace(b"A-07", b"\\ud800"), refusals.NOT_JSON),
        (b"\xff\xfe", refusals.NOT_UTF8),
        (text().replace(b"A-07", b"A-\xff"), refusals.NOT_UTF8),
        (text(note="#").replace(b"#", b"\xff"), refusals.NOT_UTF8),
        (text(values={"hr": math.nan}), refusals.NOT_FINITE),
        (text(values={"hr": -math.inf}), refusals.NOT_FINITE),
        (text().replace(b"82", b"1e999"), refusals.NOT_FINITE),
        (text().replace(b"82", b"1" + b"0" * 400), refusals.NOT_FINITE),
        (text(note=math.nan), refusals.NOT_FINITE),
        (text(bed_id=...), refusals.MISSING_FIELD),
        (text(ts_ms=...), refusals.MISSING_FIELD),
        (text(values=...), refusals.MISSING_FIELD),
        (b"{}", refusals.MISSING_FIELD),
        (b"[]", refusals.WRONG_TYPE),
        (b"null", refusals.WRONG_TYPE),
        (b"17", refusals.WRONG_TYPE),
        (text(bed_id=7), refusals.WRONG_TYPE),
        (text(bed_id=None), refusals.WRONG_TYPE),
        (text(ts_ms="1"), refusals.WRONG_TYPE),
        (text(ts_ms=True), refusals.WRONG_TYPE),
        (text(ts_ms=1.5), refusals.WRONG_TYPE),
        (text(values=[1]), refusals.WRONG_TYPE),
        (text(values={"hr": True}), refusals.WRONG_TYPE),
        (text(values={"hr": "82"}), refusals.WRONG_TYPE),
        (text(values={"unheard_of": "82"}), refusals.WRONG_TYPE),
        (text(case_id=5), refusals.WRONG_TYPE),
        (text(seq="x"), refusals.WRONG_TYPE),
        (text(case_id=""), refusals.BAD_CASE_ID),
        (text(case_id="x" * 257), refusals.BAD_CASE_ID),
        (text(ts_ms=-1), refusals.BAD_TIME),
        (text(ts_ms=NOW_MS + 60_001), refusals.AHEAD),
        (text(ts_ms=1 << 70), refusals.AHEAD),
        (text(device_id="x" * MAX_MESSAGE_BYTES), refusals.TOO_LARGE),
        (b" " * (MAX_MESSAGE_BYTES + 1), refusals.TOO_LARGE),
    ],
)
def test_a_bad_value_has_its_own_reason(value: bytes | None, reason: str) -> None:
    """What is wrong with a message is named, and never what it said."""
    assert reason_of(record(value)) == reason


@pytest.mark.parametrize(
    ("bed_id", "key", "reason"),
    [
        ("", b"", refusals.BAD_BED_ID),
        ("é" * 65, ("é" * 65).encode(), refusals.BAD_BED_ID),
        ("x" * 129, b"x" * 129, refusals.BAD_BED_ID),
        ("A\0", b"A\0", refusals.BAD_BED_ID),
        ("A-07", None, refusals.KEY_MISMATCH),
        ("A-07", b"", refusals.KEY_MISMATCH),
        ("A-07", b"A-08", refusals.KEY_MISMATCH),
        ("A-07", b"\xff", refusals.KEY_MISMATCH),
        ("é" * 64, ("é" * 64).encode(), None),
        ("x" * 128, b"x" * 128, None),
    ],
)
def test_a_bed_is_its_key(bed_id: str, key: bytes | None, reason: str | None) -> None:
    """A bed id has 1 to 128 bytes of UTF-8, and the key is the same bytes."""
    assert reason_of(record(text(bed_id=bed_id), key)) == reason


def test_a_known_bed_under_another_key_is_still_refused() -> None:
    """What was learnt of a key cannot be used by another bed."""
    decoder = VitalsDecoder()
    _, bad = decoder.decode(
        [record(text()), record(text(bed_id="B"), b"B"), record(text(), b"B"), record(text())],
        NOW_MS,
    )
    assert [r.reason for r in bad] == [refusals.KEY_MISMATCH]


@pytest.mark.parametrize(
    ("ts_ms", "stamp_ms", "clock", "reason"),
    [
        (NOW_MS + 60_000, NOW_MS, BROKERS_CLOCK, None),
        (NOW_MS + 61_000, NOW_MS + 2_000, BROKERS_CLOCK, None),
        (NOW_MS + 61_000, NOW_MS + 2_000, SENDERS_CLOCK, refusals.AHEAD),
        (NOW_MS + 60_000, -1, SENDERS_CLOCK, None),
        (NOW_MS, NOW_MS - 60_001, SENDERS_CLOCK, refusals.AHEAD),
        (0, NOW_MS, BROKERS_CLOCK, None),
    ],
)
def test_event_time_is_held_against_the_brokers_clock(
    ts_ms: int, stamp_ms: int, clock: int, reason: str | None
) -> None:
    """The broker's timestamp counts; one that the sender wrote counts only as far as the clock has
    come.
    """
    assert reason_of(record(text(ts_ms=ts_ms), stamp_ms=stamp_ms, clock=clock)) == reason


def test_observations_lie_in_the_order_of_their_offsets() -> None:
    """Values follow one another by message, null is NaN, an empty message has size 0."""
    records = [
        record(
            text(values={"spo2": 97.5, "hr": None}, case_id="c1"), offset=4, stamp_ms=NOW_MS - 1
        ),
        record(text(values={}), offset=6),
        record(b"x", offset=7),
        record(text(values={"ph": 7}, device_id="m", seq=3), offset=9),
    ]
    good, bad = VitalsDecoder().decode(records, NOW_MS)
    assert good.offsets.tolist() == [4, 6, 9]
    assert good.sizes.tolist() == [2, 0, 1]
    assert [signals.NAMES[i] for i in good.signal] == ["spo2", "hr", "ph"]
    np.testing.assert_array_equal(good.value, [97.5, np.nan, 7.0])
    assert good.case_ids == ["c1", None, None]
    assert good.broker_ms.tolist() == [NOW_MS - 1, NOW_MS, NOW_MS]
    assert good.bed_ids == ["A-07"] * 3
    assert [(r.record.offset, r.reason) for r in bad] == [(7, refusals.NOT_JSON)]
    types = (good.ts_ms, good.sizes, good.signal, good.value)
    assert [a.dtype for a in types] == [np.int64, np.int32, np.int16, np.float64]


def test_nothing_decodes_to_nothing() -> None:
    """An empty bulk has arrays of length 0 and of the right types."""
    good, bad = VitalsDecoder().decode([])
    assert (good.n, bad, good.signal.dtype, good.value.dtype) == (0, [], np.int16, np.float64)


def test_unknown_signals_and_fields_are_counted_and_ignored() -> None:
    """They cost neither the message nor its neighbours."""
    heard = Heard()
    records = [
        record(text(values={"pulse": 1, "hr": 80, "mood": None, "map": 70}, x=1, y=[2])),
        record(text(values={"hr": 81}, x=1)),
        record(text(values={"hr": 82})),
    ]
    good, bad = VitalsDecoder(telemetry=heard).decode(records, NOW_MS)
    assert bad == []
    assert good.value.tolist() == [80, 70, 81, 82]
    assert heard.skips == {"unknown_signal": 2, "unknown_field": 3}
    assert heard.messages == {"accepted": 3}


def test_errors_carry_nothing_of_the_patient() -> None:
    """Reasons name fields and types."""
    for value in (
        text(values={"hr": "Mrs Smith"}),
        text(case_id="Mrs Smith" * 100),
        text(bed_id=["Mrs Smith"]),
    ):
        _, bad = VitalsDecoder().decode([record(value)], NOW_MS)
        assert "Smith" not in bad[0].reason + bad[0].detail
    with pytest.raises(BadMessage) as error:
        decode_case(b'{"bed_id":"a","case_id":"c","status":"Mrs Smith","admitted_ms":1}')
    assert (error.value.reason, error.value.detail) == (refusals.WRONG_TYPE, "$.status")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
almost = st.fixed_dictionaries(
    {},
    optional={
        "bed_id": st.just("A-07") | json_values,
        "ts_ms": st.just(NOW_MS) | json_values,
        "values": st.dictionaries(st.sampled_from(["hr", "map", "x"]), json_values) | json_values,
        "case_id": json_values,
        "seq": json_values,
        "other": json_values,
    },
).map(lambda found: json.dumps(found).encode())


@given(
    st.lists(
        st.tuples(
            st.binary(max_size=60) | almost | st.just(text()) | st.none(),
            st.just(b"A-07") | st.binary(max_size=4) | st.none(),
            st.integers(-1, 1 << 50),
        )
    )
)
def test_any_bytes_decode_or_have_a_reason(found: list[tuple[Any, Any, int]]) -> None:
    """Nothing raises, nothing is lost, and what is accepted is finite, or NaN for null."""
    records = [record(v, k, i, stamp) for i, (v, k, stamp) in enumerate(found)]
    good, bad = VitalsDecoder().decode(records, NOW_MS)
    assert sorted([*good.offsets.tolist(), *(r.record.offset for r in bad)]) == list(
        range(len(records))
    )
    assert {r.reason for r in bad} <= set(REASONS)
    assert not np.isinf(good.value).any()
    assert good.sizes.sum() == len(good.signal) == len(good.value)


@given(
    st.dictionaries(
        st.sampled_from(signals.NAMES), st.none() | st.floats(allow_nan=False, allow_infinity=False)
    ),
    st.integers(0, NOW_MS),
    st.none() | st.text(min_size=1, max_size=256).filter(lambda t: "\0" not in t),
)
def test_what_is_encoded_decodes_to_the_same(
    values: dict[str, float | None], ts_ms: int, case_id: str | None
) -> None:
    """An observation comes back bit by bit."""
    try:
        (case_id or "").encode()
    except UnicodeEncodeError:
        return
    message = Observation(bed_id="A-07", ts_ms=ts_ms, values=values, case_id=case_id)
    good, bad = VitalsDecoder().decode([record(encode(message))], NOW_MS)
    assert bad == []
    assert (good.case_ids, good.ts_ms.tolist()) == ([case_id], [ts_ms])
    assert [signals.NAMES[i] for i in good.signal] == list(values)
    np.testing.assert_array_equal(good.value, [np.nan if v is None else v for v in values.values()])


def test_other_messages_go_there_and_back() -> None:
    """A case and a snapshot decode to what was encoded."""
    case = Case(bed_id="A", case_id="c", status="open", admitted_ms=1, problems=["ICD10:C34.1"])
    assert decode_case(encode(case), b"A") == case
    snapshot = Snapshot("A", None, Source(1, 2), "grid", 5, b"\0\xff", ["b"])
    assert codec.decode_snapshot(encode(snapshot)) == snapshot


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, refusals.TOMBSTONE),
        (b"\xff", refusals.NOT_UTF8),
        (b"{", refusals.NOT_JSON),
        (b"{}", refusals.MISSING_FIELD),
        (b'{"bed_id":"A","case_id":"c","status":"gone","admitted_ms":1}', refusals.WRONG_TYPE),
        (b'{"bed_id":"A","case_id":"c","status":"open","admitted_ms":-1}', refusals.WRONG_TYPE),
        (b'{"bed_id":"B","case_id":"c","status":"open","admitted_ms":1}', refusals.KEY_MISMATCH),
    ],
)
def test_a_bad_case_has_a_reason(value: bytes | None, reason: str) -> None:
    """The other topics' messages are refused by the same names."""
    with pytest.raises(BadMessage) as error:
        decode_case(value, b"A")
    assert error.value.reason == reason


@pytest.mark.parametrize(
    "decode", [codec.decode_prediction, codec.decode_snapshot, codec.decode_alert]
)
@given(value=st.binary(max_size=80) | almost)
def test_other_topics_refuse_any_bytes_by_name(decode: Any, value: bytes) -> None:
    """A decoder returns its message or raises BadMessage."""
    with pytest.raises(BadMessage):
        decode(value)


def test_a_number_that_is_none_becomes_null() -> None:
    """JSON has no NaN."""
    assert msgspec.json.decode(encode(Observation(bed_id="A", ts_ms=1, values={"hr": math.nan})))[
        "values"
    ] == {"hr": None}
