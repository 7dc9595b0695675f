"""Signs of mode collapse while GRPO runs: said once, kept in the run directory, and the end of the run if asked."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L

from chexreason.files import write_json

log = logging.getLogger(__name__)

WATCHED = (
    "entropy",
    "label_dominance",
    "distinct_completions",
    "completion_length",
    "zero_variance_groups",
    "fail_rate",
)
# What a limit is about, in words, with the value and the limit; and what to do about it.
SENTENCES = {
    "min_entropy": "the entropy a token is {value:.0%} of that of the first rollouts (limit {limit:.0%}): raise "
    "phase.module.sampling.temperature or objective.kl_beta, or lower phase.lr",
    "max_label_dominance": "one label is in {value:.0%} of the answers (limit {limit:.0%}): see what the reward pays "
    "with python -m chexreason.cli.rewards, or balance the training set",
    "min_distinct": "only {value:.0%} of a group's answers differ (limit {limit:.0%}): raise "
    "phase.module.sampling.temperature or objective.kl_beta",
    "max_length_drift": "the answers' length is off by {value:.0%} from that of the first rollouts (limit "
    "{limit:.0%}): weigh length in reward=, or raise objective.kl_beta",
    "max_zero_variance": "{value:.0%} of the groups earn one reward and teach nothing (limit {limit:.0%}): raise "
    "phase.module.group_size or the temperature, or choose harder studies",
    "max_fail_rate": "{value:.0%} of the answers break the format (limit {limit:.0%}): raise "
    "phase.module.sampling.max_new_tokens if they are cut short, else lower phase.lr",
}

CONSTANT = (
    "no group of the first rollout earned two different rewards, so nothing can be learned from it: where every answer "
    "breaks the format, start from an SFT adapter (adapters=[...]); where a group's answers are one, raise "
    "phase.module.sampling.temperature; where neither, see what the reward pays with python -m chexreason.cli.rewards"
)


def signs(now: Mapping[str, float], first: Mapping[str, float], limits: Mapping[str, float | None]) -> dict[str, str]:
    """What of the means ``now`` lies beyond its limit or is no number, by name, each as a sentence with the way out.

    ``first`` are the means of the first rollouts, which entropy and length are measured against; a limit of None is
    not checked.
    """
    measured = {
        "min_entropy": _share(now["entropy"], first["entropy"]),
        "max_label_dominance": now["label_dominance"],
        "min_distinct": now["distinct_completions"],
        "max_length_drift": abs(_share(now["completion_length"], first["completion_length"]) - 1),
        "max_zero_variance": now["zero_variance_groups"],
        "max_fail_rate": now["fail_rate"],
    }
    found = {}
    for name, value in measured.items():
        limit = limits[name]
        if limit is not None and (value < limit if name.startswith("min_") else value > limit):
            found[name] = SENTENCES[name].format(value=value, limit=limit)
    if lost := [name for name in WATCHED if not math.isfinite(now[name])]:  # no comparison with NaN is ever true
        found["not_finite"] = f"{', '.join(lost)}: not a finite number any more; lower phase.lr"
    return found


class CollapseWatch(L.Callback):
    """Warns when the mean over the last ``window`` rollouts passes a limit, and stops the run if ``stop`` is set.

    Looks at what the GRPO module logs of each rollout, from the first full window on; at the first rollout itself only
    whether any group's rewards differ. A sign is told once, and again only after it was gone; all of them stand in
    ``path``, a JSON list of rollout, limit and reason, and ``stopped`` is the reason that ended the run. ``limits`` are
    those of ``SENTENCES``; each may be None. Raises KeyError when the module does not log what is watched.
    """

    def __init__(self, path: str | Path, *, window: int, stop: bool, **limits: float | None) -> None:
        if window < 1:
            raise ValueError(f"callbacks.collapse.window={window}: look back on 1 or more rollouts")
        if odd := sorted(limits.keys() ^ SENTENCES.keys()):
            raise ValueError(f"callbacks.collapse holds {', '.join(SENTENCES)}: add or leave out {', '.join(odd)}")
        self.path, self.window, self.stop, self.limits = Path(path), window, stop, limits
        self._recent: deque[dict[str, float]] = deque(maxlen=window)
        self._first: dict[str, float] | None = None
        self._shown: set[str] = set()
        self._events: list[dict[str, Any]] = []
        self.stopped: str | None = None  # why the run was ended, if it was

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        logged = {name: trainer.callback_metrics.get(f"train/{name}") for name in WATCHED}
        if missing := [name for name, value in logged.items() if value is None]:
            raise KeyError(f"the collapse watch needs train/{', train/'.join(missing)}, which the module did not log")
        self._recent.append({name: float(value) for name, value in logged.items()})
        constant = self.limits["max_zero_variance"] is not None and self._recent[0]["zero_variance_groups"] >= 1
        if self._first is None and len(self._recent) == 1 and constant:
            self._tell(trainer, {"constant_reward": CONSTANT})
        if len(self._recent) < self.window:
            return
        now = {name: sum(rollout[name] for rollout in self._recent) / self.window for name in WATCHED}
        self._first = self._first or now
        found = signs(now, self._first, self.limits)
        new = [name for name in found if name not in self._shown]
        self._shown = set(found)
        if new:
            self._tell(trainer, {name: found[name] for name in new})

    def _tell(self, trainer: L.Trainer, found: Mapping[str, str]) -> None:
        rollout = trainer.fit_loop.epoch_loop.total_batch_idx
        self._events += [{"rollout": rollout, "limit": name, "reason": text} for name, text in found.items()]
        # Figures are averaged over ranks before they are logged, so every rank comes to the same decision.
        if self.stop:
            trainer.should_stop, self.stopped = True, self.stopped or f"rollout {rollout}: {next(iter(found.values()))}"
        if trainer.is_global_zero:
            write_json(self.path, self._events)
            for text in found.values():
                log.warning("rollout %d: %s%s", rollout, "stopping, " if self.stop else "", text)

    def state_dict(self) -> dict[str, Any]:
        state = {"recent": list(self._recent), "first": self._first}
        return state | {"shown": sorted(self._shown), "events": self._events}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._recent = deque(state_dict["recent"], maxlen=self.window)
        self._first, self._shown = state_dict["first"], set(state_dict["shown"])
        self._events = list(state_dict["events"])


def _share(value: float, first: float) -> float:
    return value / first if first > 0 else 1.0
