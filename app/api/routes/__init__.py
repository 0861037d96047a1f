"""The routes, one module a noun."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import Path
from starlette.responses import Response

from app.api.schemas import BED_PATTERN

BedIdParameter = Annotated[
    str,
    Path(
        min_length=1,
        max_length=128,
        pattern=BED_PATTERN,
        description="Bed, at most 128 bytes of UTF-8; a slash as %2F.",
        examples=["A-07"],
    ),
]


def answer(content: Any, status: int = 200) -> Response:
    """JSON by msgspec: structs, and raw predictions as they came from Kafka."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")
