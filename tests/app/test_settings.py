"""Where settings come from, and what is said of bad ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.settings import BadSetting, Settings, load, masked


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is this test's own."""
    for name in list(os.environ):
        if name.startswith("VITALSTREAM_"):
            monkeypatch.delenv(name)


def test_options_win_over_the_environment_and_it_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is nowhere has its default."""
    file = tmp_path / "settings.toml"
    file.write_text('port = 1001\nbeds = 2001\nkafka = "file:1"\n')
    monkeypatch.setenv("VITALSTREAM_PORT", "1002")
    monkeypatch.setenv("VITALSTREAM_BEDS", "2002")
    found = load(file, port="1003", beds=None)

    assert (found.port, found.beds, found.kafka) == (1003, 2002, "file:1")
    assert found.group == "vitalstream"


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For containers."""
    file = tmp_path / "settings.toml"
    file.write_text("simulator = false\n")
    monkeypatch.setenv("VITALSTREAM_CONFIG", str(file))

    assert load().simulator is False


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_has_a_variable_and_says_what_it_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One name per option; a wrong value names it."""
    field = Settings.model_fields[name]
    assert field.description
    if field.annotation not in (str, str | None, Path, Path | None):
        monkeypatch.setenv(f"VITALSTREAM_{name.upper()}", "never")
        with pytest.raises(BadSetting, match=f"^{name}: 'never' is not allowed: "):
            load()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("port", "70000", "less than or equal to 65535"),
        ("port", "-1", "greater than or equal to 0"),
        ("kafka", "host", "HOST:PORT"),
        ("kafka", "host:0", "HOST:PORT"),
        ("kafka", "a:1,,b:2", "HOST:PORT"),
        ("devices", "gpu", "cpu, cuda or cuda:N"),
        ("emit", "all", "'latest' or 'each'"),
        ("log_level", "loud", "'debug'"),
        ("stale_after_ms", "10", "greater than or equal to 1000"),
        ("rate", "nan", ""),
        ("simulator", "perhaps", "boolean"),
        ("database", "mysql://h/x", "sqlite:///PATH or postgresql://"),
    ],
)
def test_a_bad_value_names_setting_value_and_what_is_allowed(
    name: str, value: str, allowed: str
) -> None:
    """In one line."""
    with pytest.raises(BadSetting) as told:
        load(**{name: value})

    line = str(told.value)
    assert line.startswith(f"{name}: {value!r} is not allowed: ")
    assert allowed in line
    assert "\n" not in line


def test_a_name_that_is_no_setting_is_told(tmp_path: Path) -> None:
    """A spelling mistake in a file would otherwise do nothing."""
    file = tmp_path / "settings.toml"
    file.write_text("prot = 1\n")

    with pytest.raises(BadSetting, match=r"^prot: there is no such setting"):
        load(file)


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe", b"[a\n"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes) -> None:
    """It is named."""
    file = tmp_path / "settings.toml"
    file.write_bytes(content)

    with pytest.raises(BadSetting, match=r"^config: ") as told:
        load(file)
    assert str(file) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("token", ["geheim", "geheim sein", "geheim\u00e9" * 3])
def test_a_bad_token_is_never_shown(token: str) -> None:
    """Too short, or letters that no header carries."""
    with pytest.raises(BadSetting, match=r"^token: the value is not allowed") as told:
        load(token=token)
    assert "geheim" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:geheim@h/x",
        "postgresql://u:ge@geheim:heim@h/x",
        "mysql://u:geheim@h/x",
        "postgresql://h/x?password=geheim",
        "postgresql://u:geheim/heim@h/x",
    ],
)
def test_a_masked_url_has_no_password(url: str) -> None:
    """Wherever it stands."""
    assert "geheim" not in masked(url)
    assert "heim@" not in masked(url)
    assert masked(url).partition(":")[0] == url.partition(":")[0]


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("icu.example", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, alone: bool) -> None:
    """What is open to others needs a token."""
    assert load(host=host).loopback is alone


def test_settings_cannot_be_changed_later() -> None:
    """They are what was checked."""
    with pytest.raises(ValueError, match="frozen"):
        load().port = 1
