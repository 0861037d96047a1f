"""Readers of recorded intensive-care sets."""

from models.data.sets import SETS, RecordedSet, open_set, read_all
from models.data.stays import Admission, BadRecord, Labels, Stay, in_bounds

__all__ = [
    "SETS",
    "Admission",
    "BadRecord",
    "Labels",
    "RecordedSet",
    "Stay",
    "in_bounds",
    "open_set",
    "read_all",
]
