"""What a family must do besides the engine, the caches and the memory plan, whose tests go through all of them too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from chexreason.model.logprobs import completion_scores
from chexreason.training.sft import SFTModule
from tests.support import training as t
from tests.support.families import FAMILIES

pytestmark = pytest.mark.slow
IDS = torch.arange(5, 13).reshape(2, 4)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("phase", ["sft", "grpo"])
def test_a_step_of_training_moves_the_adapter_and_nothing_else(studies, tmp_path, name, phase):
    policy = t.policy_with_lora(0.0, name)
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    if phase == "sft":
        module, data = SFTModule(policy, **t.common(2), seed=7), t.sft_data(policy, studies, 2, 1, n_val=2)
    else:
        module, data = t.grpo(policy), t.grpo_data(policy, studies)
    trainer = t.fit(module, data, tmp_path, max_steps=2, limit_val_batches=1)
    moved = {n for n, p in policy.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if "lora_" in n and "language_model" in n}
    assert all(bool(torch.as_tensor(value).isfinite()) for value in trainer.callback_metrics.values())


def test_all_features_of_an_image_reach_the_answer(policy, images):
    """Each layer of them by itself, where a family has several (DeepStack)."""
    prompts = policy.with_features(policy.encode(images[:2], ["Hi", "What is seen?"]))
    layers = prompts.features[0].reshape(prompts.features[0].shape[0], -1, prompts.features[0].shape[-1]).shape[1]

    def logp(muted: int | None) -> torch.Tensor:
        features = [study.clone() for study in prompts.features]
        for study in features if muted is not None else ():
            study.view(len(study), layers, -1)[:, muted] = 0
        with torch.no_grad():
            return completion_scores(policy, replace(prompts, features=tuple(features)), IDS, torch.ones_like(IDS)).logp

    for layer in range(layers):
        assert ((logp(layer) - logp(None)).abs().amax(1) > 1e-3).all(), layer
    assert layers == (3 if policy.base.config.model_type == "qwen3_vl" else 1)
