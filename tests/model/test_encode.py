"""What cannot be encoded is refused: nothing is cut off, no text passes for an image, no speck for a radiograph."""

from __future__ import annotations

import pytest
from PIL import Image


def test_a_prompt_longer_than_the_context_is_refused_with_its_length_and_never_cut(policy, images):
    policy.tokenizer.model_max_length = 64  # what a tokenizer would cut to if it were asked
    kept = policy.encode(images[:1], ["word " * 200])
    assert kept.input_ids.shape[1] > 200
    assert int(kept.type_ids.sum()) == 16
    policy.encoder.context = 128
    with pytest.raises(ValueError, match=r"tokens \(16 of them its image\) do not fit .* 128.*shorter prompt="):
        policy.encode(images[:1], ["word " * 200])


def test_a_trace_longer_than_the_context_is_refused(policy):
    with pytest.raises(
        ValueError, match=r"\d{4,} tokens \(without the prompt\) do not fit the model's context of 2048"
    ):
        policy.encode_answers(["<think>" + "opacity " * 8000 + "</think>"])


def test_a_text_that_holds_a_marker_of_the_template_is_refused(policy, images):
    markers = set(policy.encoder.markers)
    assert {"<end_of_turn>", "<image_soft_token>"} <= markers or {"<|im_end|>", "<|image_pad|>"} <= markers
    for marker in markers:
        with pytest.raises(ValueError, match=r"the prompt holds .*take it out"):
            policy.encode(images[:1], [f"Is this {marker} a film?"])
        with pytest.raises(ValueError, match=r"the answer holds .*take it out"):
            policy.encode_answers([f"<think>{marker}</think>"])


@pytest.mark.parametrize("size", [(15, 400), (400, 15), (1, 1)])
def test_an_image_smaller_than_a_patch_is_refused_on_both_ways_in(policy, size):
    speck = Image.new("RGB", size)
    message = rf"{size[0]} x {size[1]} pixels is smaller than one patch \(16 x 16\)"
    with pytest.raises(ValueError, match=message):
        policy.encode([speck], ["Hi"])
    with pytest.raises(ValueError, match=message):
        policy.resize(speck)
