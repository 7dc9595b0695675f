"""The engine on every architecture: shared prefix against the plain path, sampling against the model's own generate."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor

from chexreason.data.batches import EncodedPrompts
from chexreason.model.generate import Sampling, sample
from chexreason.model.kv import advance, prefill
from chexreason.model.logprobs import completion_scores, score_tokens
from chexreason.model.policy import Policy, pad_right
from tests.support.adapters import greedy_is_generate, narrowed, with_lora

WINDOWS = [None, 20, 10]  # of Gemma's sliding layers: none that acts, shorter than the prompt, than the image's tokens
TEXTS = ["Describe the radiograph.", "Is there a pleural effusion in this film, and on which side?", "Hi"]
GROUP = 3


def encoded(policy: Policy, images: list[Image.Image]) -> EncodedPrompts:
    return policy.encode(images, TEXTS)


def draw(policy: Policy, prompts: EncodedPrompts, n: int = 12, names: str = "abc"):
    keys = [(7, 0, name, k) for name in names for k in range(GROUP)]
    return sample(policy, prompts, Sampling(n, temperature=0.8, top_p=0.95), group_size=GROUP, keys=keys)


def last_logits(policy: Policy, prompts: EncodedPrompts) -> Tensor:
    ids, mask = pad_right([[5]] * len(prompts), 0)
    return completion_scores(policy, prompts, ids, mask).logp


def test_the_image_reaches_the_logits(policy, images):
    prompts = encoded(policy, images)
    other = policy.encode([images[1], images[2], images[0]], TEXTS)
    changed = (last_logits(policy, prompts) - last_logits(policy, other)).abs()
    assert (changed > 1e-4).all()


def test_prompts_are_padded_on_the_left_and_end_where_the_assistant_starts(policy, images):
    prompts = encoded(policy, images)
    assert prompts.attention_mask[:, -1].tolist() == [1, 1, 1]
    assert prompts.attention_mask[2, 0] == 0
    tail = policy.tokenizer.decode(prompts.input_ids[2][-4:])
    assert tail.endswith(("model\n", "assistant\n"))
    first = policy.tokenizer.decode(prompts.input_ids[1])
    assert first.startswith(("<bos><start_of_turn>user", "<|im_start|>system"))  # one <bos>, not two


@pytest.mark.parametrize("window", WINDOWS)
def test_shared_prefix_equals_the_plain_path_in_value_and_gradient(policy, images, window):
    policy = with_lora(narrowed(policy, window)).train()
    prompts = encoded(policy, images)
    drawn = draw(policy, prompts)
    weights = torch.linspace(-1, 1, drawn.ids.numel()).reshape(drawn.ids.shape)
    values, gradients = [], []
    for shared in (True, False):
        policy.zero_grad()
        scores = completion_scores(
            policy, prompts, drawn.ids, drawn.mask, group_size=GROUP, temperature=0.8, shared=shared
        )
        (scores.logp * weights).sum().backward()
        values.append(scores.logp.detach())
        gradients.append({n: p.grad.clone() for n, p in policy.named_parameters() if p.requires_grad})
    torch.testing.assert_close(values[0], values[1], atol=1e-5, rtol=0)
    for name, gradient in gradients[1].items():
        assert (gradients[0][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-9, name


@pytest.mark.slow
@pytest.mark.parametrize("window", WINDOWS)
def test_all_paths_are_the_models_own_forward(policy, images, window):
    """Shared and plain path, rollout and generate, against the model run on each row alone, from pixels, unpadded."""
    policy = with_lora(narrowed(policy, window)).eval()
    prompts = encoded(policy, images)
    drawn = draw(policy, prompts, n=24)
    own = torch.zeros(drawn.ids.shape)
    with torch.no_grad():
        for row, ids in enumerate(drawn.ids):
            n, b = int(drawn.mask[row].sum()), row // GROUP
            one = policy.encode([images[b]], [TEXTS[b]])
            logits = policy.base(
                input_ids=torch.cat([one.input_ids, ids[None, :n]], 1),
                **policy.family.image_inputs(one),
                **{policy.family.placeholders: torch.cat([one.type_ids, torch.zeros(1, n).to(one.type_ids)], 1)},
            ).logits[:, -n - 1 : -1]
            own[row, :n] = (logits[0] / 0.8).log_softmax(-1).gather(-1, ids[:n, None])[:, 0]
        for shared in (True, False):
            ours = completion_scores(
                policy, prompts, drawn.ids, drawn.mask, group_size=GROUP, temperature=0.8, shared=shared
            )
            torch.testing.assert_close(ours.logp, own, atol=3e-5, rtol=0)
    torch.testing.assert_close(drawn.logp, own, atol=3e-5, rtol=0)
    if window is not None:  # it acts: without it the numbers are others
        wide = completion_scores(
            narrowed(policy, 512), prompts, drawn.ids, drawn.mask, group_size=GROUP, temperature=0.8
        )
        assert (wide.logp - own).abs().max() > 0.1


def test_rollout_logp_is_what_training_recomputes(policy, images):
    policy = with_lora(policy)
    prompts = encoded(policy, images)
    drawn = draw(policy, prompts)
    again = completion_scores(policy, prompts, drawn.ids, drawn.mask, group_size=GROUP, temperature=0.8)
    torch.testing.assert_close(again.logp, drawn.logp, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_completion_does_not_depend_on_its_neighbours(policy, images):
    prompts = encoded(policy, images)
    together = draw(policy, prompts)
    alone = draw(policy, prompts.select([1]), names="b")
    width = alone.ids.shape[1]
    assert torch.equal(together.ids[GROUP : 2 * GROUP, :width] * alone.mask, alone.ids * alone.mask)


@pytest.mark.slow
def test_cached_image_features_change_nothing(policy, images):
    prompts = encoded(policy, images)
    drawn = draw(policy, prompts)
    cached = draw(policy, policy.with_features(prompts))
    assert torch.equal(drawn.ids, cached.ids)
    torch.testing.assert_close(drawn.logp, cached.logp, atol=1e-6, rtol=0)


def test_greedy_equals_the_models_own_generate(policy, images):
    greedy_is_generate(policy, encoded(policy, images), 16)


def test_sampling_leaves_the_model_as_it_was(policy, images):
    policy.train()
    policy.base.gradient_checkpointing_enable()
    policy.base.lm_head.eval()  # a module in another mode than its parent keeps it
    before = [m.training for m in policy.modules()], policy.base.is_gradient_checkpointing
    draw(policy, encoded(policy, images), n=2)
    assert ([m.training for m in policy.modules()], policy.base.is_gradient_checkpointing) == before


@pytest.mark.slow
def test_a_policy_in_training_draws_as_one_that_is_not(policy, images):
    """Dropout while sampling, or a cache that checkpointing drops, would draw other tokens with nothing said."""
    policy.base.to(torch.bfloat16)  # where the adapter is not merged for sampling
    with_lora(policy, dropout=0.5)
    prompts = encoded(policy, images)
    calm = draw(policy.eval(), prompts)
    policy.train()
    policy.base.gradient_checkpointing_enable()
    busy = draw(policy, prompts)
    assert torch.equal(calm.ids, busy.ids)
    assert torch.equal(calm.logp, busy.logp)


@pytest.mark.slow
def test_sampled_logp_is_of_the_distribution_drawn_from(policy, images):
    """Against the nucleus of a pass of its own: banned ids out, the smallest set above top_p kept, renormalised."""
    prompts = encoded(with_lora(policy), images)
    drawn = draw(policy, prompts)
    prefix = prefill(policy, prompts, GROUP)
    with torch.no_grad():
        full = torch.cat([prefix.mask, drawn.mask[:, :-1]], 1)
        rest = prefix.head(advance(policy, prefix, drawn.ids[:, :-1], full))
        logits = torch.cat([prefix.logits[:, None], rest], 1).double() / 0.8  # [N, T, V]
    probs = logits.softmax(-1)
    probs[..., policy.banned_ids] = 0
    ranked, order = (probs / probs.sum(-1, keepdim=True)).sort(-1, descending=True)
    ranked[ranked.cumsum(-1) - ranked >= 0.95] = 0
    nucleus = torch.zeros_like(probs).scatter(-1, order, ranked / ranked.sum(-1, keepdim=True))
    expected = nucleus.gather(-1, drawn.ids[..., None])[..., 0].log()
    real = drawn.mask.bool()
    torch.testing.assert_close(drawn.sampled_logp[real].double(), expected[real], atol=2e-5, rtol=0)
    assert (drawn.sampled_logp - drawn.logp)[real].max() > 0.01  # cutting off makes what is left likelier


def test_gradient_checkpointing_and_a_shared_prefix_are_refused_together(gemma, images):
    gemma.train()
    gemma.base.gradient_checkpointing_enable()
    ids, mask = pad_right([[5]] * 3, 0)
    with pytest.raises(RuntimeError, match="gradient_checkpointing=false"):
        completion_scores(gemma, encoded(gemma, images), ids, mask)


def test_banned_ids_are_never_drawn_and_stop_ids_end_a_row(policy, images):
    prompts = encoded(policy, images)
    favourite = int(sample(policy, prompts, Sampling(1, temperature=0.0)).ids[0, 0])
    policy.banned_ids = [*policy.banned_ids, favourite]
    assert favourite not in draw(policy, prompts, n=8).ids
    policy.banned_ids.remove(favourite)
    policy.stop_ids = [favourite]
    drawn = sample(policy, prompts.select([0]), Sampling(8, temperature=0.0))
    assert drawn.ids.tolist() == [[favourite]]
    assert drawn.finished.tolist() == [True]


def test_scores_are_the_log_softmax_and_nothing_leaks_from_padding():
    logits = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0], [9.0, 9.0, 9.0]]], requires_grad=True)
    ids, mask = torch.tensor([[2, 0, 1]]), torch.tensor([[1, 1, 0]])
    scores = score_tokens(logits, ids, mask, temperature=2.0)
    expected = (logits.detach() / 2.0).log_softmax(-1)
    assert scores.logp[0, 0].item() == pytest.approx(expected[0, 0, 2].item())
    assert scores.logp[0, 2].item() == 0.0
    assert scores.top1.tolist() == [[True, True, False]]
    p = expected[0, 1].exp()
    assert scores.entropy[0, 1].item() == pytest.approx(-(p * expected[0, 1]).sum().item(), rel=1e-5)
    scores.logp.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 2].abs().sum() == 0


def test_selecting_studies_cuts_their_own_patches(policy, images):
    prompts = encoded(policy, images)
    one = prompts.select([2, 0])
    alone = policy.encode([images[2]], [TEXTS[2]])
    torch.testing.assert_close(last_logits(policy, one)[:1], last_logits(policy, alone), atol=1e-5, rtol=0)


def test_greedy_needs_no_key_and_sampling_does(gemma, images):
    with pytest.raises(ValueError, match="one key for each of the 3 rows"):
        sample(gemma, encoded(gemma, images), Sampling(2))
    with pytest.raises(ValueError, match="sampling out of range"):
        Sampling(0)
