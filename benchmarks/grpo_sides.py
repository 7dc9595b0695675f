"""A whole GRPO step of ours and of TRL 1.16's GRPOTrainer, with the seconds each part of it takes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks import models
from chexreason.data.batches import Batch
from chexreason.grpo import rollout as rollouts
from chexreason.grpo.objective import ObjectiveSpec, denominator, policy_loss
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.schema import LabelSet
from chexreason.model import generate as engines
from chexreason.model.adapters import TARGETS, attach_lora
from chexreason.model.generate import Sampling
from chexreason.model.logprobs import completion_scores, study_chunks
from chexreason.model.policy import Policy
from chexreason.parsing import AnswerFormat, Grammar
from chexreason.preflight.memory import endless
from chexreason.types import Completion, Sample, Study

RANK, ALPHA, RATE, NORM, SEED = 16, 32, 1e-5, 1.0, 0
# Random weights at 0.8 choose among 28,000 of 32,768 ids, and both sides would mostly sort; a trained policy is sure of
# most tokens (0.5 nats each in `make demo`), which cold sampling resembles (0.06 nats Gemma 3, 0.5 Qwen2.5-VL).
TEMPERATURE, TOP_P = 0.1, 0.95
PROMPT = (
    "You are a radiologist. Read this frontal chest radiograph and list the findings. " * 8
    + "Think first, then close with one list of labels."
)
SIDE_LENGTH = {"gemma3": 256, "qwen2_5_vl": 512}  # pixels: 16 x 16 merged patches in both
HEADS = {
    "gemma3": {"num_key_value_heads": 2},
    "qwen2_5_vl": {"num_attention_heads": 8, "num_key_value_heads": 2},
}
SPEC = ObjectiveSpec("bench", "constant", "none", 0.15, 0.22, 0.15, "k3", "token", False, 1)


@dataclass(frozen=True)
class Case:
    """One setting: ``studies`` prompts with ``group`` completions of exactly ``tokens`` tokens each, in ``dtype``."""

    family: str
    group: int
    tokens: int
    dtype: str
    studies: int = 2

    def __str__(self) -> str:
        return f"{self.family} {self.dtype} {self.studies} x G={self.group} x {self.tokens}"

    def model(self) -> Any:
        """The model either side starts from."""
        return models.model(self.family, SIDE_LENGTH[self.family], self.dtype, HEADS[self.family])

    def processor(self) -> Any:
        """Its processor."""
        return models.processor(self.family, SIDE_LENGTH[self.family])

    def images(self) -> list[Image.Image]:
        """A picture a study."""
        return models.images(SIDE_LENGTH[self.family], self.studies)


@dataclass
class Clock:
    """Seconds of CPU time by part of a step; what no part claims is the update's."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, its time booked as ``name``."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return run


@dataclass(frozen=True)
class Side:
    """``step`` makes one rollout and one optimiser step; ``clock`` holds the time of its parts since it was emptied."""

    step: Callable[[], None]
    clock: Clock
    model: nn.Module


class Length:
    """A reward that differs within a group: the number of different characters of an answer."""

    weights: dict[str, float] = {}  # noqa: RUF012

    def __call__(self, completions: Sequence[Completion], studies: Any, label_set: LabelSet) -> dict[str, Tensor]:
        return {"characters": torch.tensor([float(len(set(c.text))) for c in completions])}


def update(
    policy: Policy, rollout: rollouts.Rollout, spec: rollouts.RolloutSpec, optimizer: torch.optim.Optimizer
) -> None:
    """One optimiser step on a rollout, as ``GRPOModule`` makes its first."""
    whole = denominator(rollout.loss_mask, spec.objective, spec.sampling.max_new_tokens)
    for some in study_chunks(len(rollout.prompts), spec.micro_studies):
        part = rollout.of(some)
        scores = completion_scores(
            policy,
            part.prompts,
            part.ids,
            part.mask,
            group_size=spec.group_size,
            temperature=spec.logp_temperature,
        )
        loss, _ = policy_loss(
            scores.logp, scores.logp.detach(), part.ref_logp, part.advantages, part.loss_mask, spec.objective
        )
        (loss / whole).backward()
    nn.utils.clip_grad_norm_([p for p in policy.parameters() if p.requires_grad], NORM)
    optimizer.step()
    optimizer.zero_grad()


def ours(case: Case) -> Side:
    """Our step, as ``GRPOModule`` makes it; a group a backward pass."""
    policy = Policy(case.model(), case.processor(), "bench")
    torch.manual_seed(1)
    attach_lora(policy, r=RANK, alpha=ALPHA, dropout=0.0)
    policy.train()
    optimizer, clock = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=RATE), Clock()
    blank = (0,) * len(CHEXPERT14)
    studies = [Study(f"s{i}", f"p{i}", "bench", Path(), blank, (True,) * len(blank)) for i in range(case.studies)]
    samples = tuple(Sample(study, PROMPT) for study in studies)
    spec = rollouts.RolloutSpec(
        AnswerFormat(CHEXPERT14, Grammar.THINK_SOLUTION),
        Sampling(case.tokens, TEMPERATURE, TOP_P),
        group_size=case.group,
        reward=Length(),
        objective=SPEC,
        seed=SEED,
        micro_studies=1,
    )
    pictures, n_steps = case.images(), 0
    engines.sample = clock.timed("rollout", engines.sample)
    rollouts.scored_by_chunks = clock.timed("reference", rollouts.scored_by_chunks)

    def step() -> None:
        nonlocal n_steps
        n_steps += 1
        batch = Batch(samples, policy.encode(pictures, [PROMPT] * case.studies))
        rollout = rollouts.collect(policy, batch, spec, n_steps)
        update(policy, rollout, spec, optimizer)
        assert rollout.ids.shape == (case.studies * case.group, case.tokens)

    def endlessly() -> None:
        with endless(policy):
            step()

    return Side(endlessly, clock, policy)


def trl_trainer(base: Any, reader: Any, reward: Any, rows: list[Any], spec: ObjectiveSpec, **given: Any) -> Any:
    """TRL's trainer with the adapter and the settings that mean ``spec``, on the CPU, reporting nowhere."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(
        tempfile.mkdtemp(),
        top_k=0,
        top_p=TOP_P,
        beta=spec.kl_beta,
        loss_type="dr_grpo",
        scale_rewards="none",
        epsilon=spec.clip_low,
        epsilon_high=spec.clip_high,
        use_bias_correction_kl=False,
        activation_checkpointing=False,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **given,
    )
    return GRPOTrainer(
        base,
        reward,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=reader,
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS),
    )


def peer(case: Case) -> Side:
    """The step of TRL's trainer, through its own sampler, collator and ``training_step``; a group a backward pass."""

    def reward(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
        return [float(len(set(messages[0]["content"]))) for messages in completions]

    user = [{"role": "user", "content": PROMPT}]
    torch.manual_seed(1)
    trainer = trl_trainer(
        case.model(),
        case.processor(),
        reward,
        [{"prompt": user, "image": image} for image in case.images()],
        SPEC,
        learning_rate=RATE,
        per_device_train_batch_size=case.group,
        gradient_accumulation_steps=case.studies,
        num_generations=case.group,
        max_completion_length=case.tokens,
        generation_kwargs={"min_new_tokens": case.tokens},
        temperature=TEMPERATURE,
        bf16=case.dtype == "bfloat16",
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = case.studies  # its loop would set it
    optimizer, clock = trainer.create_optimizer(), Clock()
    trainer._generate_single_turn = clock.timed("rollout", trainer._generate_single_turn)
    score = trainer._get_per_token_logps_and_entropies
    no_gradient = clock.timed("reference", score)
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: (
        score if torch.is_grad_enabled() else no_gradient
    )(*args, **kwargs)
    batches: Iterator[Any] = iter(())

    def step() -> None:
        nonlocal batches
        for _ in range(case.studies):
            batch = next(batches, None)
            if batch is None:
                batches = iter(trainer.get_train_dataloader())
                batch = next(batches)
            trainer.training_step(trainer.model, batch, None)
        lengths = trainer._buffered_inputs[0]["completion_mask"].sum(1)
        assert (lengths == case.tokens).all(), f"TRL stopped early: {lengths.tolist()}"
        nn.utils.clip_grad_norm_([p for p in trainer.model.parameters() if p.requires_grad], NORM)
        optimizer.step()
        optimizer.zero_grad()

    return Side(step, clock, trainer.model)
