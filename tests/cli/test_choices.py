"""A choice that does not exist, asked of each command: it stops before Hydra does and names the closest one."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    "command", ["prepare", "preflight", "train", "evaluate", "scores", "report", "rewards", "tables", "traces"]
)
def test_every_command_names_the_closest_choice(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [command, "data=phantm"])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"chexreason.cli.{command}").main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: there is no data=phantm: did you mean phantom?\n"
