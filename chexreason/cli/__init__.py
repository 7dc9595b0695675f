"""The commands, one a file."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from chexreason.confdir import command_help, confdir
from chexreason.errors import PrintableRecord, friendly, unknown_choices, unknown_key
from chexreason.files import value_sha256, without_secrets
from chexreason.renames import flat
from chexreason.runs import ATTEMPT_OF
from chexreason.signals import is_first_rank, on_leave, requeue, watched

# Settings that hold a list, a list of pairs, and a mapping; without a dot also those of a data set.
LISTS = {"adapters", "arms", "attributions", "credentialed", "data.test", "data.val", "extra.blend", "extra.evaluate"}
LISTS |= {"extra.prepare", "extra.scores", "extra.train", "few_labels", "honest", "only", "parts", "pool_splits"}
LISTS |= {"reviewers", "seeds", "splits", "tags", "views", "without"}
# Options of Lightning's Trainer that no config sets, and that some people set by hand.
LIGHTNING = ("benchmark", "detect_anomaly", "fast_dev_run", "limit_train_batches", "limit_val_batches", "num_nodes")
LIGHTNING += ("overfit_batches", "profiler", "sync_batchnorm")
PAIRS, MAPPINGS = {"agreement", "allow_overlap"}, {"extra", "rewards", "runs", "sets"}


def folder_name(overrides: str) -> str:
    """The folder of a multirun's job: its overrides, or their start and a hash where they cannot name one folder."""
    fits = "/" not in overrides and len(overrides.encode()) <= 255
    return overrides if fits else re.sub(r"[^\w.+-]+", "-", overrides)[:80] + f"-{value_sha256(overrides)[:12]}"


def direction(monitor: str, mode: str | None) -> str:
    """What a sweeper is to do with a run's ``phase.monitor``: maximize or minimize."""
    from chexreason.training.callbacks.transfer_rules import monitor_mode

    return f"{monitor_mode(monitor, mode)}imize"


def reasoning_folder(reasoning: str) -> str:
    """What tells the folder of an arm's scores after another reasoning from that after its own."""
    return "" if reasoning == "own" else "@" + re.sub(r"[^\w.+-]+", "-", str(reasoning))


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
OmegaConf.register_new_resolver("reasoning_folder", reasoning_folder, replace=True)
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


def composed(verb: str, words: Sequence[str]) -> dict[str, Any]:
    """The settings of a command under those of the ``words`` that choose a file of ``conf/``, by dotted key."""
    groups = [word for word in words if (Path(confdir()) / word.partition("=")[0].partition("@")[0]).is_dir()]
    begun = GlobalHydra.instance().is_initialized()  # in a command: with the folders of configs that it was given
    with nullcontext() if begun else hydra.initialize_config_dir(confdir(), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return flat(OmegaConf.to_container(loader.load_configuration(verb, groups, run_mode=RunMode.RUN)))


def check_types(cfg: DictConfig, verb: str) -> None:
    """Raises ValueError on a number or a switch that the command line gives another kind of value."""
    words = [str(word) for word in HydraConfig.get().overrides.task]
    given = {key: OmegaConf.select(cfg, key) for key in (word.lstrip("+").partition("=")[0] for word in words)}
    free = ("paths.", "trainer.")  # trainer.devices=auto: Lightning says what it takes
    odd = {key: now for key, now in given.items() if isinstance(now, (str, bool)) and not key.startswith(free)}
    before = composed(verb, words) if odd.keys() - {"name", "arm"} else {}
    for key, now in odd.items():
        was = before.get(key)
        if isinstance(was, (bool, int, float)) and type(now) is not type(was):
            kind = "true or false is" if isinstance(was, bool) else "a number is"
            raise ValueError(f"{key}={str(now).lower()}: {kind} meant, as in {key}={str(was).lower()}")


def misread(error: HydraException, verb: str) -> str:
    """What Hydra could not do with the command line, in one line, and what was probably meant."""
    text = str(error)
    if found := re.search(r"Could not override '([\w.]+)'", text):
        known = composed(verb, [])
        with suppress(HydraException):  # several choices of a multirun, or files of the user's own
            known = composed(verb, sys.argv[1:])
        return unknown_key(found[1], list(known))
    return " ".join(text.split())


def as_meant(word: str) -> str:
    """An argument in which ``~/`` begins a path at home, and an option of Lightning's Trainer is added by its name.

    ``reasoning=sampled(4)``, which Hydra would take for a function of its own, is ``sampled:4``.
    """
    word = re.sub(r"^reasoning=sampled\((\w*)\)$", r"reasoning=sampled:\1", word)
    if word.partition("=")[0] in {f"trainer.{name}" for name in LIGHTNING}:
        word = f"++{word}"
    return re.sub(r"(?<=[=\[,'\"])~(?=/|$)", lambda _: str(Path.home()), word) if "=" in word else word


def ask_for_requeue(cfg: DictConfig) -> None:
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
                if "data" in cfg:
                    from chexreason.build.data_config import complete_data

                    complete_data(cfg)
                check_types(cfg, verb)
                with watched(), on_leave(lambda _: ask_for_requeue(cfg)):  # a launcher's process begins here
                    return body(cfg)

        @functools.wraps(body)
        def run() -> Any:
            if {"--help", "-h"} & set(sys.argv[1:]):
                print(command_help(verb))
                raise SystemExit(0)
            sys.argv[1:] = map(as_meant, sys.argv[1:])
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that Hydra's own errors are raised and not printed
            with friendly(ValueError):
                told = "would be kept by the run: write ${oc.env:VARIABLE} in place of the password or key"
                faults = [f"{shown} {told}" for word in sys.argv[1:] if (shown := without_secrets(word)) != word]
                if faults := faults or unknown_choices(sys.argv[1:]):
                    raise ValueError("\n       ".join(faults))
                try:
                    with watched():
                        return configured()
                except HydraException as error:
                    raise ValueError(misread(error, verb)) from None

        return run

    return decorate
