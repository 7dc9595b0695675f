"""The real tokenizers and chat templates: words, image tokens, padding, stop ids, and what an answer is trained on."""

from __future__ import annotations

import unicodedata

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from chexreason.build.data import build_prompt
from chexreason.labels.catalog import CHEXPERT14
from chexreason.model.generate import Sampling, sample
from chexreason.model.logprobs import completion_scores
from chexreason.parsing import format_answer, parse
from chexreason.rewards.lab.cohorts import phantom_cohort
from chexreason.traces.template import TemplateTeacher
from tests.support.configs import composed

pytestmark = pytest.mark.slow  # seconds to read a vocabulary of 262,144
GEMMA = (
    "<bos><start_of_turn>user\n\n\n<start_of_image>{image}<end_of_image>\n\n{text}<end_of_turn>\n<start_of_turn>model\n"
)
QWEN = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|>{image}<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
)
QWEN3 = QWEN.partition("<|im_end|>\n")[2]  # no system turn
# The prompt, the image token and its id, the stop ids, how the assistant's turn opens, the least and most image tokens.
FACTS = {
    "gemma3": (GEMMA, "<image_soft_token>", 262_144, [106, 1], "<start_of_turn>model\n", (256, 256)),
    "qwen2_5_vl": (QWEN, "<|image_pad|>", 151_655, [151_645, 151_643], "<|im_start|>assistant\n", (256, 512)),
}
FACTS["qwen3_vl"] = (QWEN3, *FACTS["qwen2_5_vl"][1:])
TEXT = "Read this frontal chest radiograph. Labels: Edema, No Finding."


def image(width: int, height: int) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


def facts(policy):
    return FACTS[policy.base.config.model_type]


def test_the_prompt_reads_as_the_template_says_with_the_image_before_the_text(policy):
    words, token, token_id, _, _, _ = facts(policy)
    prompts = policy.encode([image(1024, 1024)], [TEXT])
    n = int((prompts.input_ids == token_id).sum())
    assert policy.tokenizer.decode(prompts.input_ids[0]) == words.format(image=token * n, text=TEXT)
    assert torch.equal(prompts.type_ids == 1, prompts.input_ids == token_id)
    assert policy.base.config.image_token_id == token_id


# a MIMIC film, CheXpert's small one, NIH's, a strip, the smallest that is taken
@pytest.mark.parametrize("size", [(2544, 3056), (390, 320), (1024, 1024), (3000, 400), (16, 16)])
def test_the_number_of_image_tokens_is_bounded_and_is_what_the_model_has_features_for(policy, size):
    low, high = facts(policy)[-1]
    prompts = policy.encode([image(*size)], ["Hi"])
    n = int((prompts.type_ids == 1).sum())
    assert low <= n <= high
    (features,) = policy.with_features(prompts).features
    assert features.shape[0] == n


def test_prompts_of_unequal_length_are_padded_on_the_left_whatever_the_tokenizer_says(policy):
    policy.tokenizer.padding_side = "right"  # as Qwen's files have it
    prompts = policy.encode([image(300, 300), image(900, 300)], ["Hi", TEXT * 3])
    lengths = prompts.attention_mask.sum(1).tolist()
    assert lengths[0] < lengths[1]
    assert prompts.attention_mask[0].tolist() == [0] * (lengths[1] - lengths[0]) + [1] * lengths[0]
    alone = policy.encode([image(300, 300)], ["Hi"])
    assert torch.equal(prompts.input_ids[0, -lengths[0] :], alone.input_ids[0])
    assert torch.equal(prompts.type_ids[0, -lengths[0] :], alone.type_ids[0])
    assert int(prompts.type_ids[0, : -lengths[0]].sum()) == 0


def test_padding_changes_no_probability(policy):
    images, texts = [image(300, 300), image(500, 700)], ["Hi", TEXT]
    ids, mask = policy.encode_answers(["Edema", "Edema"])
    both = completion_scores(policy, policy.encode(images, texts), ids, mask)
    alone = completion_scores(policy, policy.encode(images[:1], texts[:1]), ids[:1], mask[:1])
    torch.testing.assert_close(both.logp[:1], alone.logp, atol=1e-5, rtol=0)


def test_the_stop_ids_are_the_markers_and_an_answer_is_closed_by_the_first(policy):
    stop = facts(policy)[3]
    assert policy.stop_ids == stop
    assert policy.tokenizer.convert_ids_to_tokens(stop[0]) in {"<end_of_turn>", "<|im_end|>"}
    ids, _ = policy.encode_answers(["Edema"])
    assert ids[0, -1] == stop[0]


def test_image_turn_and_nameless_ids_are_never_drawn(policy):
    banned = set(policy.banned_ids)
    rows = policy.base.get_output_embeddings().weight.shape[0]
    assert {facts(policy)[2], *range(len(policy.tokenizer), rows)} <= banned
    assert not banned & set(policy.stop_ids)
    drawn = sample(policy, policy.encode([image(200, 200)], ["Hi"]), Sampling(8, temperature=0.0))
    assert not banned & set(drawn.ids.flatten().tolist())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=st.sets(st.sampled_from(CHEXPERT14.labels), min_size=1),
    think=st.text(st.characters(codec="utf-8", exclude_characters="<>"), max_size=60),
)
def test_the_loss_mask_is_the_span_between_the_templates_markers(policy, labels, think):
    """Prompt ids and then answer ids are the template's own ids of the whole dialogue, and the mask its last turn."""
    think = unicodedata.normalize("NFC", think)  # Qwen's tokenizers write it so, and lose which form it was
    answer = format_answer(think, CHEXPERT14.decode(CHEXPERT14.encode(labels)))
    user = {"role": "user", "content": [{"type": "text", "text": TEXT}]}
    reply = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    whole = policy.processor.apply_chat_template([user, reply], tokenize=False)
    opening, stop = facts(policy)[4], policy.tokenizer.convert_ids_to_tokens(policy.stop_ids[0])
    before, span = whole.split(opening)
    ids, mask = policy.encode_answers([answer])
    assert mask.all()
    encode = policy.tokenizer
    prompt = encode(before + opening, add_special_tokens=False)["input_ids"]
    assert prompt + ids[0].tolist() == encode(whole.rstrip("\n"), add_special_tokens=False)["input_ids"]
    assert span == answer + stop + "\n"
    assert policy.decode(ids, mask) == [answer]
    assert set(parse(policy.decode(ids, mask)[0], CHEXPERT14).labels) == labels


def test_the_disk_cache_resizes_as_the_processor_does(policy):
    original = image(640, 800)
    direct = policy.encode([original], ["Hi"])
    cached = policy.encode([policy.resize(original)], ["Hi"], resized=True)
    assert torch.equal(direct.pixel_values, cached.pixel_values)
    assert torch.equal(direct.input_ids, cached.input_ids)


def test_the_comparators_own_answer_form_survives_its_tokenizer(policy):
    """NV-Reason-CXR-3B has Qwen2.5-VL's tokenizer; its published answers read as below."""
    answer = "<think> There is an opacity at the left base. </think>\n<answer> Lung Opacity, Support Devices </answer>"
    ids, mask = policy.encode_answers([answer])
    (text,) = policy.decode(ids, mask)
    assert parse(text, CHEXPERT14, "think_answer").labels == ("Lung Opacity", "Support Devices")


@pytest.mark.parametrize(("prompt", "most"), [("free_reasoning", 200), ("reasoning_narrative", 220)])
def test_the_template_teacher_never_writes_as_long_as_the_hard_reward_asks(policy, prompt, most):
    """So GRPO from its SFT adapter always pays for short answers: what preflight warns of."""
    asked, teacher = build_prompt(composed("train", f"prompt={prompt}")), TemplateTeacher()
    studies = [study for study in phantom_cohort(CHEXPERT14) if teacher.can_write(study, CHEXPERT14)]
    lengths = policy.encode_answers([teacher.write(study, asked, CHEXPERT14) for study in studies])[1].sum(1)
    assert 100 < int(lengths.max()) <= most < composed("train", "reward=hard").reward.min_length
