"""The collapse watch: each sign on its own, told once, and the end of the run where that was asked for."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from chexreason.training.callbacks.collapse_watch import CollapseWatch, signs
from tests.support.training import OneWeight, watching

HEALTHY = {
    "entropy": 1.0,
    "label_dominance": 0.4,
    "distinct_completions": 0.9,
    "completion_length": 100.0,
    "zero_variance_groups": 0.2,
    "fail_rate": 0.1,
}
LIMITS = watching("unused").limits
FAULTS = [
    ("entropy", 0.19, "min_entropy", r"entropy .* 19% .*limit 20%.*kl_beta"),
    ("label_dominance", 0.95, "max_label_dominance", r"one label is in 95% .*limit 90%"),
    ("distinct_completions", 0.3, "min_distinct", r"only 30% of a group's answers"),
    ("completion_length", 160.0, "max_length_drift", r"length is off by 60%"),
    ("completion_length", 40.0, "max_length_drift", r"length is off by 60%"),
    ("zero_variance_groups", 0.9, "max_zero_variance", r"90% of the groups earn one reward"),
    ("fail_rate", 0.6, "max_fail_rate", r"60% of the answers break the format"),
]


class Run:
    """A trainer as far as the watch looks at it."""

    def __init__(self, watch: CollapseWatch) -> None:
        self.watch, self.step = watch, 0
        self.trainer = SimpleNamespace(callback_metrics={}, should_stop=False, is_global_zero=True)

    def rollouts(self, *figures: dict[str, float]) -> None:
        for each in figures:
            self.step += 1
            self.trainer.callback_metrics = {f"train/{k}": torch.tensor(v) for k, v in each.items()}
            self.trainer.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=self.step))
            self.watch.on_train_batch_end(self.trainer, None, None, None, 0)


@pytest.mark.parametrize(("figure", "value", "limit", "words"), FAULTS)
def test_each_sign_is_found_alone_and_can_be_switched_off(figure, value, limit, words):
    assert signs(HEALTHY, HEALTHY, LIMITS) == {}
    ill = HEALTHY | {figure: value}
    found = signs(ill, HEALTHY, LIMITS)
    assert list(found) == [limit]
    assert re.search(words, found[limit])
    assert signs(ill, HEALTHY, LIMITS | {limit: None}) == {}


def test_a_sign_is_told_once_and_again_after_it_was_gone(tmp_path, caplog):
    path = tmp_path / "collapse.json"
    run = Run(watching(path, window=2))
    ill = HEALTHY | {"label_dominance": 1.0}
    run.rollouts(HEALTHY, HEALTHY, ill)  # the mean over two is 0.7: not yet
    assert not path.exists()
    run.rollouts(ill, ill, ill)
    assert [e["rollout"] for e in json.loads(path.read_text())] == [4]
    run.rollouts(HEALTHY, HEALTHY, ill, ill)
    events = json.loads(path.read_text())
    assert [(e["rollout"], e["limit"]) for e in events] == [(4, "max_label_dominance"), (10, "max_label_dominance")]
    assert caplog.text.count("one label is in 100%") == 2
    assert run.trainer.should_stop is False


def test_entropy_and_length_are_measured_against_the_first_rollouts(tmp_path):
    low = HEALTHY | {"entropy": 0.1, "completion_length": 10.0}
    steady = Run(watching(tmp_path / "a.json", window=2))
    steady.rollouts(*[low] * 5)
    assert not (tmp_path / "a.json").exists()
    falling = Run(watching(tmp_path / "b.json", window=2))
    falling.rollouts(HEALTHY, HEALTHY, low, low)
    found = json.loads((tmp_path / "b.json").read_text())
    assert {e["limit"] for e in found} == {"min_entropy", "max_length_drift"}


def test_it_stops_the_run_only_where_asked_and_only_the_first_rank_writes(tmp_path):
    ill = HEALTHY | {"fail_rate": 1.0}
    run = Run(watching(tmp_path / "collapse.json", window=1, stop=True))
    run.trainer.is_global_zero = False
    run.rollouts(HEALTHY)
    assert run.trainer.should_stop is False
    run.rollouts(ill)
    assert run.trainer.should_stop is True
    assert not (tmp_path / "collapse.json").exists()


def test_a_reward_that_is_constant_in_the_first_rollout_is_told_at_once(tmp_path, caplog):
    flat = HEALTHY | {"zero_variance_groups": 1.0}
    for window, limit, figures in ((5, 0.8, [flat, HEALTHY]), (1, 0.8, [flat, HEALTHY]), (5, 0.8, [HEALTHY, flat])):
        path = tmp_path / f"{window}{figures[0] is flat}.json"
        Run(watching(path, window=window, max_zero_variance=limit)).rollouts(*figures)
        told = (
            [e["rollout"] for e in json.loads(path.read_text()) if e["limit"] == "constant_reward"]
            if path.exists()
            else []
        )
        assert told == ([1] if figures[0] is flat else [])
    assert "start from an SFT adapter" in caplog.text
    off = Run(watching(tmp_path / "off.json", window=5, max_zero_variance=None, stop=True))
    off.rollouts(flat)
    assert not (tmp_path / "off.json").exists()
    stopped = Run(watching(tmp_path / "stop.json", window=5, stop=True))
    stopped.rollouts(flat)
    assert stopped.trainer.should_stop is True


def test_a_resumed_watch_tells_what_an_uninterrupted_one_tells(tmp_path):
    figures = [HEALTHY] * 3 + [HEALTHY | {"entropy": 0.1}] * 4 + [HEALTHY] * 3 + [HEALTHY | {"fail_rate": 0.9}] * 3
    whole = Run(watching(tmp_path / "whole.json", window=3))
    whole.rollouts(*figures)
    expected = json.loads((tmp_path / "whole.json").read_text())
    assert [e["limit"] for e in expected] == ["min_entropy", "max_fail_rate"]
    for cut in range(1, len(figures)):
        path = tmp_path / f"{cut}.json"
        first = Run(watching(path, window=3))
        first.rollouts(*figures[:cut])
        second = Run(watching(path, window=3))
        second.watch.load_state_dict(json.loads(json.dumps(first.watch.state_dict())))
        second.step = cut
        second.rollouts(*figures[cut:])
        assert json.loads(path.read_text()) == expected, cut


def test_what_is_not_logged_is_named(tmp_path):
    run = Run(watching(tmp_path / "collapse.json"))
    with pytest.raises(KeyError, match="needs train/label_dominance, which"):
        run.rollouts({k: v for k, v in HEALTHY.items() if k != "label_dominance"})
    with pytest.raises(ValueError, match=r"window=0"):
        watching(tmp_path / "collapse.json", window=0)
    with pytest.raises(ValueError, match=r"add or leave out min_entrpy$"):
        watching(tmp_path / "collapse.json", min_entrpy=0.1)


class Collapsing(OneWeight):
    """Logs like the GRPO module, and loses its entropy from the third rollout on."""

    def training_step(self, batch, batch_idx):
        figures = HEALTHY | ({"entropy": 0.01} if batch_idx > 2 else {})
        self.log_dict({f"train/{k}": v for k, v in figures.items()}, batch_size=1)
        return super().training_step(batch, batch_idx)


def test_in_a_real_trainer_it_sees_each_rollout_and_ends_the_run(tmp_path):
    watch = watching(tmp_path / "collapse.json", window=1, stop=True)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, callbacks=[watch], enable_model_summary=False, **quiet)
    trainer.fit(Collapsing(), torch.utils.data.DataLoader(torch.zeros(8, 1)))
    assert trainer.global_step == 4
    assert [e["limit"] for e in json.loads((tmp_path / "collapse.json").read_text())] == ["min_entropy"]


def test_a_figure_that_is_no_number_is_a_sign_of_its_own():
    found = signs(HEALTHY | {"entropy": float("nan")}, HEALTHY, LIMITS)
    assert list(found) == ["not_finite"]
    assert found["not_finite"].startswith("entropy: ")
