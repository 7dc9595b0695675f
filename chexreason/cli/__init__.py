"""The commands, one a file."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from chexreason.confdir import command_help, confdir
from chexreason.errors import PrintableRecord, friendly, printable, unknown_choices
from chexreason.files import value_sha256, without_secrets
from chexreason.renames import flat
from chexreason.runs import ATTEMPT_OF
from chexreason.signals import Stopped, is_first_rank, on_leave, requeue, watched

# Settings that hold a list, a list of pairs, and a mapping; without a dot also those of a data set.
LISTS = {"adapters", "arms", "attributions", "credentialed", "data.test", "data.val", "extra.evaluate", "extra.prepare"}
LISTS |= {"extra.scores", "extra.train", "honest", "only", "parts", "pool_splits", "reviewers", "seeds", "splits"}
LISTS |= {"tags", "views"}
PAIRS, MAPPINGS = {"agreement", "allow_overlap"}, {"extra", "rewards", "runs", "sets"}


def folder_name(overrides: str) -> str:
    """The folder of a multirun's job: its overrides, or their start and a hash where they cannot name one folder."""
    fits = "/" not in overrides and len(overrides.encode()) <= 255
    return overrides if fits else re.sub(r"[^\w.+-]+", "-", overrides)[:80] + f"-{value_sha256(overrides)[:12]}"


def direction(monitor: str, mode: str | None) -> str:
    """What a sweeper is to do with a run's ``phase.monitor``: maximize or minimize."""
    from chexreason.training.callbacks.transfer_rules import monitor_mode

    return f"{monitor_mode(monitor, mode)}imize"


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
OmegaConf.register_new_resolver("direction", direction, replace=True)


def read_lists(cfg: DictConfig) -> None:
    """Make one value where a list is meant a list of one, and two names where pairs are meant a pair.

    Raises ValueError on one value where a mapping is meant.
    """
    for key, value in flat(OmegaConf.to_container(cfg)).items():
        names, alone = {key, key.rpartition(".")[2]}, isinstance(value, (str, int, float))
        if value == "???" or str(value).startswith("${"):
            continue
        if alone and names & MAPPINGS:
            raise ValueError(f"{key}={value}: say of what, as in +{key}.NAME={value}")
        two = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
        if (alone and names & LISTS) or (two and names & PAIRS):
            OmegaConf.update(cfg, key, [value])


def at_home(word: str) -> str:
    """An argument in which ``~/`` at the start of a path is the home directory: no shell expands it after a dot."""
    return re.sub(r"(?<=[=\[,'\"])~(?=/|$)", lambda _: str(Path.home()), word) if "=" in word else word


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
                if HydraConfig.get().job.chdir:
                    raise ValueError("relative paths start where the command is given: set hydra.job.chdir=false")
                read_lists(cfg)
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
            sys.argv[1:] = map(at_home, sys.argv[1:])
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
