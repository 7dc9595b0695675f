"""GRPO of a packaged policy: what it trains, what stays the same however the batch is cut, exact resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from chexreason.cli.train import _stopped
from chexreason.grpo.module import GRPOModule
from chexreason.model.adapters import attach_lora
from chexreason.model.generate import Sampling
from chexreason.model.load import load_policy
from chexreason.reports.history import read_rewards
from chexreason.training.callbacks.run_files import RewardLog
from chexreason.training.sft import SFTModule
from chexreason.types import Completion
from tests.support import training as t
from tests.support.deep import all_deep_but

pytestmark = pytest.mark.slow  # each test runs a model


def updates_of(module: GRPOModule) -> list[dict[str, float]]:
    """Fills as the module trains: the sums of each of its updates."""
    logged, original = [], module._update
    module._update = lambda *given: logged.append(dict(original(*given))) or logged[-1]
    return logged


def trained(module: GRPOModule, studies, folder: Path, n_updates: int, **kwargs) -> L.Trainer:
    data = t.grpo_data(module.policy, studies)
    return t.fit(module, data, folder, max_steps=n_updates, max_epochs=-1, **kwargs)


def test_the_ratio_is_one_until_the_policy_has_moved(studies, tmp_path):
    module = t.grpo(t.policy_with_lora())
    logged = updates_of(module)
    trainer = trained(module, studies, tmp_path, 4)
    means = [sums["abs_log_ratio"] / sums["tokens"] for sums in logged]
    assert max(means[0], means[2]) == 0  # first update on a rollout: its own pass is the old policy's
    assert trainer.callback_metrics["train/rollout_gap"] < 1e-5  # and the sampling loop agrees with it
    assert min(means[1], means[3]) > 1e-4  # second one: the first has moved it
    assert logged[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert logged[3]["kl"] > 0


def test_in_bfloat16_the_first_update_is_not_clipped_for_rounding(studies, tmp_path):
    """There the sampling loop's log-probabilities are others, by more than a sequence ratio's clip is wide."""
    policy = load_policy("tiny:tiny_gemma3", dtype="bfloat16")
    attach_lora(policy, r=4, alpha=8, dropout=0.0)
    objective = dataclasses.replace(t.SPEC, ratio_level="sequence", clip_low=3e-4, clip_high=4e-4)
    module, policy.banned_ids = t.grpo(policy, sampling=Sampling(24, temperature=1.3), objective=objective), []
    logged = updates_of(module)
    trainer = trained(module, studies, tmp_path, 2)
    assert logged[0]["clip_low"] == logged[0]["clip_high"] == 0
    assert trainer.callback_metrics["train/rollout_gap"] > 1e-5
    assert logged[0]["mismatch"] / logged[0]["tokens"] == pytest.approx(
        float(trainer.callback_metrics["train/rollout_gap"]), rel=1e-3
    )  # nothing is truncated or banned here, so that rounding is all there is


class Poison(L.Callback):
    """Makes the gradient of some updates infinite."""

    def __init__(self, *at: int) -> None:
        self.at, self.seen = at, 0

    def on_after_backward(self, trainer, pl_module) -> None:
        if self.seen in self.at:
            next(iter(pl_module.trainable().values())).grad.view(-1)[0] = float("inf")
        self.seen += 1


def test_an_update_that_is_not_finite_is_left_out_and_a_run_of_them_ends_it(studies, tmp_path, caplog):
    for make in (lambda p: t.grpo(p, micro_studies=2), lambda p: SFTModule(p, **t.common())):
        policy = t.policy_with_lora()
        module = make(policy)
        data = t.grpo_data(policy, studies) if isinstance(module, GRPOModule) else t.sft_data(policy, studies, 2, 1)
        before = t.weights(module)
        t.fit(module, data, tmp_path, max_steps=2, max_epochs=-1, callbacks=[Poison(0)])
        after = t.weights(module)
        assert all(value.isfinite().all() for value in after.values())
        assert any((after[name] != before[name]).any() for name in after)  # the other update counted
        assert "the gradient at step 0 is not finite" in caplog.text
        with pytest.raises(FloatingPointError, match=r"5 updates in a row.*lower phase\.lr"):
            t.fit(module, data, tmp_path, max_steps=8, max_epochs=-1, callbacks=[Poison(*range(20))])
        assert all(value.isfinite().all() for value in t.weights(module).values())


def test_a_grpo_update_does_not_depend_on_micro_batches(studies, tmp_path):
    results = []
    for micro in (1, 2, 3):
        policy = t.policy_with_lora()
        module = t.grpo(policy, micro_studies=micro)
        module.make_optimizer = lambda p: torch.optim.SGD(p, lr=0.1)
        trained(module, studies, tmp_path, 2)
        results.append(t.weights(module))
    t.assert_same(results[0], results[1], atol=1e-6)
    t.assert_same(results[0], results[2], atol=1e-6)


class Constant(t.ManyEs):
    """The same reward for every completion."""

    def __call__(self, completions: Sequence[Completion], studies, label_set):
        return {"es": torch.ones(len(completions))}


def test_groups_without_a_difference_are_left_out_where_the_objective_says_so(studies, tmp_path):
    policy = t.policy_with_lora()
    module = t.grpo(policy, reward=Constant(), objective=dataclasses.replace(t.SPEC, zero_variance="mask"))
    module.make_optimizer = lambda p: torch.optim.SGD(p, lr=1.0)
    before, logged = t.weights(module), updates_of(module)
    trainer = trained(module, studies, tmp_path, 2)
    t.assert_same(before, t.weights(module))  # no row counted, and nothing was divided by their number
    assert logged[0]["tokens"] == 0
    assert trainer.callback_metrics["train/entropy"] > 0.1  # of what was sampled: 0 would be a sign of collapse


class FlatAfterTheFirst(t.ManyEs):
    """From the second call on the same reward for every completion."""

    def __call__(self, completions: Sequence[Completion], studies, label_set):
        paid = super().__call__(completions, studies, label_set)
        return paid if len(self.seen) == 1 else {"es": torch.ones(len(completions))}


@pytest.mark.parametrize("n_steps", [2, 4])
def test_what_no_token_shows_has_no_value_and_not_that_of_the_rollout_before(studies, tmp_path, n_steps):
    policy = t.policy_with_lora()
    module = t.grpo(
        policy, reward=FlatAfterTheFirst(), objective=dataclasses.replace(t.SPEC, zero_variance="mask", dual_clip=3.0)
    )
    trainer = trained(module, studies, tmp_path, n_steps)
    known = n_steps == 2
    for name in ("ratio", "mismatch", "kl", "clip_fraction", "clip_fraction_dual"):
        assert trainer.callback_metrics[f"train/{name}"].isfinite() == known, name
    assert trainer.callback_metrics["train/entropy"].isfinite()


def test_the_correction_sees_the_distribution_sampled_from(studies, tmp_path):
    policy, seen = t.policy_with_lora(), {}
    for top_p in (1.0, 0.5):
        objective = dataclasses.replace(t.SPEC, correction="token")
        module = t.grpo(policy, objective=objective, sampling=Sampling(6, temperature=0.8, top_p=top_p))
        trainer = trained(module, studies, tmp_path, 2)
        seen[top_p] = {name: float(trainer.callback_metrics[f"train/{name}"]) for name in ("mismatch", "correction")}
    assert seen[1.0] == pytest.approx({"mismatch": 0.0, "correction": 1.0}, abs=1e-3)
    # Cutting off makes what is left likelier to be drawn than it is under the whole softmax.
    assert seen[0.5]["mismatch"] > 0.1
    assert seen[0.5]["correction"] < 0.95


def test_grpo_raises_the_reward_it_is_given(studies, tmp_path):
    policy, reward = t.policy_with_lora(), t.ManyEs()
    letters = policy.tokenizer.convert_tokens_to_ids(list("abcdefgh"))
    policy.banned_ids = sorted(set(range(len(policy.tokenizer))) - set(letters))  # few actions: learnt in few steps
    module = t.grpo(policy, reward=reward, group_size=8, objective=dataclasses.replace(t.SPEC, kl_beta=0.0))
    trained(module, studies, tmp_path, 30)
    means = [sum(t.count("e") for t in texts) / len(texts) for texts in reward.seen]
    assert sum(means[-5:]) / 5 > sum(means[:5]) / 5 + 1, means


def grpo_run(studies, folder: Path, ckpt_path: Path | None = None, callbacks=()) -> GRPOModule:
    """Five rollouts of two updates: one epoch of three rollouts and two of the next."""
    module = t.grpo(t.policy_with_lora())
    trained(module, studies, folder, 10, ckpt_path=ckpt_path, callbacks=callbacks)
    return module


@pytest.fixture(scope="module")
def whole_run(studies, tmp_path_factory):
    """An uninterrupted run that left a checkpoint after every rollout."""
    folder = tmp_path_factory.mktemp("whole")
    saves = [t.SaveAt(batch, folder / f"{batch}.ckpt") for batch in range(4)]
    return grpo_run(studies, folder, callbacks=saves), folder


@pytest.mark.parametrize("stop_after", all_deep_but(2, range(4)))  # the end of an epoch
def test_a_resumed_grpo_run_ends_with_the_same_weights(studies, whole_run, tmp_path, stop_after):
    whole, folder = whole_run
    again = grpo_run(studies, tmp_path, ckpt_path=folder / f"{stop_after}.ckpt")
    assert again.spec.reward.seen == whole.spec.reward.seen[stop_after + 1 :]
    t.assert_same(t.weights(whole), t.weights(again))


@pytest.mark.parametrize("max_steps", [2, 8])
def test_a_run_that_the_watch_stopped_says_so_unless_it_was_at_its_end(studies, tmp_path, max_steps):
    policy = t.policy_with_lora()
    watch = t.watching(tmp_path / "collapse.json", window=1, stop=True, max_fail_rate=0.0)
    how = {"max_steps": max_steps, "max_epochs": -1, "callbacks": [watch]}
    trainer = t.fit(t.grpo(policy), t.grpo_data(policy, studies), tmp_path, **how)
    assert trainer.global_step == 2  # of one rollout
    assert watch.stopped.startswith("rollout 0: ")
    assert _stopped(trainer) == ({} if max_steps == 2 else {"stopped": watch.stopped})


def test_every_study_leaves_its_reward_on_disk(studies, tmp_path):
    policy = t.policy_with_lora()
    data, log = t.grpo_data(policy, studies), RewardLog(tmp_path)
    t.fit(t.grpo(policy), data, tmp_path, max_steps=4, max_epochs=-1, callbacks=[log])
    rewards = read_rewards(tmp_path)
    n, batch = 2, data.batch_size  # rollouts, studies in each
    assert len(rewards) == n * batch
    assert rewards["step"].nunique() == n
    assert rewards["patient_id"].nunique() == n * batch  # the test's studies have a patient each
    assert np.ptp(rewards["reward"]) > 0


def test_checkpoints_hold_the_adapter_alone_and_refuse_another(studies, tmp_path):
    policy = t.policy_with_lora()
    module = t.grpo(policy)
    path = tmp_path / "a.ckpt"
    trained(module, studies, tmp_path, 2, callbacks=[t.SaveAt(0, path)])
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert set(saved) == set(module.trainable())
    other = load_policy("tiny:tiny_gemma3", dtype="float32")
    attach_lora(other, r=4, alpha=8, dropout=0.0, targets=r".*language_model.*q_proj")
    with pytest.raises(ValueError, match="names differ"):
        t.fit(t.grpo(other), t.grpo_data(other, studies), tmp_path, max_steps=2, max_epochs=-1, ckpt_path=str(path))


def test_settings_that_corrupt_grpo_are_refused():
    with pytest.raises(ValueError, match=r"adapter.dropout=0"):
        t.grpo(t.policy_with_lora(dropout=0.1))
    with pytest.raises(ValueError, match=r"phase\.module\.group_size=1: a group of one"):
        t.grpo(t.policy_with_lora(), group_size=1)
    with pytest.raises(ValueError, match=r"phase\.module\.sampling\.temperature=0"):
        t.grpo(t.policy_with_lora(), sampling=Sampling(6, temperature=0.0))
    checkpointed = t.policy_with_lora()
    checkpointed.base.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match=r"model\.gradient_checkpointing=false"):
        t.grpo(checkpointed)
    for precision in ("bf16-mixed", "bf16-true"):  # GRPO and SFT alike: evaluation does not run in it
        with pytest.raises(ValueError, match=rf"trainer\.precision={precision} trains and validates another policy"):
            t.fit(t.grpo(t.policy_with_lora()), None, None, precision=precision)
    with pytest.raises(ValueError, match="nothing to train"):
        SFTModule(load_policy("tiny:tiny_gemma3", dtype="float32").requires_grad_(False), **t.common())
