"""Supervised fine-tuning of a packaged policy: what it trains, and what stays the same however the batch is cut."""

from __future__ import annotations

import pytest
import torch

from chexreason.training.sft import SFTModule
from tests.support import training as t

pytestmark = pytest.mark.slow  # each test runs a model


def test_an_sft_update_does_not_depend_on_how_it_is_cut(studies, tmp_path):
    results = []
    for size, steps in ((6, 1), (2, 3), (1, 6)):
        policy = t.policy_with_lora()
        sgd = t.common() | {"make_optimizer": lambda p: torch.optim.SGD(p, lr=1.0)}
        module = SFTModule(policy, **sgd)
        data = t.sft_data(policy, studies, size, steps)
        t.fit(module, data, tmp_path, max_epochs=1, accumulate_grad_batches=steps)
        results.append(t.weights(module))
    t.assert_same(results[0], results[1], atol=2e-6)
    t.assert_same(results[0], results[2], atol=2e-6)


def test_sft_learns_the_answers_and_touches_nothing_else(studies, tmp_path):
    policy = t.policy_with_lora()
    module = SFTModule(policy, **t.common())
    frozen = {n: p.clone() for n, p in policy.named_parameters() if not p.requires_grad}
    data = t.sft_data(policy, studies, 3, 1)
    batch = next(iter(data.train_dataloader()))
    before = module._scores(batch).logp.sum()
    t.fit(module, data, tmp_path, max_epochs=8)
    assert module._scores(batch).logp.sum() > before + 5
    t.assert_same(frozen, dict(policy.named_parameters()))


def test_sft_loss_is_on_the_answer_and_its_stop_token_alone(studies):
    policy = t.policy_with_lora()
    data = t.sft_data(policy, studies, 2, 1)
    batch = next(iter(data.train_dataloader()))
    texts = policy.decode(batch.answer_ids, batch.answer_mask)
    assert texts == [item.answer for item in batch.samples]
    ends = batch.answer_mask.sum(1) - 1
    assert batch.answer_ids[torch.arange(2), ends].tolist() == [policy.stop_ids[0]] * 2
    assert batch.update_tokens == batch.answer_mask.sum()
