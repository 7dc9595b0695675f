"""Log-probabilities of completions under a policy: one function for SFT, the reference pass and the gradient pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from chexreason.data.batches import EncodedPrompts
from chexreason.model.kv import advance, advance_branches, prefill
from chexreason.model.policy import Policy, pad_right

LOGITS, NARROWEST = 2**22, 256  # so many logits at a time, 16 MB in fp32; at least so many ids of the vocabulary
LOWEST = torch.finfo(torch.float32).min / 4  # a logit that counts for nothing, finite so that 0 times it is 0


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


def score_states(head: nn.Module, states: Tensor, ids: Tensor, mask: Tensor, temperature: float = 1.0) -> TokenScores:
    """Scores of ``ids`` [N, T] under the logits that ``head`` makes of ``states`` [N, T, H].

    Equal to ``score_tokens``, but logits are made for real tokens alone and for a part of the vocabulary at a time. The
    gradient ends at the states: a head that is trained itself, or is more than a product, takes the long way.
    """
    if type(head) is not nn.Linear or any(parameter.requires_grad for parameter in head.parameters()):
        return score_tokens(head(states), ids, mask, temperature)
    keep = mask.bool()
    logp, entropy, top1 = _FrozenHead.apply(states[keep], head, ids[keep], temperature)
    where = keep.nonzero(as_tuple=True)
    zero = torch.zeros(ids.shape, dtype=logp.dtype, device=logp.device)
    return TokenScores(zero.index_put(where, logp), zero.index_put(where, entropy), zero.bool().index_put(where, top1))


def _over_vocabulary(
    head: nn.Linear, states: Tensor, ids: Tensor, temperature: float, *, slope: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The logit of ``ids`` [M]; the largest logit of all other ids [M], their logsumexp, mean logit and mean row.

    The means are weighted by probability; the mean row [M, H] is computed for ``slope`` alone. The vocabulary goes by
    in blocks with a running maximum (Milakov & Gimelshein 2018), so that the head is read once. The id itself stays out
    of the sums: 1 - p of a token the policy is sure of is then no difference of two numbers near 1, which in bf16 would
    be nothing but rounding.
    """
    ids = ids[:, None]
    size = max(LOGITS // max(len(ids), 1), NARROWEST)
    chosen, norm, moment = (torch.zeros(ids.shape, device=states.device) for _ in range(3))  # [M, 1]
    largest, row = torch.full_like(norm, LOWEST), torch.zeros(states.shape, device=states.device)
    for start in range(0, head.weight.shape[0], size):
        weight, bias = (None if part is None else part[start : start + size] for part in (head.weight, head.bias))
        logits = nn.functional.linear(states, weight, bias).float().div_(temperature)  # [M, size]
        inside = (ids >= start) & (ids < start + len(weight))
        slot = (ids - start).clamp(0, len(weight) - 1)
        found = logits.gather(-1, slot)
        chosen = torch.where(inside, found, chosen)
        logits.scatter_(-1, slot, torch.where(inside, torch.full_like(found, LOWEST), found))
        before, largest = largest, torch.maximum(largest, logits.amax(-1, keepdim=True))
        shift = before - largest
        decay = shift.exp()
        logits.sub_(largest)
        weights = logits.exp()
        moment = (moment + norm * shift) * decay + logits.mul_(weights).sum(-1, keepdim=True)
        norm = norm * decay + weights.sum(-1, keepdim=True)
        if slope:
            row.mul_(decay).add_(weights.to(states.dtype) @ weight)
    others = (largest, largest + norm.log(), largest + moment / norm)
    return chosen[:, 0], *(part[:, 0] for part in others), row.div_(norm)


class _FrozenHead(torch.autograd.Function):
    """Log-probability, entropy and top-1 [M] of ``ids`` [M] under a frozen head of ``states`` [M, H].

    The gradient of a log-probability by its state depends on nothing that comes later, so it is taken at once.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, head: nn.Linear, ids: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        slope, states = ctx.needs_input_grad[0], states.detach()
        chosen, best, others, mean, row = _over_vocabulary(head, states, ids, temperature, slope=slope)
        logp, rest = -nn.functional.softplus(others - chosen), (others - chosen).sigmoid()  # rest: 1 - p
        entropy = rest * (chosen - mean) - logp
        if slope:  # d logp / d state = (1 - p) (row of the id - mean row of the others) / temperature
            ctx.save_for_backward(rest[:, None] * (head.weight[ids] - row) / temperature)
        top1 = chosen >= best
        ctx.mark_non_differentiable(entropy, top1)
        return logp, entropy, top1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return grad[:, None] * slope, None, None, None


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
    Raises ValueError where prompts and rows do not match.
    """
    if ids.shape[0] != len(prompts) * group_size:
        raise ValueError(f"{ids.shape[0]} completions for {len(prompts)} prompts x group size {group_size}")
    states = (_shared_states if shared else _plain_states)(policy, prompts, ids, mask, group_size)
    return score_states(policy.base.get_output_embeddings(), states, ids, mask, temperature)


def choice_scores(
    policy: Policy, prompts: EncodedPrompts, rows: Sequence[Sequence[Sequence[int]]], *, group_size: int = 1
) -> list[list[float]]:
    """Log-probability of each of a row's choices after its prompt, less that of the tokens they all begin with.

    ``rows`` [B * G] hold completions as token ids, each of two or more. Differences within a row are those of
    ``completion_scores``; but the prompt runs once a study, and what completions begin with alike once a row.
    """
    trees = [_token_tree([choice[:-1] for choice in choices]) for choices in rows]
    ids, _ = pad_right([[token for _, token in nodes] for nodes, _ in trees], policy.pad_id)  # [N, Q]
    branch = torch.eye(ids.shape[1], dtype=torch.bool).repeat(len(rows), 1, 1)  # [N, Q, Q]
    for row, (nodes, _) in zip(branch, trees, strict=True):
        for (last, _), node in nodes.items():
            row[node - 1] |= row[last - 1] if last else False
    starts = [len([*takewhile(lambda tokens: len({*tokens}) == 1, zip(*choices, strict=False))]) for choices in rows]
    scored = [  # of each row, every token that is not common to all with the node it follows
        [
            pair
            for choice, walk in zip(choices, walks, strict=True)
            for pair in [*zip(walk, choice, strict=True)][start:]
        ]
        for choices, (_, walks), start in zip(rows, trees, starts, strict=True)
    ]
    last, _ = pad_right([[node for node, _ in row] for row in scored], 0)  # [N, T]
    tokens, mask = pad_right([[token for _, token in row] for row in scored], policy.pad_id)
    prefix, device = prefill(policy, prompts, group_size), policy.device
    states = advance_branches(policy, prefix, ids.to(device), branch.to(device))
    states = torch.cat([prefix.state[:, None], states], 1).take_along_dim(last[..., None].to(device), 1)  # [N, T, H]
    logp = score_states(prefix.head, states, tokens.to(device), mask.to(device)).logp.cpu().double()
    return [
        [float(part.sum()) for part in scores[: int(real.sum())].split([len(choice) - start for choice in choices])]
        for scores, real, choices, start in zip(logp, mask, rows, starts, strict=True)
    ]


def _token_tree(choices: Sequence[Sequence[int]]) -> tuple[dict[tuple[int, int], int], list[list[int]]]:
    """The nodes of the choices' tree, by the node before (0: their start) and token; each choice's walk from 0 on.

    >>> _token_tree([[7, 8], [7, 9]])
    ({(0, 7): 1, (1, 8): 2, (1, 9): 3}, [[0, 1, 2], [0, 1, 3]])
    """
    nodes: dict[tuple[int, int], int] = {}
    walks = []
    for choice in choices:
        walks.append([0])
        for token in choice:
            walks[-1].append(nodes.setdefault((walks[-1][-1], token), len(nodes) + 1))
    return nodes, walks


def study_chunks(n: int, size: int) -> list[range]:
    """Consecutive ranges of at most ``size`` studies that cover ``n``."""
    return [range(i, min(i + size, n)) for i in range(0, n, size)]


def scored_by_chunks(
    policy: Policy,
    prompts: EncodedPrompts,
    ids: Tensor,
    mask: Tensor,
    *,
    group_size: int,
    temperature: float,
    studies: int,
) -> Tensor:
    """Log-probabilities [N, T] of completions without gradient, ``studies`` at a time; masked positions hold 0."""
    logp = torch.zeros(ids.shape, device=ids.device)
    with torch.no_grad():
        for chunk in study_chunks(len(prompts), studies):
            rows = slice(chunk.start * group_size, chunk.stop * group_size)
            width = int(mask[rows].sum(1).max())
            part = prompts.select(chunk), ids[rows, :width], mask[rows, :width]
            scores = completion_scores(policy, *part, group_size=group_size, temperature=temperature)
            logp[rows, :width] = scores.logp
    return logp


def _shared_states(policy: Policy, prompts: EncodedPrompts, ids: Tensor, mask: Tensor, group_size: int) -> Tensor:
    """Hidden states [B * G, T, H] that predict ``ids``, over one prefix a study."""
    prefix = prefill(policy, prompts, group_size)
    if ids.shape[1] == 1:
        return prefix.state[:, None]
    full = torch.cat([prefix.mask, mask[:, :-1]], 1)  # [N, P + T - 1]
    rest = advance(policy, prefix, ids[:, :-1], full)
    return torch.cat([prefix.state[:, None], rest], 1)  # [N, T, H]


def _plain_states(policy: Policy, prompts: EncodedPrompts, ids: Tensor, mask: Tensor, group_size: int) -> Tensor:
    """Hidden states as ``_shared_states`` gives them, every row with its own prompt."""
    rows = [b for b in range(len(prompts)) for _ in range(group_size)]
    repeated = prompts.select(rows)
    positions, following = policy.family.positions(policy.base, repeated)
    after = policy.family.continue_positions(following, ids.shape[1])
    type_ids = torch.cat([repeated.type_ids, torch.zeros_like(ids).to(repeated.type_ids)], 1)
    output = policy.base.model(
        input_ids=torch.cat([repeated.input_ids, ids], 1),
        attention_mask=torch.cat([repeated.attention_mask, mask.to(repeated.attention_mask)], 1),
        position_ids=torch.cat([positions, after], -1),
        use_cache=False,
        **policy.family.image_inputs(repeated),
        **policy.family.sequence_inputs(type_ids),
    )
    return output.last_hidden_state[:, -ids.shape[1] - 1 : -1]  # [N, T, H]
