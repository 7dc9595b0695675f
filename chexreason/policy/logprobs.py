"""Log-probabilities of completions under a policy: one function for SFT, the reference pass and the gradient pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chexreason.data.encoded import EncodedPrompts
from chexreason.policy.policy import Policy
from chexreason.policy.prefix import extend, prefill


@dataclass(frozen=True)
class TokenScores:
    """Per completion token: log-probability, entropy of its distribution, and whether it was the most likely token.

    All are [N, T]; masked positions hold 0 (and False).
    """

    logp: Tensor
    entropy: Tensor
    top1: Tensor


def score_tokens(logits: Tensor, ids: Tensor, mask: Tensor, temperature: float = 1.0) -> TokenScores:
    """Scores of ``ids`` [N, T] under ``logits`` [N, T, V] divided by ``temperature``, computed in fp32.

    Only ``logp`` carries a gradient.
    """
    keep = mask.bool()
    logp_all = (logits.float() / temperature).log_softmax(-1)  # [N, T, V]
    logp = logp_all.gather(-1, ids[..., None])[..., 0]
    with torch.no_grad():
        entropy = -(logp_all.exp() * logp_all).sum(-1)
        top1 = logits.argmax(-1) == ids
    zero = torch.zeros_like(logp)
    return TokenScores(torch.where(keep, logp, zero), torch.where(keep, entropy, zero), top1 & keep)


def completion_scores(
    policy: Policy,
    prompts: EncodedPrompts,
    ids: Tensor,
    mask: Tensor,
    *,
    group_size: int = 1,
    temperature: float = 1.0,
    shared: bool = True,
) -> TokenScores:
    """Scores of completions ``ids`` [B * G, T] (padded on the right, ``mask`` 1 at real tokens) after their prompts.

    With ``shared`` the prompt runs once a study and its keys and values serve all G completions (equal to the plain
    path in value and gradient); without it every row carries its own prompt, which gradient checkpointing needs.
    """
    if ids.shape[0] != len(prompts) * group_size:
        raise ValueError(f"{ids.shape[0]} completions for {len(prompts)} prompts x group size {group_size}")
    logits = (_shared_logits if shared else _plain_logits)(policy, prompts, ids, mask, group_size)
    return score_tokens(logits, ids, mask, temperature)


def _shared_logits(policy: Policy, prompts: EncodedPrompts, ids: Tensor, mask: Tensor, group_size: int) -> Tensor:
    prefix = prefill(policy, prompts, group_size)
    if ids.shape[1] == 1:
        return prefix.logits[:, None]
    full = torch.cat([prefix.mask, mask[:, :-1]], 1)  # [N, P + T - 1]
    rest = extend(policy, prefix, ids[:, :-1], full, prefix.next_position)
    return torch.cat([prefix.logits[:, None], rest], 1)  # [N, T, V]


def _plain_logits(policy: Policy, prompts: EncodedPrompts, ids: Tensor, mask: Tensor, group_size: int) -> Tensor:
    rows = [b for b in range(len(prompts)) for _ in range(group_size)]
    repeated = prompts.select(rows)
    positions, following = policy.family.positions(policy.base, repeated)
    after = policy.family.continue_positions(following, ids.shape[1])
    type_ids = torch.cat([repeated.type_ids, torch.zeros_like(ids).to(repeated.type_ids)], 1)
    output = policy.model(
        input_ids=torch.cat([repeated.input_ids, ids], 1),
        attention_mask=torch.cat([repeated.attention_mask, mask.to(repeated.attention_mask)], 1),
        position_ids=torch.cat([positions, after], -1),
        use_cache=False,
        logits_to_keep=ids.shape[1] + 1,
        **policy.family.image_inputs(repeated),
        **policy.family.sequence_inputs(type_ids),
    )
    return output.logits[:, :-1]  # [N, T, V]
