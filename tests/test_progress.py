"""Progress of long loops."""

import logging
import re

import pytest

from chexreason import errors, files, progress
from chexreason.progress import Meter, silent, track


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch, caplog):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    caplog.set_level(logging.INFO)


def test_items_pass_through_and_the_rate_is_logged(caplog):
    assert list(track(range(5), 5, "films")) == [0, 1, 2, 3, 4]
    assert re.search(r"films: 5 of 5, [\d.]+/s, in 0.\d s", caplog.text)
    assert list(silent([1, 2], 2)) == [1, 2]


def test_a_note_takes_the_place_of_the_rate(caplog):
    with Meter(5, "traces") as meter:
        meter(2, "accepted, 3 answers/min, 0.10 USD")
    assert [record.getMessage() for record in caplog.records] == [
        "traces: 2 of 5, accepted, 3 answers/min, 0.10 USD, about 0.0 s left"
    ]


def test_what_was_done_before_counts_and_is_no_part_of_the_rate(caplog):
    assert list(track(range(5), 5, "batches", before=5)) == [0, 1, 2, 3, 4]
    assert str(Meter(9, "batches", before=4)).startswith("batches: 4 of 9, 0.0/s, about 0.0 s left")
    assert "batches: 5 of 5, 0.0/s, in 0.0 s" in caplog.text


def test_an_error_inside_the_loop_still_ends_it(caplog):

    def broken():
        yield 1
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        list(track(broken(), 9, "films"))
    assert "films: 1 of 9, " in caplog.text


@pytest.mark.parametrize(("patience", "shown"), [(1e9, False), (-1.0, True)])
def test_a_terminal_gets_a_bar_only_when_it_takes_long(caplog, capsys, monkeypatch, patience, shown):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "BAR_AFTER", patience)
    assert list(track(range(3), 3, "films")) == [0, 1, 2]
    assert ("films" in capsys.readouterr().err) is shown
    assert "films" not in caplog.text


HOSTILE = "\x1b]0;t\x07 \x9b31m a\rb \u202e \u2066 \ud800 é \u3000肺\t\n"
SHOWN = r"\x1b]0;t\x07 \x9b31m a\rb \u202e \u2066 \ud800 é" + " \u3000肺\t\n"


def test_what_a_terminal_would_obey_is_shown_as_its_escape(monkeypatch, capsys):
    assert errors.PrintableRecord("x", 40, "", 0, "server: %s", (HOSTILE,), None).getMessage() == f"server: {SHOWN}"
    with pytest.raises(SystemExit), errors.friendly(ValueError):
        raise ValueError(HOSTILE)
    assert capsys.readouterr().err == f"error: {SHOWN}\n"
    monkeypatch.setenv("CHEXREASON_TRACEBACK", "1")
    with pytest.raises(SystemExit), errors.friendly(ValueError):
        raise ValueError(HOSTILE + "api_key=s3cr3t")
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert not [word for word in ("\x1b", "\x9b", "s3cr3t") if word in said]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "BAR_AFTER", -1.0)
    with Meter(2, HOSTILE) as meter:
        meter(1, f"[bold]{HOSTILE}")
    said = capsys.readouterr().err
    assert r"\x1b]0;t\x07" in said.partition("[bold]")[2]
    assert not set("\x07\x9b\u202e\ud800") & set(said)


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ("see wandb of s3cr3t-of-env", True),  # whatever setting it stands under
        ({"note": ["of s3cr3t-of-env"]}, True),
        ({"aws_secret_access_key": "s3cr3t"}, True),
        ({"hub-token": "s3cr3t", "password": 1234}, True),
        ("AWS_SECRET_ACCESS_KEY=s3cr3t", True),
        ("Authorization: Token s3cr3t", True),
        ('{"api_key": "a\\"s3cr3t"}', True),
        ("https://h/v1?code=s3cr3t&sig=s3cr3t&subscription-key=s3cr3t", True),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.s3cr3t", True),
        ({"max_new_tokens": 5, "eos_token": "</s>", "key_variable": "THE_KEY"}, False),
        ("a key of many tokens: https://host/x?limit=3", False),
        ("password=${oc.env:PW}", False),
    ],
)
def test_keys_are_masked_wherever_they_stand(value, masked, monkeypatch) -> None:
    monkeypatch.setenv("THE_KEY", "s3cr3t-of-env")
    shown = files.without_secrets(value)
    assert "s3cr3t" not in str(shown)
    assert "1234" not in str(shown)
    assert (shown != value) == masked


@pytest.mark.timeout(20)
def test_no_answer_of_a_server_keeps_the_search_for_keys_busy() -> None:
    for part in ("a_", "://", "Bearer ", "api_key=", "eyJaaaaaaaaaaa."):
        files.without_secrets(part * 100_000)
