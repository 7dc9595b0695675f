"""The two modules on a packaged policy: what they train, what stays the same however the batch is cut, exact resume."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from chexreason.callbacks.rewards import RewardLog
from chexreason.data.datamodule import StudyData
from chexreason.evaluation.history import read_rewards
from chexreason.grpo.objective import ObjectiveSpec
from chexreason.labels.catalog import CHEXPERT14
from chexreason.modules.grpo import GRPOModule
from chexreason.modules.sft import SFTModule
from chexreason.policy.adapters import attach_lora
from chexreason.policy.generate import Sampling
from chexreason.policy.load import load_policy
from chexreason.policy.policy import Policy
from chexreason.types import Completion, Sample, Study

pytestmark = pytest.mark.slow  # each test runs a model

ANSWERS = ("a b", "the heart is large", "c", "no finding at all here", "d e f", "g")
SPEC = ObjectiveSpec("test", "constant", "none", 0.2, 0.2, 0.1, "k3", "token", False, 2)


class ManyEs:
    """A reward every completion can differ in: how often it has the letter e."""

    weights = {"es": 1.0}  # noqa: RUF012

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def __call__(self, completions: Sequence[Completion], studies, label_set):
        self.seen.append([c.text for c in completions])
        return {"es": torch.tensor([float(c.text.count("e")) for c in completions])}


@functools.cache
def loaded() -> Policy:
    return load_policy("tiny:tiny_gemma3", dtype="float32")


def policy_with_lora(dropout: float = 0.0) -> Policy:
    policy = copy.deepcopy(loaded())  # a third of the cost of loading
    torch.manual_seed(0)
    attach_lora(policy, r=4, alpha=8, dropout=dropout)
    return policy


def common(max_new_tokens: int = 6):
    return {
        "label_set": CHEXPERT14,
        "grammar": "think_solution",
        "max_new_tokens": max_new_tokens,
        "make_optimizer": lambda p: torch.optim.AdamW(p, lr=1e-2),
        "make_scheduler": lambda o, n: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 - step / (2 * n)),
    }


def sft_data(policy: Policy, studies: list[Study], batch_size: int, accumulate: int) -> StudyData:
    samples = [Sample(s, "Describe.", a) for s, a in zip(studies, ANSWERS, strict=True)]
    return StudyData(
        policy.encode,
        policy.encode_answers,
        samples,
        {},
        batch_size=batch_size,
        eval_batch_size=2,
        accumulate=accumulate,
    )


def grpo(policy: Policy, reward=None, **kwargs) -> GRPOModule:
    arguments = {"group_size": 3, "micro_studies": 2, "max_grad_norm": 1.0, "seed": 3} | kwargs
    sampling = Sampling(6, temperature=0.8)
    return GRPOModule(policy, reward=reward or ManyEs(), objective=SPEC, sampling=sampling, **arguments, **common())


def grpo_data(policy: Policy, studies: list[Study]) -> StudyData:
    samples = [Sample(s, "Describe.") for s in studies]
    return StudyData(policy.encode, policy.encode_answers, samples, {}, batch_size=2, eval_batch_size=2, drop_last=True)


def fit(module, data, tmp_path: Path, *, ckpt_path=None, callbacks=(), **kwargs) -> L.Trainer:
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    options |= {"num_sanity_val_steps": 0, "limit_val_batches": 0, "inference_mode": False, "devices": 1}
    options |= {"use_distributed_sampler": False, "default_root_dir": tmp_path, "enable_checkpointing": bool(callbacks)}
    trainer = L.Trainer(**(options | kwargs), callbacks=list(callbacks))
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def weights(module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in module.trainable().items()}


def assert_same(left, right, atol: float = 0.0) -> None:
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


class SaveAt(L.Callback):
    """Saves a checkpoint after a given batch, the way a killed run leaves one."""

    def __init__(self, batch: int, path: Path) -> None:
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            trainer.save_checkpoint(self.path)


def test_an_sft_update_does_not_depend_on_how_it_is_cut(studies, tmp_path):
    results = []
    for size, steps in ((6, 1), (2, 3), (1, 6)):
        policy = policy_with_lora()
        sgd = common() | {"make_optimizer": lambda p: torch.optim.SGD(p, lr=1.0)}
        module = SFTModule(policy, **sgd)
        data = sft_data(policy, studies, size, steps)
        fit(module, data, tmp_path, max_epochs=1, accumulate_grad_batches=steps)
        results.append(weights(module))
    assert_same(results[0], results[1], atol=2e-6)
    assert_same(results[0], results[2], atol=2e-6)


def test_sft_learns_the_answers_and_touches_nothing_else(studies, tmp_path):
    policy = policy_with_lora()
    module = SFTModule(policy, **common())
    frozen = {n: p.clone() for n, p in policy.named_parameters() if not p.requires_grad}
    data = sft_data(policy, studies, 3, 1)
    batch = next(iter(data.train_dataloader()))
    before = module._scores(batch).logp.sum()
    fit(module, data, tmp_path, max_epochs=8)
    assert module._scores(batch).logp.sum() > before + 5
    assert_same(frozen, dict(policy.named_parameters()))


def test_sft_loss_is_on_the_answer_and_its_stop_token_alone(studies):
    policy = policy_with_lora()
    data = sft_data(policy, studies, 2, 1)
    batch = next(iter(data.train_dataloader()))
    texts = policy.decode(batch.answer_ids, batch.answer_mask)
    assert texts == [item.answer for item in batch.samples]
    ends = batch.answer_mask.sum(1) - 1
    assert batch.answer_ids[torch.arange(2), ends].tolist() == [policy.stop_ids[0]] * 2
    assert batch.update_tokens == batch.answer_mask.sum()


def test_the_ratio_is_one_until_the_policy_has_moved(studies, tmp_path):
    policy = policy_with_lora()
    module = grpo(policy)
    logged: list[dict[str, float]] = []
    original = module._update
    module._update = lambda *given: logged.append(dict(original(*given))) or logged[-1]
    trainer = fit(module, grpo_data(policy, studies), tmp_path, max_steps=4, max_epochs=-1)
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
    module = grpo(policy)
    module.sampling, policy.banned_ids = Sampling(24, temperature=1.3), []
    module.objective = dataclasses.replace(SPEC, ratio_level="sequence", clip_low=3e-4, clip_high=4e-4)
    logged, original = [], module._update
    module._update = lambda *given: logged.append(dict(original(*given))) or logged[-1]
    trainer = fit(module, grpo_data(policy, studies), tmp_path, max_steps=2, max_epochs=-1)
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
    for make in (lambda p: grpo(p, micro_studies=2), lambda p: SFTModule(p, **common())):
        policy = policy_with_lora()
        module = make(policy)
        data = grpo_data(policy, studies) if isinstance(module, GRPOModule) else sft_data(policy, studies, 2, 1)
        before = weights(module)
        fit(module, data, tmp_path, max_steps=2, max_epochs=-1, callbacks=[Poison(0)])
        after = weights(module)
        assert all(value.isfinite().all() for value in after.values())
        assert any((after[name] != before[name]).any() for name in after)  # the other update counted
        assert "the gradient at step 0 is not finite" in caplog.text
        with pytest.raises(FloatingPointError, match=r"5 updates in a row.*lower phase\.lr"):
            fit(module, data, tmp_path, max_steps=8, max_epochs=-1, callbacks=[Poison(*range(20))])
        assert all(value.isfinite().all() for value in weights(module).values())


def test_a_grpo_update_does_not_depend_on_micro_batches(studies, tmp_path):
    results = []
    for micro in (1, 2, 3):
        policy = policy_with_lora()
        module = grpo(policy, micro_studies=micro)
        module.make_optimizer = lambda p: torch.optim.SGD(p, lr=0.1)
        fit(module, grpo_data(policy, studies), tmp_path, max_steps=2, max_epochs=-1)
        results.append(weights(module))
    assert_same(results[0], results[1], atol=1e-6)
    assert_same(results[0], results[2], atol=1e-6)


class Constant(ManyEs):
    """The same reward for every completion."""

    def __call__(self, completions: Sequence[Completion], studies, label_set):
        return {"es": torch.ones(len(completions))}


def test_groups_without_a_difference_are_left_out_where_the_objective_says_so(studies, tmp_path):
    policy = policy_with_lora()
    module = grpo(policy, reward=Constant())
    module.objective = dataclasses.replace(SPEC, zero_variance="mask")
    module.make_optimizer = lambda p: torch.optim.SGD(p, lr=1.0)
    before, logged, original = weights(module), [], module._update
    module._update = lambda *given: logged.append(dict(original(*given))) or logged[-1]
    fit(module, grpo_data(policy, studies), tmp_path, max_steps=2, max_epochs=-1)
    assert_same(before, weights(module))  # no row counted, and nothing was divided by their number
    assert logged[0]["tokens"] == 0


def test_the_correction_sees_the_distribution_sampled_from(studies, tmp_path):
    policy = policy_with_lora()
    module = grpo(policy)
    module.objective = dataclasses.replace(SPEC, correction="token")
    logged, original = [], module._update
    module._update = lambda *given: logged.append(dict(original(*given))) or logged[-1]
    fit(module, grpo_data(policy, studies), tmp_path, max_steps=2, max_epochs=-1)
    assert logged[0]["mismatch"] > 0  # top-p drops what the full softmax keeps


def test_grpo_raises_the_reward_it_is_given(studies, tmp_path):
    policy, reward = policy_with_lora(), ManyEs()
    letters = policy.tokenizer.convert_tokens_to_ids(list("abcdefgh"))
    policy.banned_ids = sorted(set(range(len(policy.tokenizer))) - set(letters))  # few actions: learnt in few steps
    module = grpo(policy, reward=reward, group_size=8)
    module.objective = dataclasses.replace(SPEC, kl_beta=0.0)
    fit(module, grpo_data(policy, studies), tmp_path, max_steps=30, max_epochs=-1)
    means = [sum(t.count("e") for t in texts) / len(texts) for texts in reward.seen]
    assert sum(means[-5:]) / 5 > sum(means[:5]) / 5 + 1, means


def grpo_run(studies, folder: Path, ckpt_path: Path | None = None, callbacks=()) -> GRPOModule:
    """Five rollouts of two updates: one epoch of three rollouts and two of the next."""
    policy = policy_with_lora()
    module, data = grpo(policy), grpo_data(policy, studies)
    fit(module, data, folder, max_steps=10, max_epochs=-1, ckpt_path=ckpt_path, callbacks=callbacks)
    return module


@pytest.fixture(scope="module")
def whole_run(studies, tmp_path_factory):
    """An uninterrupted run that left a checkpoint after every rollout."""
    folder = tmp_path_factory.mktemp("whole")
    saves = [SaveAt(batch, folder / f"{batch}.ckpt") for batch in range(4)]
    return grpo_run(studies, folder, callbacks=saves), folder


@pytest.mark.parametrize("stop_after", range(4))
def test_a_resumed_grpo_run_ends_with_the_same_weights(studies, whole_run, tmp_path, stop_after):
    whole, folder = whole_run
    again = grpo_run(studies, tmp_path, ckpt_path=folder / f"{stop_after}.ckpt")
    assert again.reward.seen == whole.reward.seen[stop_after + 1 :]
    assert_same(weights(whole), weights(again))


def test_every_study_leaves_its_reward_on_disk(studies, tmp_path):
    policy = policy_with_lora()
    fit(grpo(policy), grpo_data(policy, studies), tmp_path, max_steps=4, max_epochs=-1, callbacks=[RewardLog(tmp_path)])
    rewards = read_rewards(tmp_path)
    n, batch = 2, grpo_data(policy, studies).batch_size  # rollouts, studies in each
    assert len(rewards.values) == n * batch
    assert len(set(rewards.steps.tolist())) == n
    assert len(set(rewards.patients.tolist())) == n * batch  # the test's studies have a patient each
    assert np.ptp(rewards.values) > 0


def test_checkpoints_hold_the_adapter_alone_and_refuse_another(studies, tmp_path):
    policy = policy_with_lora()
    module = grpo(policy)
    path = tmp_path / "a.ckpt"
    fit(module, grpo_data(policy, studies), tmp_path, max_steps=2, max_epochs=-1, callbacks=[SaveAt(0, path)])
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert set(saved) == set(module.trainable())
    other = load_policy("tiny:tiny_gemma3", dtype="float32")
    attach_lora(other, r=4, alpha=8, dropout=0.0, targets=r".*language_model.*q_proj")
    with pytest.raises(ValueError, match="names differ"):
        fit(grpo(other), grpo_data(other, studies), tmp_path, max_steps=2, max_epochs=-1, ckpt_path=str(path))


def test_settings_that_corrupt_grpo_are_refused():
    with pytest.raises(ValueError, match=r"adapter.dropout=0"):
        grpo(policy_with_lora(dropout=0.1))
    with pytest.raises(ValueError, match="group of one"):
        grpo(policy_with_lora(), group_size=1)
    with pytest.raises(ValueError, match="nothing to train"):
        SFTModule(load_policy("tiny:tiny_gemma3", dtype="float32").requires_grad_(False), **common())
