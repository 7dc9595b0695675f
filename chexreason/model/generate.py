"""The sampling loop: all groups of a batch at once on a shared prefix, every row with its own random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from chexreason.data.batches import Batch, EncodedPrompts
from chexreason.model.adapters import unchanging
from chexreason.model.kv import next_logits, prefill
from chexreason.model.policy import Policy
from chexreason.parsing import AnswerFormat
from chexreason.statistics.predictions import to_prediction
from chexreason.types import Completion, Prediction, Study

NUCLEUS = 256, 4096  # most likely ids looked at first: with top_p below 1 they nearly always hold all that may be drawn


@dataclass(frozen=True)
class Sampling:
    """How to draw a completion; ``temperature`` 0 is greedy, ``top_k`` 0 and ``top_p`` 1 switch the cut-offs off.

    ``top_p`` cuts the distribution that ``top_k`` leaves, renormalised.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"sampling out of range: {self}; want max_new_tokens > 0, temperature >= 0, top_p in (0, 1]"
            )


@dataclass(frozen=True)
class Sampled:
    """Completions of N = B * G rows, row ``b * G + g``: ``ids`` and ``mask`` [N, T], padded on the right.

    ``logp`` [N, T] is under softmax(logits / temperature) over the whole vocabulary, what a training pass recomputes
    (None where the engine does not know it); ``sampled_logp`` [N, T] is under the distribution drawn from (banned ids
    removed, top-p and top-k renormalised); ``finished`` [N] is True where a stop token ended the row. A stop token
    counts as the row's last token.
    """

    ids: Tensor
    mask: Tensor
    logp: Tensor | None
    sampled_logp: Tensor
    finished: Tensor


@contextmanager
def sampling_mode(policy: Policy) -> Iterator[None]:
    """Evaluation mode, no gradient, gradient checkpointing off; everything is put back as it was.

    In train mode with checkpointing, generation loses its cache and returns wrong tokens with only a log line.
    """
    model, base = policy.model, policy.base
    training = {module: module.training for module in model.modules()}
    checkpointing = [m for m in base.modules() if getattr(m, "gradient_checkpointing", False)]
    model.eval()
    for module in checkpointing:
        module.gradient_checkpointing = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in checkpointing:
            module.gradient_checkpointing = True
        for module, mode in training.items():
            module.training = mode


def row_uniforms(keys: Sequence[tuple[object, ...]], length: int) -> Tensor:
    """Uniform numbers [N, length] in [0, 1), row n a function of ``keys[n]`` alone.

    With a key of (seed, step, study, k) a completion does not depend on its neighbours or the number of ranks.
    """
    generators = [torch.Generator().manual_seed(key_seed(key)) for key in keys]
    return torch.stack([torch.rand(length, generator=g, dtype=torch.float64) for g in generators])


def key_seed(key: tuple[object, ...]) -> int:
    """A seed (64 bits, signed) for torch that is a function of ``key`` alone."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big", signed=True)


def draw_ids(logp: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draw one id a row from log-probabilities ``logp`` [N, V] by inverting the cumulative distribution at ``uniform``.

    ``logp`` need not sum to 1 (banned ids hold -inf); ``uniform`` is [N] in [0, 1). Returns the ids [N] and their
    log-probability [N] under the truncated, renormalised distribution. The draw is made where ``uniform`` lies.
    """
    if sampling.temperature == 0:
        return logp.argmax(-1), torch.zeros(len(logp), device=logp.device)
    if uniform.device != logp.device:
        ids, drawn = draw_ids(logp.to(uniform.device), uniform, sampling)
        return ids.to(logp.device), drawn.to(logp.device)
    weights = logp.exp()
    probs = weights / weights.sum(-1, keepdim=True)
    if sampling.top_k:  # ids as likely as the last one stay, and top-p cuts what is left, as in transformers and vLLM
        least = probs.topk(min(sampling.top_k, probs.shape[-1])).values[:, -1:]
        probs = probs.where(probs >= least, 0.0)
        probs = probs / probs.sum(-1, keepdim=True)
    elif sampling.top_p == 1:
        return _draw_whole(probs, uniform)
    ids, drawn = torch.empty(len(probs), dtype=torch.long, device=probs.device), torch.empty_like(probs[:, 0])
    rows = torch.arange(len(probs), device=probs.device)
    for width in (*NUCLEUS, probs.shape[-1]):  # sorting 262,144 ids costs more than a token: only rows that flat are
        few, order = probs[rows].topk(min(width, probs.shape[-1]))
        ids[rows], drawn[rows] = _draw(few, order, uniform[rows], sampling)
        enough = (few.sum(-1) >= sampling.top_p) | (few[:, -1] == 0)
        if bool(enough.all()):
            break
        rows = rows[~enough]
    return ids, drawn


def _draw_whole(probs: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """As ``draw_ids`` where nothing is cut off: nothing has to be sorted."""
    total = probs.double().cumsum(-1)
    end = total[:, -1:]
    target = torch.minimum(uniform[:, None].to(total) * end, end.nextafter(torch.zeros_like(end)))  # below the end
    ids = torch.searchsorted(total, target, right=True)  # [N, 1]; an id of probability 0 adds nothing, and is skipped
    return ids[:, 0], (probs.gather(-1, ids).double() / end)[:, 0].log().float()


def _draw(probs: Tensor, order: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """As ``draw_ids``, from the most likely ids ``order`` [N, K] and their probabilities, in falling order."""
    before = probs.cumsum(-1) - probs
    keep = (probs > 0) & ((before < sampling.top_p) | (sampling.top_p == 1))  # always keeps the most likely id
    probs = torch.where(keep, probs, torch.zeros_like(probs)).double()
    probs = probs / probs.sum(-1, keepdim=True)
    last = keep.sum(-1, keepdim=True) - 1
    slot = torch.searchsorted(probs.cumsum(-1), uniform[:, None].to(probs), right=True).clamp(max=last)  # [N, 1]
    return order.gather(-1, slot)[:, 0], probs.gather(-1, slot)[:, 0].log().float()


def sample(
    policy: Policy,
    prompts: EncodedPrompts,
    sampling: Sampling,
    *,
    group_size: int = 1,
    keys: Sequence[tuple[object, ...]] | None = None,
) -> Sampled:
    """Sample ``group_size`` completions of each prompt; image and prompt run once a study.

    ``keys`` [B * G] seed the rows (needed unless greedy). Stops at every stop id of the model; banned ids are never
    drawn. The model's mode, checkpointing flags and gradients are left as they were.
    """
    n = len(prompts) * group_size
    if sampling.temperature > 0 and (keys is None or len(keys) != n):
        raise ValueError(f"sampling needs one key for each of the {n} rows, got {None if keys is None else len(keys)}")
    uniforms = row_uniforms(keys, sampling.max_new_tokens) if keys and sampling.temperature > 0 else torch.zeros(n, 1)
    with sampling_mode(policy), unchanging(policy):
        place = "cpu" if policy.device.type == "mps" else policy.device  # MPS has no float64
        return _decode(policy, prompts, sampling, group_size, uniforms.to(place))


def _decode(policy: Policy, prompts: EncodedPrompts, sampling: Sampling, group_size: int, uniforms: Tensor) -> Sampled:
    prefix = prefill(policy, prompts, group_size)
    prefix.make_room(sampling.max_new_tokens)
    visible = None if bool(prefix.mask.all()) else prefix.visible(sampling.max_new_tokens)
    n, device = prefix.mask.shape[0], prefix.mask.device
    ids = torch.full((n, sampling.max_new_tokens), policy.pad_id, device=device)
    mask = torch.zeros((n, sampling.max_new_tokens), dtype=torch.long, device=device)
    logp = torch.zeros((n, sampling.max_new_tokens), device=device)
    sampled_logp = torch.zeros_like(logp)
    stop, banned = (
        torch.tensor(found, dtype=torch.long, device=device) for found in (policy.stop_ids, policy.banned_ids)
    )
    rows, logits = torch.arange(n, device=device), prefix.logits  # rows still being written
    for t in range(sampling.max_new_tokens):
        full = (logits.float() / (sampling.temperature or 1.0)).log_softmax(-1)  # [N, V]
        allowed = full.index_fill(-1, banned, float("-inf"))
        token, drawn = draw_ids(allowed, uniforms[rows.to(uniforms.device), min(t, uniforms.shape[1] - 1)], sampling)
        ids[rows, t], mask[rows, t] = token, 1
        logp[rows, t], sampled_logp[rows, t] = full.gather(-1, token[:, None])[:, 0], drawn
        going = ~torch.isin(token, stop)
        if t + 1 == sampling.max_new_tokens or not going.any():
            break
        if not going.all():  # finished rows leave the batch
            kept = going.nonzero()[:, 0]
            prefix.keep_rows(kept)
            rows, token, visible = rows[kept], token[kept], None if visible is None else visible[kept]
        logits = next_logits(policy, prefix, token, visible)
    width = int(mask.sum(1).max())
    finished = (torch.isin(ids, stop) & mask.bool()).any(1)
    return Sampled(ids[:, :width], mask[:, :width], logp[:, :width], sampled_logp[:, :width], finished)


def read_completions(
    policy: Policy, sampled: Sampled, studies: Sequence[Study], answer_format: AnswerFormat
) -> list[Completion]:
    """Decode and parse sampled rows; row ``b * G + g`` belongs to ``studies[b]``."""
    group = sampled.ids.shape[0] // len(studies)
    texts = policy.decode(sampled.ids, sampled.mask)
    lengths = sampled.mask.sum(1).tolist()
    return [
        Completion(studies[n // group].study_id, text, answer_format.parse(text), int(lengths[n]), bool(done))
        for n, (text, done) in enumerate(zip(texts, sampled.finished.tolist(), strict=True))
    ]


def predict_batch(policy: Policy, batch: Batch, answer_format: AnswerFormat, max_new_tokens: int) -> list[Prediction]:
    """Greedy answers to a batch, parsed and paired with the truth."""
    studies = [item.study for item in batch.samples]
    sampled = sample(policy, policy.with_features(batch.prompts), Sampling(max_new_tokens, temperature=0.0))
    completions = read_completions(policy, sampled, studies, answer_format)
    return [to_prediction(s, c, answer_format.label_set) for s, c in zip(studies, completions, strict=True)]


class Engine(Protocol):
    """Draws ``group_size`` completions of each study of ``batch``, whose prompts are ``prompts``, images encoded.

    ``keys`` [B * G] seed the rows: a completion depends on its own key alone. Returns what ``sample`` returns.
    """

    def draw(
        self,
        policy: Policy,
        batch: Batch,
        prompts: EncodedPrompts,
        sampling: Sampling,
        *,
        group_size: int,
        keys: Sequence[tuple[object, ...]],
    ) -> Sampled: ...


class SharedPrefixEngine:
    """The policy's own weights; image and prompt run once a study."""

    def draw(
        self,
        policy: Policy,
        batch: Batch,
        prompts: EncodedPrompts,
        sampling: Sampling,
        *,
        group_size: int,
        keys: Sequence[tuple[object, ...]],
    ) -> Sampled:
        """Sample from ``prompts``; the images of ``batch`` are in them already."""
        return sample(policy, prompts, sampling, group_size=group_size, keys=keys)


SHARED_PREFIX = SharedPrefixEngine()  # keeps nothing between rollouts, so that one serves all
