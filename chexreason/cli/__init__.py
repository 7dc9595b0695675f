"""The commands, one a file."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from chexreason.confdir import command_help, confdir
from chexreason.errors import PrintableRecord, friendly, printable, unknown_choices
from chexreason.files import without_secrets
from chexreason.runs import ATTEMPT_OF
from chexreason.signals import Stopped, is_first_rank, on_leave, requeue, watched


def _ask_for_requeue(cfg: DictConfig, name: str) -> None:
    """Have SLURM run the job again: asked once a job, by the first rank, and by a sweep for all of its cells."""
    if cfg.get("requeue", True) and is_first_rank() and ATTEMPT_OF not in os.environ:
        requeue()


def command(*kinds: type[BaseException]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function of a config the command of its file, which reads ``conf/<verb>.yaml``.

    Its errors of ``kinds``, and of wrong values, keys and files, are one line each. ``--help`` prints the command's
    config, where each setting is described. A choice that does not exist stops it before Hydra does, and the closest
    one is named. SIGTERM, SIGUSR1 and SIGUSR2 end it with status 75.
    """

    def decorate(body: Callable[..., Any]) -> Callable[..., Any]:
        verb = Path(body.__code__.co_filename).stem

        @hydra.main(version_base="1.3", config_path=confdir(), config_name=verb)
        @functools.wraps(body)
        def configured(cfg: DictConfig) -> Any:
            with friendly(ValueError, KeyError, OSError, *kinds):
                logging.setLogRecordFactory(PrintableRecord)
                ask = functools.partial(_ask_for_requeue, cfg)
                try:
                    with watched(), on_leave(ask):  # a launcher's process begins here
                        return body(cfg)
                except Stopped as stopped:
                    ask(str(stopped))
                    raise

        @functools.wraps(body)
        def run() -> Any:
            if {"--help", "-h"} & set(sys.argv[1:]):
                print(command_help(verb))
                raise SystemExit(0)
            faults = [
                f"{shown}: a run keeps its arguments; write ${{oc.env:VARIABLE}} in place of the password or key"
                for word in sys.argv[1:]
                if (shown := without_secrets(word)) != word
            ]
            if faults := faults or unknown_choices(sys.argv[1:]):
                print("error: " + printable("\n       ".join(faults)), file=sys.stderr)
                raise SystemExit(1)
            with watched():
                return configured()

        return run

    return decorate
