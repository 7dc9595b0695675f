"""Two ranks do what one rank does with the same samples: gradients, adapters, answers, windows, scores, resume."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import lightning as L
import pytest
import torch

from chexreason.data.batches import EpochOrder
from chexreason.grpo.module import GRPOModule
from chexreason.grpo.objective import ObjectiveSpec
from chexreason.labels.catalog import CHEXPERT14
from chexreason.model.generate import Sampling
from chexreason.reports.history import read_rewards
from chexreason.training.callbacks.label_f1 import LabelF1Callback
from chexreason.training.callbacks.run_files import RewardLog
from chexreason.training.datamodule import StudyData, rank_share
from chexreason.training.sft import SFTModule
from chexreason.types import Prediction, Sample
from tests.support import training as t
from tests.support.deep import all_deep_but

pytestmark = pytest.mark.slow
SPEC = ObjectiveSpec("test", "token_mean", "none", 0.2, 0.2, 0.1, "k3", "token", False, 2)
RELATIVE = 1e-6  # of a gradient's norm: what fp32 leaves open where sums are cut in two


class Letters:
    """A reward that remembers: how often an answer has the letter e, less how often all earlier ones had it.

    Studies in ``flat`` earn nothing, whatever they answer.
    """

    weights = {"es": 1.0}  # noqa: RUF012

    def __init__(self, flat: frozenset[str] = frozenset()) -> None:
        self.flat, self.total, self.seen = flat, 0, []

    def __call__(self, completions, studies, label_set):
        self.seen.append([f"{c.study_id}: {c.text}" for c in completions])
        rewards = []
        for row, (completion, study) in enumerate(zip(completions, studies, strict=True)):
            n = completion.text.count("e") + row % 2
            rewards.append(0.0 if study.study_id in self.flat else float(n * (1 + self.total % 7)))
            self.total += n
        return {"es": torch.tensor(rewards)}

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state) -> None:
        self.total = state["total"]


class Gradients(L.Callback):
    """What each optimiser step used."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.steps.append(torch.cat([p.grad.flatten() for p in pl_module.trainable().values()]).clone())


def adapted(model: str):
    policy = t.policy_with_lora(model=model)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:  # starts at zero, where half of all gradients are zero
            parameter.data.normal_(std=0.02, generator=generator)
    return policy.double()


COMMON = t.common(4) | {"make_optimizer": lambda p: torch.optim.SGD(p, lr=0.05)}


def fit(world: int, module, data, folder: Path, callbacks, **kwargs) -> L.Trainer:
    options = {"enable_checkpointing": False, "devices": world, "strategy": "ddp" if world > 1 else "auto"}
    return t.fit(module, data, folder, callbacks=callbacks, **(options | kwargs))


def result(module, gradients: Gradients, **more):
    return {"gradients": gradients.steps, "weights": [p.detach() for p in module.trainable().values()], **more}


def grpo(world: int, folder: Path, studies, *, model="tiny_gemma3", flat=frozenset(), spec=SPEC, save=None, start=None):
    """Two rollouts of four studies and two updates each, shared out; ``save`` and ``start`` are checkpoints."""
    folder.mkdir(exist_ok=True)
    reward, gradients = Letters(flat), Gradients()
    module = GRPOModule(
        adapted(model),
        reward=reward,
        objective=spec,
        sampling=Sampling(6, temperature=0.8),
        group_size=3,
        micro_studies=1,
        max_grad_norm=math.inf,
        seed=3,
        **COMMON,
    )
    samples = [Sample(s, "Describe.") for s in studies]
    sizes = {"batch_size": 4 // world, "eval_batch_size": 2, "drop_last": True}
    data = StudyData(module.policy.collate(), samples, {}, **sizes)
    callbacks = [gradients, RewardLog(folder)]
    if save:
        callbacks.append(t.SaveAt(0, save))
    trainer = fit(world, module, data, folder, callbacks, ckpt_path=start, max_steps=4, max_epochs=-1)
    logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
    return result(module, gradients, seen=reward.seen, state=reward.state_dict(), logged=logged)


class Answering(SFTModule):
    """Answers one of five studies wrongly and one not at all."""

    def validation_step(self, batch, batch_idx: int, dataloader_idx: int = 0) -> list[Prediction]:
        answers = {"s1": {"predicted": ("Edema", "Fracture")}, "s3": {"predicted": (), "broken": "no_solution"}}
        predictions = super().validation_step(batch, batch_idx, dataloader_idx)
        right = [dataclasses.replace(p, predicted=p.truth, broken=None) for p in predictions]
        return [dataclasses.replace(p, **answers.get(p.study_id, {})) for p in right]


def sft(world: int, folder: Path, studies, *, held: bool):
    """Two epochs of six studies, each one update of three batches, shared out, and validated on five of the studies.

    With ``held`` the answers of the five are those of studies held back, not of the validation set.
    """
    gradients = Gradients()
    module = Answering(adapted("tiny_gemma3"), **COMMON)
    samples = [Sample(s, "Describe.", a) for s, a in zip(studies, t.ANSWERS, strict=True)]
    sizes = {"batch_size": 2 // world, "eval_batch_size": 1, "accumulate": 3}
    policy = module.policy
    shown = [dataclasses.replace(samples[0], answer=f"{t.ANSWERS[0]}."), *samples[1:5]]
    n_tokens = int(policy.encode_answers([sample.answer for sample in shown])[1].sum())
    assert n_tokens % 2, "tokens that two ranks divide do not show a weight that is cut off"
    asked = [dataclasses.replace(sample, answer=None) for sample in shown] if held else shown
    data = StudyData(policy.collate(), samples, {"set": asked}, held=shown if held else [], **sizes)
    options = {"max_epochs": 2, "accumulate_grad_batches": 3, "limit_val_batches": 1.0}
    trainer = fit(world, module, data, folder, [gradients, LabelF1Callback(CHEXPERT14)], **options)
    return result(module, gradients, logged={k: float(v) for k, v in trainer.callback_metrics.items()})


def assert_close(one, two) -> None:
    """Gradients of every step, and the weights they led to."""
    assert len(one["gradients"]) == len(two["gradients"]) > 1
    for a, b in zip(one["gradients"], two["gradients"], strict=True):
        assert a.norm() > 0
        assert (a - b).norm() / a.norm() < RELATIVE
    for a, b in zip(one["weights"], two["weights"], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", all_deep_but("tiny_gemma3", ["tiny_gemma3", "tiny_qwen2_5_vl"]))
def test_grpo_on_two_ranks_is_grpo_on_one(on_ranks, studies, tmp_path, model):
    t.loaded(model)  # once, before the processes part
    (one,) = on_ranks(1, lambda rank: grpo(1, tmp_path / "one", studies, model=model))
    first, second = on_ranks(2, lambda rank: grpo(2, tmp_path / "two", studies, model=model))
    assert_close(one, first)
    assert_close(first, second)
    assert one["seen"] == first["seen"] == second["seen"]  # the same answers, in the same order, on every rank
    assert one["state"] == first["state"] == second["state"]
    assert first["logged"] == second["logged"]
    for name in ("reward", "loss", "grad_norm", "kl", "entropy", "ratio", "completion_length"):
        assert first["logged"][f"train/{name}"] == pytest.approx(one["logged"][f"train/{name}"], rel=1e-4), name
    alone, shared = (read_rewards(tmp_path / folder)[["step", "reward"]] for folder in ("one", "two"))
    assert sorted(alone.itertuples(index=False)) == sorted(shared.itertuples(index=False))


def test_a_rank_without_a_loss_token_neither_hangs_nor_skews(on_ranks, studies, tmp_path):
    order = list(EpochOrder([0] * len(studies), window=2, seed=0, rank=1, world=2))[:2]
    flat = frozenset(studies[i].study_id for i, _ in order)  # all that the second rank sees in the first rollout
    spec = dataclasses.replace(SPEC, zero_variance="mask")
    t.loaded("tiny_gemma3")
    (one,) = on_ranks(1, lambda rank: grpo(1, tmp_path / "one", studies, flat=flat, spec=spec))
    first, second = on_ranks(2, lambda rank: grpo(2, tmp_path / "two", studies, flat=flat, spec=spec))
    assert_close(one, first)
    assert_close(first, second)


def test_two_ranks_resume_to_the_bit_and_one_rank_refuses(on_ranks, studies, tmp_path):
    t.loaded("tiny_gemma3")
    point = str(tmp_path / "point.ckpt")
    whole = on_ranks(2, lambda rank: grpo(2, tmp_path / "whole", studies, save=point))
    again = on_ranks(2, lambda rank: grpo(2, tmp_path / "again", studies, start=point))
    for before, after in zip(whole, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before["weights"], after["weights"], strict=True))
        assert after["state"] == before["state"]
        assert after["seen"] == before["seen"][1:]

    def refused(rank: int) -> str:
        with pytest.raises(ValueError, match="of 2 ranks") as error:
            grpo(1, tmp_path / "one", studies, start=point)
        return str(error.value)

    assert "trainer.devices" in on_ranks(1, refused)[0]


@pytest.mark.parametrize("held", all_deep_but(True, [False, True]))
def test_sft_on_two_ranks_is_sft_on_one_and_counts_five_studies_as_five(on_ranks, studies, tmp_path, held):
    t.loaded("tiny_gemma3")
    (one,) = on_ranks(1, lambda rank: sft(1, tmp_path / "one", studies, held=held))
    first, second = on_ranks(2, lambda rank: sft(2, tmp_path / "two", studies, held=held))
    assert_close(one, first)
    assert_close(first, second)
    scores = [k for k in one["logged"] if k.startswith("val/set/")]
    assert {k: one["logged"][k] for k in scores} == {k: first["logged"][k] for k in scores}
    assert one["logged"]["val/set/fail_rate"] == pytest.approx(1 / 5)
    assert all(second["logged"][k] == first["logged"][k] for k in first["logged"] if k.startswith("val/"))
    assert first["logged"]["val/loss"] == pytest.approx(one["logged"]["val/loss"], rel=1e-5)


def test_validation_is_shared_in_equally_many_batches_and_nobody_is_left_out(studies):
    for n, world, size in ((6, 2, 2), (5, 2, 1), (5, 2, 2), (5, 4, 1), (6, 4, 1), (3, 3, 8), (6, 1, 4)):
        samples = [Sample(s, "Describe.", "an answer") for s in studies[:n]]
        shares = [rank_share("set", samples, size, rank, world) for rank in range(world)]
        assert len({-(-len(share) // size) for share in shares}) == 1
        assert [s for share in shares for s in share if s.answer is not None] == samples
        repeats = [(i, s) for share in shares for i, s in enumerate(share) if s.answer is None]
        assert all(i % size == 0 for i, _ in repeats)  # alone in its batch: the others keep their answers
    with pytest.raises(ValueError, match=r"set 'small' has 2 studies for 3 ranks"):
        rank_share("small", samples[:2], 1, 0, 3)
