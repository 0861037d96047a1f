"""Bytes to messages and back, for every topic. Observations are decoded in bulk: this is the hot
path of ingest.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import numpy as np

from models import signals
from streaming.messages import (
    MAX_BED_ID_BYTES,
    MAX_MESSAGE_BYTES,
    VITALS,
    Alert,
    Case,
    Observation,
    Prediction,
    Snapshot,
)
from streaming.observations import Observations
from streaming.refusals import (
    AHEAD,
    BAD_BED_ID,
    BAD_CASE_ID,
    BAD_TIME,
    KEY_MISMATCH,
    MISSING_FIELD,
    NOT_FINITE,
    NOT_JSON,
    NOT_UTF8,
    TOMBSTONE,
    TOO_LARGE,
    WRONG_TYPE,
    BadMessage,
    Rejected,
)
from streaming.telemetry import SILENT, Telemetry

if TYPE_CHECKING:
    from streaming.consumer import Record

MAX_CASE_ID: Final = 256
_MAX_KNOWN: Final = 65_536
_M = TypeVar("_M", bound=msgspec.Struct)
_BROKER_CLOCK: Final = 1
"""Kafka's timestamp type LogAppendTime: the record's timestamp is the broker's own."""


class _Exact(Observation, frozen=True, gc=False, forbid_unknown_fields=True):
    """Decoded first: only a message with unknown fields or an error pays for finding out which."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a tuple of signal names stands for: the known ones' indices as int16 bytes, and which
    they are.
    """

    indices: bytes
    count: int
    unknown: int
    known: tuple[bool, ...]


class VitalsDecoder:
    """Decodes records of `icu.vitals` in bulk. Not thread-safe.

    Args:
        max_skew_ms: How far ahead of the broker's clock an event time may be.
        telemetry: Hears of accepted and rejected messages, unknown signals and unknown fields.
        clock_ms: The wall clock, for records whose timestamp is the sender's own.
    """

    def __init__(
        self,
        max_skew_ms: int = 60_000,
        telemetry: Telemetry = SILENT,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._max_skew_ms = max_skew_ms
        self._telemetry = telemetry
        self._clock_ms = clock_ms
        self._beds: dict[bytes | None, str] = {}
        self._cases: dict[str | None, str | None] = {None: None}
        self._shapes: dict[tuple[str, ...], _Shape] = {}

    def decode(
        self, records: Sequence[Record], now_ms: int | None = None
    ) -> tuple[Observations, list[Rejected]]:
        """Decode records of one partition, in their order. Never raises for what a record holds."""
        now_ms = self._clock_ms() if now_ms is None else now_ms
        skew_ms = self._max_skew_ms
        latest_ms = now_ms + skew_ms
        beds, cases, shapes = self._beds, self._cases, self._shapes
        bed_ids: list[str] = []
        case_ids: list[str | None] = []
        ts_ms: list[int] = []
        offsets: list[int] = []
        broker_ms: list[int] = []
        sizes: list[int] = []
        indices: list[bytes] = []
        numbers: list[float | None] = []
        rejected: list[Rejected] = []
        unknown = 0
        for record in records:
            message: Observation | None
            try:
                message = _decode_exact(record.value)
            except Exception:  # looked into below: anything unusual goes the slow way
                message = None
            stamp_ms = record.timestamp
            if (
                message is None
                or beds.get(record.key) != message.bed_id
                or message.case_id not in cases
                or not 0 <= message.ts_ms <= stamp_ms + skew_ms
                or message.ts_ms > latest_ms
                or len(record.value) > MAX_MESSAGE_BYTES
            ):
                try:
                    message = self._examine(record, now_ms)
                except BadMessage as error:
                    rejected.append(Rejected(record, error.reason, error.detail))
                    continue
            values = message.values
            names = tuple(values)
            shape = shapes.get(names) or self._shape(names)
            if shape.unknown:
                unknown += shape.unknown
                numbers.extend(compress(values.values(), shape.known))
            else:
                numbers.extend(values.values())
            indices.append(shape.indices)
            sizes.append(shape.count)
            bed_ids.append(beds[record.key])
            case_ids.append(cases[message.case_id])
            ts_ms.append(message.ts_ms)
            offsets.append(record.offset)
            broker_ms.append(stamp_ms)
        self._tell(len(bed_ids), len(rejected), unknown)
        observations = Observations(
            bed_ids=bed_ids,
            case_ids=case_ids,
            ts_ms=np.array(ts_ms, np.int64),
            offsets=np.array(offsets, np.int64),
            broker_ms=np.array(broker_ms, np.int64),
            sizes=np.array(sizes, np.int32),
            signal=np.frombuffer(b"".join(indices), np.int16),
            value=np.array(numbers, np.float64),  # null becomes NaN
        )
        return observations, rejected

    def _examine(self, record: Record, now_ms: int) -> Observation:
        """Decode one record with every check and remember its bed and case. Raises BadMessage."""
        message = _decode(_decode_observation, record.value, Observation)
        _check_bed_id(message.bed_id, record.key)
        case_id = message.case_id
        if case_id is not None and (not 0 < len(case_id) <= MAX_CASE_ID or "\0" in case_id):
            raise BadMessage(BAD_CASE_ID)
        if message.ts_ms < 0:
            raise BadMessage(BAD_TIME)
        stamp_ms = record.timestamp
        if record.timestamp_type != _BROKER_CLOCK:
            stamp_ms = min(stamp_ms, now_ms) if stamp_ms >= 0 else now_ms
        if message.ts_ms > stamp_ms + self._max_skew_ms:
            raise BadMessage(AHEAD)
        fields = msgspec.json.decode(record.value, type=dict[str, msgspec.Raw])
        if strange := len(fields.keys() - _FIELDS):
            self._telemetry.skipped("unknown_field", strange)
        for cache in (self._beds, self._cases):
            if len(cache) > _MAX_KNOWN:
                cache.clear()
        self._beds[record.key] = message.bed_id
        self._cases[None] = None
        self._cases[case_id] = case_id
        return message

    def _shape(self, names: tuple[str, ...]) -> _Shape:
        if len(self._shapes) > _MAX_KNOWN:
            self._shapes.clear()
        known = tuple(name in signals.INDEX for name in names)
        found = np.array([signals.INDEX[name] for name in compress(names, known)], np.int16)
        shape = _Shape(found.tobytes(), len(found), len(names) - len(found), known)
        self._shapes[names] = shape
        return shape

    def _tell(self, accepted: int, rejected: int, unknown: int) -> None:
        if accepted:
            self._telemetry.message(VITALS, "accepted", accepted)
        if rejected:
            self._telemetry.message(VITALS, "rejected", rejected)
        if unknown:
            self._telemetry.skipped("unknown_signal", unknown)


def encode(message: msgspec.Struct) -> bytes:
    """The JSON of any message type, UTF-8; a NaN or infinite number becomes null."""
    return _encode(message)


def decode_case(value: bytes | None, key: bytes | None = None) -> Case:
    """Decode a value of `icu.cases`; the key is compared where given. Raises BadMessage, also for a
    tombstone.
    """
    case = _decode(_decode_case, value, Case)
    _check_bed_id(case.bed_id, key if key is not None else case.bed_id.encode())
    if "\0" in case.case_id:
        raise BadMessage(BAD_CASE_ID)
    return case


def decode_prediction(value: bytes | None) -> Prediction:
    """Decode a value of `icu.predictions`. Raises BadMessage."""
    return _decode(_decode_prediction, value, Prediction)


def decode_snapshot(value: bytes | None) -> Snapshot:
    """Decode a value of `icu.windows`. Raises BadMessage, also for a tombstone."""
    return _decode(_decode_snapshot, value, Snapshot)


def decode_alert(value: bytes | None) -> Alert:
    """Decode a value of `icu.alerts`. Raises BadMessage, also for a tombstone."""
    return _decode(_decode_alert, value, Alert)


_encode = msgspec.json.Encoder().encode
_decode_exact = msgspec.json.Decoder(_Exact).decode
_decode_observation = msgspec.json.Decoder(Observation).decode
_decode_case = msgspec.json.Decoder(Case).decode
_decode_prediction = msgspec.json.Decoder(Prediction).decode
_decode_snapshot = msgspec.json.Decoder(Snapshot).decode
_decode_alert = msgspec.json.Decoder(Alert).decode
_FIELDS: Final = frozenset(Observation.__struct_fields__)
_PATH: Final = re.compile(r"`(\$[^`]*)`")


def _decode(decoder: Callable[[bytes], _M], value: bytes | None, kind: type[_M]) -> _M:
    if value is None:
        raise BadMessage(TOMBSTONE)
    if len(value) > MAX_MESSAGE_BYTES:
        raise BadMessage(TOO_LARGE)
    try:
        value.decode()  # msgspec does not look into fields that it skips
        return decoder(value)
    except UnicodeDecodeError:
        raise BadMessage(NOT_UTF8) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise _why(value, kind, error) from None


def _why(value: bytes, kind: type[msgspec.Struct], error: Exception) -> BadMessage:
    """Name what is wrong with a value that did not decode, by the standard library's more patient
    parser.
    """
    try:
        found = json.loads(
            value, parse_constant=_not_finite, parse_float=_finite, parse_int=_finite
        )
    except BadMessage as bad:
        return bad
    except (ValueError, RecursionError):
        return BadMessage(NOT_JSON)
    if not isinstance(error, msgspec.ValidationError):
        return BadMessage(NOT_JSON)
    if isinstance(found, dict):
        for field in msgspec.structs.fields(kind):
            if field.required and field.encode_name not in found:
                return BadMessage(MISSING_FIELD, field.encode_name)
    path = _PATH.search(str(error))
    return BadMessage(WRONG_TYPE, path.group(1) if path else "")


def _not_finite(_: str) -> Any:
    raise BadMessage(NOT_FINITE)


def _finite(number: str) -> float:
    if math.isinf(found := float(number)):
        raise BadMessage(NOT_FINITE)
    return found


def _check_bed_id(bed_id: str, key: bytes | None) -> None:
    bed = bed_id.encode()
    if not 0 < len(bed) <= MAX_BED_ID_BYTES or b"\0" in bed:
        raise BadMessage(BAD_BED_ID)
    if key != bed:
        raise BadMessage(KEY_MISMATCH)
