"""The published AsyncAPI document is the code's, and says what the code does."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from models import signals
from streaming import asyncapi, messages
from streaming.codec import VitalsDecoder, decode_case
from streaming.refusals import REASONS
from streaming.topics import TOPICS


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads(asyncapi.DOCUMENT.read_text())


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [r for child in node.values() for r in references(child)]
    return [r for child in node for r in references(child)] if isinstance(node, list) else []


def resolve(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


def test_the_committed_document_is_current(document: dict[str, Any]) -> None:
    """`python -m streaming.asyncapi` writes it anew."""
    assert document == asyncapi.document()
    assert asyncapi.DOCUMENT.read_text() == asyncapi.text()


def test_it_has_the_form_of_asyncapi_3(document: dict[str, Any]) -> None:
    """Required objects are there, every reference resolves within the document."""
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= document["info"].keys()
    assert set(document) <= {
        "asyncapi",
        "id",
        "info",
        "servers",
        "defaultContentType",
        "channels",
        "operations",
        "components",
    }
    for reference in references(document):
        assert resolve(document, reference) is not None
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        channel = resolve(document, operation["channel"]["$ref"])
        for message in operation["messages"]:
            assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")
            assert resolve(document, message["$ref"]) in channel["messages"].values()
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_topic_is_described_with_key_partitions_and_policy(document: dict[str, Any]) -> None:
    """What a sender needs to know stands beside each topic."""
    channels = {c["address"]: c for c in document["channels"].values()}
    assert channels.keys() == TOPICS.keys()
    for topic, channel in channels.items():
        kafka = channel["bindings"]["kafka"]
        assert kafka["partitions"] == 12
        assert "murmur2" in kafka["x-partitioner"]
        assert kafka["topicConfiguration"]["cleanup.policy"] == [TOPICS[topic]["cleanup.policy"]]
        for message in channel["messages"].values():
            assert "key" in resolve(document, message["$ref"])["bindings"]["kafka"]


def test_every_signal_has_its_unit_and_code(document: dict[str, Any]) -> None:
    """The one catalogue speaks here too."""
    values = document["components"]["schemas"]["Observation"]["properties"]["values"]["properties"]
    assert {n: (v["x-unit-ucum"], v["x-loinc"], v["x-plausible"]) for n, v in values.items()} == {
        s.name: (s.unit, s.loinc, [s.low, s.high]) for s in signals.SIGNALS
    }


def test_dead_letters_name_every_reason(document: dict[str, Any]) -> None:
    """The headers' schema lists the reasons there are."""
    headers = document["components"]["schemas"]["DeadLetterHeaders"]["properties"]
    assert headers["__connect.errors.exception.class.name"]["enum"] == [
        f"vitalstream.{reason}" for reason in REASONS
    ]


def test_examples_fit_their_schemas_and_the_code(document: dict[str, Any]) -> None:
    """What the document shows, the service takes."""
    for topic, example in asyncapi.EXAMPLES.items():
        name = {messages.VITALS: "Observation", messages.CASES: "Case"}[topic]
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.validate(example, schema)
    decode_case(json.dumps(asyncapi.EXAMPLES[messages.CASES]).encode(), b"A-07")
    value = json.dumps(asyncapi.EXAMPLES[messages.VITALS]).encode()
    message = VitalsDecoder()._examine(_Record(value), 1 << 50)
    assert message.bed_id == "A-07"


class _Record:
    key = b"A-07"
    timestamp = 1 << 50
    timestamp_type = 1

    def __init__(self, value: bytes) -> None:
        self.value = value
