"""Why a message cannot be used: one name for each reason.

Reasons, details and errors never carry what the message said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from streaming.consumer import Record

NOT_UTF8: Final = "not_utf8"
NOT_JSON: Final = "not_json"
NOT_FINITE: Final = "not_finite"
MISSING_FIELD: Final = "missing_field"
WRONG_TYPE: Final = "wrong_type"
BAD_BED_ID: Final = "bad_bed_id"
BAD_CASE_ID: Final = "bad_case_id"
KEY_MISMATCH: Final = "key_mismatch"
BAD_TIME: Final = "bad_time"
AHEAD: Final = "ahead"
TOO_LARGE: Final = "too_large"
TOMBSTONE: Final = "tombstone"
TOO_MANY_BEDS: Final = "too_many_beds"
REASONS: Final = (
    NOT_UTF8,
    NOT_JSON,
    NOT_FINITE,
    MISSING_FIELD,
    WRONG_TYPE,
    BAD_BED_ID,
    BAD_CASE_ID,
    KEY_MISMATCH,
    BAD_TIME,
    AHEAD,
    TOO_LARGE,
    TOMBSTONE,
    TOO_MANY_BEDS,
)


class BadMessage(ValueError):
    """A message that cannot be used; `reason` is one of `REASONS`, `detail` names a field or a
    type, never a value.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that cannot be used, and why."""

    record: Record
    reason: str
    detail: str
