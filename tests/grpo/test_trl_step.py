"""One whole rollout of TRL's GRPOTrainer, two updates on it: its advantages and gradients are ours.

Needs the extra `bench`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chexreason.grpo.objective import LOG_RATIO_LIMIT, ObjectiveSpec, denominator, group_advantages, policy_loss
from tests.support.presets import preset

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed: pip install 'chexreason[bench]'"),
]

WORDS = ["<pad>", "<eos>", *"abcdefgh"]
G, N, T_MAX = 4, 8, 10


@dataclass
class Seen:
    """What the trainer went through: the rewards, the rollout as scored, and weights and gradient of each update."""

    rewards: list[float] = field(default_factory=list)
    rollout: dict[str, Any] = field(default_factory=dict)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of a few thousand weights with a tokenizer of single letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    path = tmp_path_factory.mktemp("letters")
    letters = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    letters.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="<pad>", eos_token="<eos>").save_pretrained(path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(WORDS),
            num_key_value_heads=2,
            initializer_range=0.5,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            **sizes,
        )
    ).save_pretrained(path)
    return path


def trained(folder: Path, out: Path, **options: Any) -> Seen:
    """Two updates, in two micro-batches each, on one rollout of two prompts."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    seen = Seen()

    def reward(completions: list[str], **_: Any) -> list[float]:
        seen.rewards = [float(len(set(text)) % 5) + 0.25 * text.count("a") for text in completions]
        return seen.rewards

    class Watched(GRPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            seen.rollout = super()._generate_and_score_completions(inputs)
            return dict(seen.rollout)

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            seen.weights.append({k: v.detach().clone() for k, v in model.state_dict().items()})
            seen.gradients.append({k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None})

    args = GRPOConfig(
        output_dir=str(out),
        use_cpu=True,
        bf16=False,
        report_to="none",
        optim="sgd",
        learning_rate=0.2,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        num_generations=G,
        per_device_train_batch_size=N // 2,
        gradient_accumulation_steps=2,
        num_iterations=2,
        max_steps=2,
        max_completion_length=T_MAX,
        gradient_checkpointing=False,
        save_strategy="no",
        model_init_kwargs={"dtype": "float32"},
        **options,
    )
    trainer = Watched(
        model=str(folder),
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["a b c", "d e f"]}),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[Watch()],
    )
    trainer.train()
    return seen


def our_gradient(folder: Path, seen: Seen, update: int, spec: ObjectiveSpec, temperature: float) -> dict[str, Tensor]:
    from transformers import AutoModelForCausalLM

    rollout = seen.rollout
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    reference = log_probabilities(model, rollout, temperature).detach()
    model.load_state_dict(seen.weights[0])
    old = log_probabilities(model, rollout, temperature).detach()
    model.load_state_dict(seen.weights[update])
    rewards = torch.tensor(seen.rewards).reshape(-1, G)
    advantages = group_advantages(rewards, scale=spec.scale, epsilon=spec.std_epsilon).flatten()
    mask = rollout["completion_mask"].bool()
    logp = log_probabilities(model, rollout, temperature)
    assert (reference - logp).max() < LOG_RATIO_LIMIT, "above it ours goes on as its tangent, theirs does not"
    loss, stats = policy_loss(logp, old, reference if spec.kl_beta else None, advantages, mask, spec)
    (loss / denominator(mask, spec, T_MAX)).backward()
    assert update == 0 or stats["abs_log_ratio"] > 0.1, "the first update moved nothing"
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def log_probabilities(model: Any, rollout: dict[str, Any], temperature: float) -> Tensor:
    ids = torch.cat([rollout["prompt_ids"], rollout["completion_ids"]], 1)
    mask = torch.cat([rollout["prompt_mask"], rollout["completion_mask"]], 1)
    start = rollout["prompt_ids"].shape[1]
    logits = model(input_ids=ids, attention_mask=mask).logits[:, start - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(-1, rollout["completion_ids"][..., None])[..., 0]  # [N, T]


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        ({"loss_type": "dr_grpo"}, preset("dr_grpo_trl")),
        (
            {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.15, "temperature": 0.8},
            preset("dr_grpo", kl_beta=0.15, kl_ratio_factor=True),
        ),
        ({"loss_type": "dapo", "epsilon_high": 0.28}, preset("dapo", std_epsilon=1e-4)),
    ],
    ids=["their_dr_grpo", "dr_grpo_with_kl", "dapo"],
)
def test_a_whole_rollout(folder: Path, tmp_path: Path, options: dict[str, Any], spec: ObjectiveSpec) -> None:
    seen = trained(folder, tmp_path, **options)
    rewards = torch.tensor(seen.rewards).reshape(-1, G)
    advantages = group_advantages(rewards, scale=spec.scale, epsilon=spec.std_epsilon).flatten()
    assert rewards.std(1).min() > 0
    assert seen.rollout["completion_mask"].sum(1).unique().numel() > 1, "all completions are of one length"
    torch.testing.assert_close(advantages, seen.rollout["advantages"], rtol=1e-5, atol=1e-6)
    assert len(seen.gradients) == 2
    for update, theirs in enumerate(seen.gradients):
        ours = our_gradient(folder, seen, update, spec, options.get("temperature", 1.0))
        assert ours.keys() == theirs.keys()
        for name, gradient in ours.items():
            torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-6, msg=f"update {update}, {name}")
