"""The AsyncAPI 3.0 document of all topics, from the code's own types: `python -m
streaming.asyncapi` writes it.

Source of its form: https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec

from models import signals
from streaming import messages as m
from streaming.deadletter import HEADERS, PREFIX
from streaming.refusals import REASONS
from streaming.topics import TOPICS

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "asyncapi.json"
VERSION: Final = "1.0.0"
PARTITIONS: Final = 12
SCHEMAS: Final = "#/components/schemas/"
BINDING: Final = "0.5.0"

_CHANNELS: Final[dict[str, tuple[str, type[msgspec.Struct] | None, str, str]]] = {
    # topic: channel, type of the value, who writes, what for
    m.VITALS: (
        "vitals",
        m.Observation,
        "receive",
        "Monitor numerics and laboratory results, as measured.",
    ),
    m.CASES: ("cases", m.Case, "receive", "Who lies in a bed; a null value ends the case."),
    m.PREDICTIONS: ("predictions", m.Prediction, "send", "What the model says of each bed."),
    m.WINDOWS: ("windows", m.Snapshot, "send", "Snapshots of windows, for a worker's restart."),
    m.ALERTS: ("alerts", m.Alert, "send", "The state of each alert."),
    m.DEAD_LETTERS: (
        "deadLetters",
        None,
        "send",
        "What could not be used, byte for byte. A null value was a null value.",
    ),
}

EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    m.VITALS: {
        "bed_id": "A-07",
        "ts_ms": 1795409001078,
        "values": {"hr": 82, "spo2": 97, "resp": 18, "etco2": None},
        "case_id": "c-2031",
        "device_id": "mon-4",
        "seq": 17,
    },
    m.CASES: {
        "bed_id": "A-07",
        "case_id": "c-2031",
        "status": "open",
        "admitted_ms": 1795402800000,
        "age_years": 67,
        "sex": "female",
        "unit_type": "medical",
        "problems": ["ICD10:C34.1", "ORPHA:558"],
        "spo2_scale": 1,
    },
}


def document() -> dict[str, Any]:
    """The AsyncAPI document."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    known: dict[str, Any] = {}
    for topic, (name, kind, action, summary) in _CHANNELS.items():
        message = "DeadLetter" if kind is None else kind.__name__
        known[message] = _message(topic, kind, summary)
        channels[name] = {
            "address": topic,
            "description": summary,
            "messages": {message: {"$ref": f"#/components/messages/{message}"}},
            "bindings": {"kafka": _channel_binding(topic)},
        }
        operations[f"{action}{name[0].upper()}{name[1:]}"] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": summary,
            "messages": [{"$ref": f"#/channels/{name}/messages/{message}"}],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "vitalstream",
            "version": VERSION,
            "description": (
                "Real-time ICU vital-signs inference. Research software: never the primary alarm,"
                " no diagnosis. Times are integer milliseconds since the Unix epoch, UTC. Unknown"
                " fields are ignored; a missing or ill-typed required field is an error and goes"
                f" to {m.DEAD_LETTERS}."
            ),
            "license": {
                "name": "Apache-2.0",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            },
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": known, "schemas": _schemas()},
    }


def text() -> str:
    """The document as it lies in `docs/asyncapi.json`."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _message(topic: str, kind: type[msgspec.Struct] | None, summary: str) -> dict[str, Any]:
    message: dict[str, Any] = {
        "name": "DeadLetter" if kind is None else kind.__name__,
        "summary": summary,
        "contentType": "application/octet-stream" if kind is None else "application/json",
        "payload": {"$ref": SCHEMAS + ("DeadLetter" if kind is None else kind.__name__)},
        "bindings": {
            "kafka": {
                "key": {"$ref": SCHEMAS + ("DeadLetterKey" if kind is None else "BedId")},
                "bindingVersion": BINDING,
            }
        },
    }
    if kind is None:
        message["headers"] = {"$ref": SCHEMAS + "DeadLetterHeaders"}
    if topic in EXAMPLES:
        message["examples"] = [{"name": "typical", "payload": EXAMPLES[topic]}]
    return message


def _channel_binding(topic: str) -> dict[str, Any]:
    config = TOPICS[topic]
    settings: dict[str, Any] = {"cleanup.policy": [config["cleanup.policy"]]}
    for name in ("retention.ms", "delete.retention.ms", "max.message.bytes"):
        if name in config:
            settings[name] = int(config[name])
    return {
        "topic": topic,
        "partitions": PARTITIONS,
        "topicConfiguration": settings,
        "bindingVersion": BINDING,
        "x-partitioner": "murmur2 of the key, as Kafka's Java clients do; the same partition count"
        " for all topics, so that partition p of each speaks of the same beds",
    }


def _schemas() -> dict[str, Any]:
    kinds = [kind for _, kind, _, _ in _CHANNELS.values() if kind is not None]
    _, found = msgspec.json.schema_components(kinds, ref_template=SCHEMAS + "{name}")
    schemas: dict[str, Any] = dict(found)
    schemas["Observation"]["properties"] |= {
        "bed_id": {"$ref": SCHEMAS + "BedId"},
        "ts_ms": {
            "type": "integer",
            "minimum": 0,
            "description": "Event time; at most max_skew_ms ahead of the broker's clock.",
        },
        "values": {
            "type": "object",
            "description": "Null: the monitor says no reading. A value out of its bounds costs"
            " only itself; unknown signals are ignored.",
            "properties": {s.name: _signal(s) for s in signals.SIGNALS},
            "additionalProperties": {"type": ["number", "null"]},
        },
    }
    schemas["BedId"] = {
        "type": "string",
        "minLength": 1,
        "maxLength": m.MAX_BED_ID_BYTES,
        "description": f"The bed id, 1 to {m.MAX_BED_ID_BYTES} bytes of UTF-8; also the key.",
        "examples": ["A-07"],
    }
    schemas["DeadLetter"] = {
        "description": f"The original value, up to more than {m.MAX_MESSAGE_BYTES} bytes."
    }
    schemas["DeadLetterKey"] = {"description": "The original key."}
    schemas["DeadLetterHeaders"] = {
        "type": "object",
        "description": "Kafka Connect's headers, UTF-8, after the message's own.",
        "required": [PREFIX + name for name in HEADERS],
        "properties": {
            PREFIX + name: {"type": "string", "description": about}
            for name, about in HEADERS.items()
        },
    }
    schemas["DeadLetterHeaders"]["properties"][PREFIX + "exception.class.name"]["enum"] = [
        f"vitalstream.{reason}" for reason in REASONS
    ]
    return schemas


def _signal(signal: signals.Signal) -> dict[str, Any]:
    return {
        "type": ["number", "null"],
        "title": signal.label,
        "description": f"{signal.label}, {signal.unit}; LOINC {signal.loinc}.",
        "x-unit-ucum": signal.unit,
        "x-loinc": signal.loinc,
        "x-group": signal.group,
        "x-plausible": [signal.low, signal.high],
    }


if __name__ == "__main__":
    DOCUMENT.write_text(text())
