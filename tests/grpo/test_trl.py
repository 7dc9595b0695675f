"""Loss and gradient against TRL's own code, on the same numbers: GRPOTrainer._compute_loss, fed with log-probabilities.

Needs the extra `bench`; importing TRL alone takes many seconds.
"""

from __future__ import annotations

from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from chexreason.grpo.objective import ObjectiveSpec, denominator, loss_mask, policy_loss
from tests.support.presets import preset

try:
    TRL = tuple(int(part) for part in version("trl").split(".")[:2])
except PackageNotFoundError:
    TRL = (0, 0)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(TRL < (1, 16), reason="TRL 1.16 or newer is not installed: pip install 'chexreason[bench]'"),
]

N, T, T_MAX = 8, 7, 12
# What each preset is called there; gspo is a level of the ratio, not a loss.
OPTIONS: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "dr_grpo_trl": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
}
every_preset = pytest.mark.parametrize("name", OPTIONS)


def config(tmp_path: Path, **options: Any) -> Any:
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to="none",
        num_generations=4,
        per_device_train_batch_size=N // 2,
        gradient_accumulation_steps=2,
        max_completion_length=T_MAX,
        **options,
    )


@pytest.fixture
def rows() -> dict[str, Tensor]:
    """Ragged rows in float64: logp, old, ref and sampled [N, T], advantages [N], mask [N, T]."""
    rng = torch.Generator().manual_seed(3)
    logp = -3 * torch.rand(N, T, generator=rng, dtype=torch.float64)
    old, ref, sampled = (logp + 0.3 * torch.randn(N, T, generator=rng, dtype=torch.float64) for _ in range(3))
    # one completion so close to its old policy that a sequence ratio stays inside its narrow clip
    old[0] = logp[0] + 1e-4 * (old[0] - logp[0])
    mask = torch.arange(T)[None] < torch.tensor([7, 1, 4, 2, 6, 3, 5, 7])[:, None]
    advantages = torch.randn(N, generator=rng, dtype=torch.float64)
    return {"logp": logp, "old": old, "ref": ref, "sampled": sampled, "advantages": advantages, "mask": mask}


def theirs(rows: dict[str, Tensor], args: Any, *, fresh: bool, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """TRL's loss, summed over two micro-batches as its accumulation does, and the gradient [N, T]."""
    from trl import GRPOTrainer

    leaf = rows["logp"].clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for part in (slice(0, N // 2), slice(N // 2, N)):
        trainer = one_process(args, leaf[part], corrected=weight is not None)
        ids = torch.zeros_like(rows["mask"][part], dtype=torch.long)
        inputs = {
            "prompt_ids": ids[:, :1],
            "prompt_mask": ids[:, :1],
            "completion_ids": ids,
            "completion_mask": rows["mask"][part].long(),
            "advantages": rows["advantages"][part],
            "ref_per_token_logps": rows["ref"][part],
            "num_items_in_batch": rows["mask"].sum(),
            "importance_sampling_ratio": None if weight is None else weight[part],
        }
        if not fresh:
            inputs["old_per_token_logps"] = rows["old"][part]
        total = total + GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    return total.detach(), torch.autograd.grad(total, leaf)[0]


def one_process(args: Any, logp: Tensor, *, corrected: bool) -> SimpleNamespace:
    """What ``_compute_loss`` reads of a trainer, with its model's log-probabilities given."""
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, torch.zeros_like(logp), None),
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1),
        model=SimpleNamespace(training=True),
        args=args,
        beta=args.beta,
        loss_type=args.loss_type,
        epsilon_low=args.epsilon,
        epsilon_high=args.epsilon if args.epsilon_high is None else args.epsilon_high,
        importance_sampling_level=args.importance_sampling_level,
        max_completion_length=args.max_completion_length,
        top_entropy_quantile=args.top_entropy_quantile,
        off_policy_mask_threshold=args.off_policy_mask_threshold,
        use_vllm=corrected,
        vllm_importance_sampling_correction=corrected,
        current_gradient_accumulation_steps=args.gradient_accumulation_steps,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )


def ours(rows: dict[str, Tensor], spec: ObjectiveSpec, *, fresh: bool) -> tuple[Tensor, Tensor]:
    leaf = rows["logp"].clone().requires_grad_()
    old = leaf.detach() if fresh else rows["old"]
    sampled = None if spec.correction == "none" else rows["sampled"]
    loss, _ = policy_loss(leaf, old, rows["ref"], rows["advantages"], rows["mask"], spec, sampled_logp=sampled)
    loss = loss / denominator(rows["mask"], spec, T_MAX)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


@every_preset
@pytest.mark.parametrize("beta", [0.0, 0.15])
@pytest.mark.parametrize("factor", [False, True])
@pytest.mark.parametrize("fresh", [True, False], ids=["one_update", "several_updates"])
def test_loss_and_gradient_are_theirs(
    name: str, beta: float, factor: bool, fresh: bool, rows: dict[str, Tensor], tmp_path: Path
) -> None:
    args = config(tmp_path, beta=beta, use_bias_correction_kl=factor, **OPTIONS[name])
    loss, grad = ours(rows, preset(name, kl_beta=beta, kl_ratio_factor=factor), fresh=fresh)
    their_loss, their_grad = theirs(rows, args, fresh=fresh)
    torch.testing.assert_close(loss, their_loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad, their_grad, rtol=1e-12, atol=1e-12)
    assert grad.abs().max() > 1e-3, "nothing was compared"


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_truncated_correction_is_theirs(level: str, rows: dict[str, Tensor], tmp_path: Path) -> None:
    """Their ``token_truncate`` and ``sequence_truncate``; the weight is theirs by formula, where it enters by code."""
    gap = (rows["old"] - rows["sampled"]) * rows["mask"]
    weight = (gap if level == "token" else gap.sum(1, keepdim=True)).exp().clamp(max=1.5)
    args = config(tmp_path, beta=0.1, **OPTIONS["dr_grpo"])
    spec = preset("dr_grpo", kl_beta=0.1, kl_ratio_factor=True, correction=level, correction_cap=1.5)
    assert 0 < (weight == 1.5).sum() < weight.numel()
    torch.testing.assert_close(ours(rows, spec, fresh=False), theirs(rows, args, fresh=False, weight=weight))


def test_the_dual_clip_is_their_delta(rows: dict[str, Tensor], tmp_path: Path) -> None:
    rows["old"] = rows["logp"] - 2 * (rows["old"] - rows["logp"]).abs()
    args = config(tmp_path, delta=1.5, **OPTIONS["dr_grpo"])
    bounded, plain = (ours(rows, preset("dr_grpo", dual_clip=bound), fresh=False) for bound in (1.5, None))
    torch.testing.assert_close(bounded, theirs(rows, args, fresh=False))
    assert not torch.equal(bounded[1], plain[1]), "the bound did not act"


@pytest.mark.parametrize(("name", "factor"), [("grpo", 8 / 6), ("dr_grpo", 8 / 6), ("dapo", 1.0)])
def test_truncated_rows_still_divide_theirs(name: str, factor: float, rows: dict[str, Tensor], tmp_path: Path) -> None:
    """Both empty a truncated row; their means over rows go on counting it, ours do not: here 6 of 8 rows count."""
    finished = torch.tensor([True, True, False, True, True, False, True, True])
    spec = preset(name, kl_beta=0.0, truncated="mask")
    rows["mask"] = loss_mask(rows["mask"], spec, finished=finished, zero_variance=torch.zeros(N, dtype=torch.bool))
    their_loss, their_grad = theirs(rows, config(tmp_path, **OPTIONS[name]), fresh=False)
    loss, grad = ours(rows, spec, fresh=False)
    torch.testing.assert_close((loss, grad), (factor * their_loss, factor * their_grad))


def test_our_preset_of_their_dr_grpo_is_their_defaults(tmp_path: Path) -> None:
    args, spec = config(tmp_path, loss_type="dr_grpo"), preset("dr_grpo_trl")
    assert args.scale_rewards == "group"
    assert spec.scale == "std"
    assert args.epsilon_high is None
    assert spec.clip_low == spec.clip_high == args.epsilon
    assert (spec.kl_beta, spec.kl_ratio_factor) == (args.beta, args.use_bias_correction_kl)
    assert (spec.ratio_level, spec.updates_per_rollout) == (args.importance_sampling_level, args.num_iterations)
    assert args.delta is spec.dual_clip is None
    assert (spec.truncated == "mask") == args.mask_truncated_completions
