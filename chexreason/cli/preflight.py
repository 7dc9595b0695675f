"""Before a run: ``python -m chexreason.cli.preflight model=medgemma_4b trainer=gpu`` plans its memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import hydra
import torch
from omegaconf import DictConfig, OmegaConf

from chexreason.build.data import build_labels, build_prompt
from chexreason.build.model import build_policy
from chexreason.build.training import build_data
from chexreason.cli.checks import check_settings
from chexreason.confdir import confdir
from chexreason.data.prompt_tensors import EncodedPrompts
from chexreason.errors import friendly, known_choices
from chexreason.labels.schema import LabelSet
from chexreason.model.adapters import attach_lora
from chexreason.model.generate import Sampling, sample
from chexreason.model.policy import Policy
from chexreason.preflight.memory import (
    GIB,
    MemoryPlan,
    Stage,
    endless,
    in_four_bits,
    largest_of,
    last_token,
    optimiser_state_bytes,
    peak_on,
    rehearse,
    update,
    with_pixels,
)
from chexreason.preflight.meta_model import blank_policy, blank_prompts, count_text_tokens, image_tokens
from chexreason.preflight.rehearsal import Rehearsal
from chexreason.prompts import render
from chexreason.quiet import quiet
from chexreason.types import Sample

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shapes:
    """The lengths of the worst batch in tokens, how its rows are grouped, and the optimiser's bytes a parameter."""

    text: int
    image: int
    answer: int
    group_size: int
    shared: bool
    state_bytes: float

    def prompts(self, policy: Policy, n: int) -> EncodedPrompts:
        return blank_prompts(policy.base.config, n, text_tokens=self.text, n_image_tokens=self.image)

    def answers(self, n: int) -> torch.Tensor:
        return torch.full((n * self.group_size, self.answer), 3)


def shapes(cfg: DictConfig, policy: Policy) -> Shapes:
    """What the config says about the worst batch; the prompt is counted where the tokenizer is at hand."""
    words = render(build_prompt(cfg), build_labels(cfg))
    image, grpo = image_tokens(policy.base.config, cfg.model.get("max_pixels")), cfg.phase.name == "grpo"
    return Shapes(
        text=cfg.get("text_tokens") or count_text_tokens(cfg.model.source, words) or 400,
        image=image,
        answer=cfg.get("answer_tokens") or cfg.model.max_new_tokens,
        group_size=cfg.phase.module.group_size if grpo else 1,
        shared=grpo,
        state_bytes=optimiser_state_bytes(cfg.optim.optimizer._target_),
    )


def plan(cfg: DictConfig) -> MemoryPlan:
    """Every stage of the run rehearsed without weights, against the memory of the device."""
    policy = planned_policy(cfg)
    lengths = shapes(cfg, policy)
    device, memory = device_memory(cfg)
    share = 1 - cfg.get("reserve", 0.1)
    if _by_vllm(cfg):
        share -= cfg.rollout.gpu_memory_utilization
        device += f", less the {cfg.rollout.gpu_memory_utilization:.0%} of it that vLLM draws rollouts in"
    capacity = max(0, int(memory * share))
    return MemoryPlan(device, capacity, tuple(_stages(cfg, policy, lengths, capacity)))


def planned_policy(cfg: DictConfig) -> Policy:
    """The policy under training on the meta device."""
    chosen = {k: cfg.model[k] for k in ("source", "dtype", "attention", "gradient_checkpointing")}
    policy = blank_policy(**chosen)
    attach_lora(policy, **OmegaConf.to_container(cfg.adapter, resolve=True))
    policy.model.train()
    return policy


def _stages(cfg: DictConfig, policy: Policy, lengths: Shapes, capacity: int) -> list[Stage]:
    found = []
    for name, (setting, studies) in _settings(cfg).items():
        work = {n: partial(_rehearsed, name, cfg, policy, lengths, n) for n in {1, studies}}
        peaks = {n: rehearse(policy, step, lengths.state_bytes) for n, step in work.items()}
        if cfg.model.get("quantise"):
            peaks = {n: in_four_bits(policy, peak) for n, peak in peaks.items()}
        if studies == 1:  # the line through two points needs a second one
            peaks[2] = rehearse(policy, partial(_rehearsed, name, cfg, policy, lengths, 2), lengths.state_bytes)
        sizes = sorted(peaks)
        most = largest_of(sizes, [sum(peaks[n].values()) for n in sizes], capacity)
        found.append(Stage(name, setting, studies, peaks[studies], most))
    return found


def _settings(cfg: DictConfig) -> dict[str, tuple[str, int]]:
    """The setting that says how many studies share each stage, and its value."""
    validation = ("model.eval_batch_size", int(cfg.model.eval_batch_size))
    if cfg.phase.name != "grpo":
        return {"update": ("phase.batch_size", int(cfg.phase.batch_size)), "validation": validation}
    micro = min(int(cfg.phase.module.micro_studies), int(cfg.phase.batch_size))
    stages = {"update": ("phase.module.micro_studies", micro), "validation": validation}
    return stages if _by_vllm(cfg) else {"rollout": ("phase.batch_size", int(cfg.phase.batch_size))} | stages


def _by_vllm(cfg: DictConfig) -> bool:
    """Whether rollouts are drawn in memory that vLLM takes for itself."""
    return cfg.phase.name == "grpo" and "gpu_memory_utilization" in cfg.rollout


def _rehearsed(name: str, cfg: DictConfig, policy: Policy, lengths: Shapes, n: int, book: Rehearsal) -> None:
    if name == "update":
        prompts = lengths.prompts(policy, _together(cfg, n))
        group = {"group_size": lengths.group_size, "studies": n, "shared": lengths.shared}
        update(policy, prompts, lengths.answers(n), **group)
    else:
        group_size = lengths.group_size if name == "rollout" else 1
        last_token(policy, lengths.prompts(policy, n), _sampling(cfg, name), group_size, book)


def _together(cfg: DictConfig, n: int) -> int:
    """Studies on the device while ``n`` of them are updated on: in GRPO the whole rollout."""
    return max(n, int(cfg.phase.batch_size)) if cfg.phase.name == "grpo" else n


def _sampling(cfg: DictConfig, name: str) -> Sampling:
    if name != "rollout":
        return Sampling(cfg.model.max_new_tokens, temperature=0.0)
    chosen = cfg.phase.module.sampling
    return Sampling(chosen.max_new_tokens, chosen.temperature, chosen.top_p, chosen.get("top_k", 0))


def device_memory(cfg: DictConfig) -> tuple[str, int]:
    """The device the trainer would take, by name, and its bytes; the paper's A100 where it asks for an absent GPU."""
    if cfg.get("device_gib"):
        return f"a device of {cfg.device_gib:g} GiB", int(cfg.device_gib * GIB)
    wants_gpu = cfg.trainer.accelerator in ("gpu", "cuda", "auto")
    if wants_gpu and torch.cuda.is_available():
        return torch.cuda.get_device_name(0), int(torch.cuda.get_device_properties(0).total_memory)
    if wants_gpu and cfg.trainer.accelerator != "auto":
        return "no GPU here, so an A100 of 80 GiB", 80 * GIB
    return "this machine's CPU", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def measure(cfg: DictConfig, policy: Policy) -> dict[str, int]:
    """Peak bytes of each stage's worst batch, run for real on the policy's device (an adapter attached)."""
    lengths, peaks = shapes(cfg, policy), {}
    for name, (setting, n) in _settings(cfg).items():
        prompts = with_pixels(lengths.prompts(policy, _together(cfg, n) if name == "update" else n), policy.device)
        work: Callable[[], object]
        if name == "update":
            ids = lengths.answers(n).to(policy.device)
            work = partial(
                update, policy, prompts, ids, group_size=lengths.group_size, studies=n, shared=lengths.shared
            )
        else:
            group = lengths.group_size if name == "rollout" else 1
            keys = [(k,) for k in range(n * group)]
            work = partial(sample, policy, prompts, _sampling(cfg, name), group_size=group, keys=keys)
        with endless(policy):
            peaks[name] = peak_on(policy.device, work, f"{setting}={n}")
        policy.zero_grad()
    return peaks


def before_training(cfg: DictConfig, samples: Sequence[Sample], policy: Policy, label_set: LabelSet) -> None:
    """Check the settings and, on a GPU, plan the memory and run the worst batch; what only wastes effort is logged.

    Nothing is looked at under ``preflight=false``. Raises ValueError with the settings to change.
    """
    if not cfg.preflight:
        return
    for warning in check_settings(cfg, samples, policy, label_set):
        log.warning("%s", warning)
    if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu":
        planned = plan(cfg)
        log.info("%s", planned.table())
        planned.check()
        home = policy.device
        for name, peak in measure(cfg, policy.to("cuda")).items():
            log.info("measured %s: %.2f GiB", name, peak / GIB)
        policy.to(home)


def _print_settings(cfg: DictConfig) -> None:
    label_set, prompt = build_labels(cfg), build_prompt(cfg)
    policy = build_policy(cfg)
    data = build_data(cfg, policy, prompt, label_set)
    attach_lora(policy, **OmegaConf.to_container(cfg.adapter, resolve=True))
    warnings = check_settings(cfg, data.train_samples, policy, label_set)
    print("settings:" if warnings else "settings: no fault found")
    for text in warnings:
        print(f"  (warning) {text}")


@known_choices
@hydra.main(version_base="1.3", config_path=confdir(), config_name="preflight")
@friendly(ValueError, KeyError, OSError, ModuleNotFoundError)
def main(cfg: DictConfig) -> None:
    """Print the plan; with ``settings=true`` check the settings, with ``measure=true`` run the worst batch as well."""
    quiet()
    planned = plan(cfg)
    print(planned.table())
    if cfg.settings:
        _print_settings(cfg)
    planned.check()
    if cfg.measure:
        bare = OmegaConf.merge(cfg, {"adapters": []})  # adapters merged before training change no shape
        policy = build_policy(bare).to("cuda" if torch.cuda.is_available() else "cpu")
        attach_lora(policy, **OmegaConf.to_container(cfg.adapter, resolve=True))
        policy.model.train()
        for name, peak in measure(cfg, policy).items():
            print(f"measured {name:<12}{peak / GIB:>8.2f} GiB")


if __name__ == "__main__":
    main()
