"""`vitalstream check`: honest, quick, without secrets."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from app.roles import check
from app.settings import load
from streaming.broker import EmbeddedBroker

SECRET = "geheimes-token"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped model is loaded by other tests."""

    async def model(settings: Any) -> check.Finding:
        if settings.model is not None:
            return await real(settings)
        return check.Finding("model", True, "not loaded here")

    real = check._model
    monkeypatch.setattr(check, "_model", model)


async def look(**options: Any) -> tuple[bool, dict[str, check.Finding], str]:
    """The verdict, the findings and what is printed."""
    settings = load(token=SECRET, **options)
    output = io.StringIO()
    well = await check.check(settings, Console(file=output, width=200))
    findings = {each.what: each for each in await check.examine(settings)}
    assert SECRET not in output.getvalue()
    return well, findings, output.getvalue()


async def test_the_embedded_default_is_well(tmp_path: Path) -> None:
    """Nothing is named, so nothing is missing but, perhaps, the page."""
    well, findings, text = await look(data_dir=tmp_path)

    assert well is (findings["page"].ok is True)
    assert "`run` embeds one" in text
    assert "made at the first start" in text
    assert findings["token"].detail == "set (not shown)"


async def test_an_absent_broker_is_missing(tmp_path: Path) -> None:
    """It is told in words, not by the name of an exception."""
    well, findings, _ = await look(kafka="127.0.0.1:1", data_dir=tmp_path)

    assert not well
    assert findings["kafka"] == ("kafka", False, "no broker answers there")


async def test_an_absent_database_is_missing_and_keeps_its_password(tmp_path: Path) -> None:
    """What the driver says may hold the password; it is not shown."""
    url = f"postgresql://ward:{SECRET}@127.0.0.1:1/ward"
    well, findings, _ = await look(database=url, data_dir=tmp_path)

    assert not well
    assert findings["database"].ok is False


async def test_an_empty_database_is_not_migrated(tmp_path: Path) -> None:
    """It says what to do."""
    well, findings, _ = await look(database=f"sqlite:///{tmp_path / 'empty.db'}")

    assert not well
    assert "migrat" in findings["database"].detail


@pytest.mark.parametrize("content", [None, b"no weights at all"])
async def test_weights_that_are_none_are_missing(tmp_path: Path, content: bytes | None) -> None:
    """No file, or a file of something else: both are named."""
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    well, findings, _ = await look(model=path, data_dir=tmp_path)

    assert not well
    assert findings["model"].ok is False
    assert str(path) in findings["model"].detail


async def test_an_open_address_without_a_token_is_missing(tmp_path: Path) -> None:
    """It would not start."""
    findings = await check.examine(load(host="0.0.0.0", data_dir=tmp_path))

    assert [each.what for each in findings if each.ok is False and each.what == "token"]


async def test_a_broker_with_its_topics_is_well(tmp_path: Path) -> None:
    """The topics' partition count is told."""
    async with EmbeddedBroker() as broker:
        well, findings, _ = await look(kafka=broker.servers, data_dir=tmp_path)

    assert findings["kafka"].ok, findings["kafka"]
    assert "6 topics of " in findings["kafka"].detail
    assert well is (findings["page"].ok is True)
