"""Progress of long loops."""

import logging
import re

import pytest

from chexreason import errors, progress
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
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "BAR_AFTER", -1.0)
    with Meter(2, HOSTILE) as meter:
        meter(1, f"[bold]{HOSTILE}")
    said = capsys.readouterr().err
    assert r"\x1b]0;t\x07" in said.partition("[bold]")[2]
    assert not set("\x07\x9b\u202e\ud800") & set(said)
