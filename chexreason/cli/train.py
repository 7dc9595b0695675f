"""Train one arm: ``python -m chexreason.cli.train experiment=demo_sft``. The same command again resumes or skips."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

from chexreason import runs, signals
from chexreason.cli import command
from chexreason.files import finite

if TYPE_CHECKING:
    import lightning as L

log = logging.getLogger(__name__)
_LAUNCH = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what Lightning sets for its ranks


def train(cfg: DictConfig) -> tuple[dict[str, float | None], dict[str, Any]]:
    """Train the arm ``cfg`` describes; returns its final metrics and the objects built (empty when it was DONE).

    A metric that has no value (NaN) is None. Resumes from the run directory's last checkpoint. Raises RunError when the
    directory is in use or holds another config. On several ranks each of them runs this; the first one checks, writes
    and speaks for all.
    """
    import lightning as L

    from chexreason.build.data import build_labels, build_prompt
    from chexreason.build.model import adapter_card, build_policy, quiet
    from chexreason.build.training import build_data, build_module, build_trainer
    from chexreason.cli.checks import before_training
    from chexreason.model.adapters import answer_tokens
    from chexreason.training.callbacks.checkpoint import check_checkpoint
    from chexreason.training.callbacks.run_files import merge_attempts

    run_dir, first = Path(cfg.run_dir), signals.is_first_rank()
    if not first:
        logging.getLogger().setLevel(logging.WARNING)
    with runs.open_run(run_dir, cfg):
        if runs.is_done(run_dir) and not runs.restarts(cfg):  # another rank may be about to set it aside
            done = runs.read_done(run_dir)
            stopped = done.pop(runs.STOPPED, None)
            log.info("%s is DONE%s: nothing to train", run_dir, f" (stopped at {stopped})" if stopped else "")
            return done, {}
        quiet()
        L.seed_everything(cfg.seed, workers=True, verbose=False)
        label_set, prompt = build_labels(cfg), build_prompt(cfg)
        policy = build_policy(cfg)
        data = build_data(cfg, policy, prompt, label_set)
        module = build_module(cfg, policy, prompt, label_set)
        learned = {"answer_tokens": max([*data.answer_lengths, *map(answer_tokens, cfg.adapters)])}
        card = adapter_card(cfg, prompt, label_set) | learned
        trainer = build_trainer(cfg, run_dir, card, label_set, data)
        if first and cfg.preflight:
            before_training(cfg, data.train_samples, policy, label_set)
        if checkpoint := resume_from(run_dir, cfg):
            check_checkpoint(checkpoint)
            log.info("resuming from %s", checkpoint)
        with launching(), signals.on_leave(partial(_stop_ranks, trainer)):
            _fit(trainer, module, data, checkpoint)
        metrics = finite({k: float(v) for k, v in trainer.callback_metrics.items()})
        if first:
            merge_attempts(run_dir / "metrics", run_dir / "metrics.csv")
            runs.mark_done(run_dir, metrics | _stopped(trainer))
        return metrics, {"trainer": trainer, "module": module, "data": data, "policy": policy}


def resume_from(run_dir: Path, cfg: DictConfig) -> Path | None:
    """The checkpoint to go on from; none in a start that begins anew, where another rank may not have set it aside."""
    checkpoint = run_dir / runs.CHECKPOINT
    return checkpoint if checkpoint.is_file() and not runs.restarts(cfg) else None


def _stopped(trainer: L.Trainer) -> dict[str, str]:
    """The reason for which the collapse watch ended the run, to stand in DONE; empty where it made all its steps."""
    from chexreason.training.callbacks.collapse_watch import CollapseWatch

    if -1 < trainer.max_steps <= trainer.global_step:
        return {}
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    reasons = [callback.stopped for callback in callbacks if isinstance(callback, CollapseWatch) and callback.stopped]
    return {runs.STOPPED: reasons[0]} if reasons else {}


def _stop_ranks(trainer: L.Trainer, name: str) -> None:
    """Keep the state after the last whole step; then pass the signal on to the ranks that Lightning started here."""
    trainer.checkpoint_callback.write_ready(name)  # type: ignore[union-attr]
    if trainer.strategy.launcher is not None:
        trainer.strategy.launcher.kill(signal.SIGTERM)


def _fit(trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule, checkpoint: Path | None) -> None:
    try:
        trainer.fit(module, data, ckpt_path=checkpoint and str(checkpoint), weights_only=True)
    except SystemExit:
        if trainer.interrupted:  # Lightning turns Ctrl-C into exit(1)
            raise KeyboardInterrupt from None
        raise


@contextmanager
def launching() -> Iterator[None]:
    """Let Lightning start the further ranks of this job, and leave the process fit to train the next job of a sweep.

    Lightning starts a rank by repeating the command line of this process. In a multirun that line is the whole sweep,
    so it is replaced by one that runs the current job alone, in its directory. At the end the command line, the
    environment variables that Lightning sets and the process group are put back.
    """
    import torch.distributed as dist

    environment, arguments = {name: os.environ.get(name) for name in _LAUNCH}, sys.argv
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        sys.argv = [sys.argv[0], *_single_job()]
    try:
        yield
    finally:
        sys.argv = arguments
        for name, value in environment.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _single_job() -> list[str]:
    """Arguments that run the current job of a sweep alone, in its own directory."""
    job = HydraConfig.get()
    with read_write(job), open_dict(job):
        job.run.dir = job.runtime.output_dir  # where Lightning lets a rank run
    searched = [f"--config-dir={s.path}" for s in job.runtime.config_sources if s.provider == "command-line"]
    return [*searched, f"--config-name={job.job.config_name}", *job.overrides.task, "hydra.mode=RUN"]


def best_score(run_dir: Path) -> float | None:
    """The monitored metric of a run's best adapter, also where it was DONE; None where no validation had a score."""
    from chexreason.model.adapters import read_card

    best = run_dir / "adapter" / "best"
    return read_card(best)["value"] if best.is_dir() else None


@command(runs.RunError, ModuleNotFoundError, FloatingPointError)
def main(cfg: DictConfig) -> float | None:
    """Train, and return to a sweeper the score of the adapter that was chosen."""
    with open_dict(cfg):
        cfg.run_dir = HydraConfig.get().runtime.output_dir
    metrics, _ = train(cfg)
    if signals.is_first_rank():
        for line in ending(Path(cfg.run_dir), metrics):
            log.info("%s", line)
    return best_score(Path(cfg.run_dir))


def ending(run_dir: Path, metrics: Mapping[str, float | None]) -> list[str]:
    """What a finished run says: its last scores on validation studies, and its adapters, the chosen one first."""
    from chexreason.model.adapters import read_card

    found = [(re.fullmatch(r"val/(.+)/macro_f1", name), value) for name, value in sorted(metrics.items())]
    scores = ", ".join(f"{at[1]} {value:.3f}" for at, value in found if at and value is not None)
    lines = [f"last validation, macro-F1: {scores}"] if scores else []
    for which in ("best", "last"):
        folder = run_dir / "adapter" / which
        if folder.is_dir():
            card = read_card(str(folder))
            value = "no value" if card["value"] is None else f"{card['value']:.4f}"
            lines.append(f"{which} adapter: step {card['step']}, {card['monitor']} {value}: {folder}")
    return lines


if __name__ == "__main__":
    main()
