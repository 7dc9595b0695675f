"""The two tiny architectures: real Gemma 3 and Qwen2.5-VL classes, 16 image tokens, about 4 M parameters each."""

from __future__ import annotations

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from chexreason.model.load import TINY_WEIGHTS

MODELS = ("tiny_gemma3", "tiny_qwen2_5_vl")
SIZE = 128
IMAGE_TOKENS = 16
HIDDEN = 192
HALF = [0.5, 0.5, 0.5]

TinyModel = Gemma3ForConditionalGeneration | Qwen2_5_VLForConditionalGeneration
TinyProcessor = Gemma3Processor | Qwen2_5_VLProcessor


def build_model(name: str, tokenizer: PreTrainedTokenizerBase, seed: int) -> TinyModel:
    """A freshly initialised model of the named architecture whose special token ids are the tokenizer's."""
    torch.manual_seed(seed)
    model = _build_gemma3(tokenizer) if name == "tiny_gemma3" else _build_qwen2_5_vl(tokenizer)
    model.generation_config = GenerationConfig(
        eos_token_id=stop_ids(name, tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    return model


def stop_ids(name: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token id that ends an answer."""
    stops = ("<eos>", "<end_of_turn>") if name == "tiny_gemma3" else ("<|im_end|>", "<|endoftext|>")
    return [int(tokenizer.convert_tokens_to_ids(token)) for token in stops]


def build_processor(name: str, tokenizer: PreTrainedTokenizerBase) -> TinyProcessor:
    """The architecture's own processor: every image becomes 128 x 128 pixels and 16 image tokens."""
    template = (TINY_WEIGHTS / name / "chat_template.jinja").read_text()  # shipped beside the weights, written by hand
    if name == "tiny_gemma3":
        images = Gemma3ImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=HALF, image_std=HALF)
        return Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=IMAGE_TOKENS)
    grid = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2, "image_mean": HALF, "image_std": HALF}
    images = Qwen2VLImageProcessor(min_pixels=SIZE * SIZE, max_pixels=SIZE * SIZE, **grid)
    videos = Qwen2VLVideoProcessor(min_pixels=SIZE * SIZE, max_pixels=SIZE * SIZE, **grid)
    return Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=template)


def _text(tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    """What the text parts of both have in common."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _build_gemma3(tokenizer: PreTrainedTokenizerBase) -> Gemma3ForConditionalGeneration:
    ids = tokenizer.convert_tokens_to_ids
    config = Gemma3Config(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": HIDDEN,
            "intermediate_size": 576,
            "num_hidden_layers": 6,
            "num_attention_heads": 3,
            "image_size": SIZE,
            "patch_size": 16,
            "vision_use_head": False,
        },
        text_config=_text(tokenizer)
        | {
            "intermediate_size": 512,
            "head_dim": 64,
            "query_pre_attn_scalar": 64,
            "sliding_window": 512,
            "sliding_window_pattern": 2,
            "eos_token_id": ids("<eos>"),
            "bos_token_id": tokenizer.bos_token_id,
        },
        mm_tokens_per_image=IMAGE_TOKENS,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
        eos_token_id=stop_ids("tiny_gemma3", tokenizer),
    )
    model = Gemma3ForConditionalGeneration(config)
    # The class starts this matrix at zero, which leaves the text blind to the image.
    projection = model.model.multi_modal_projector.mm_input_projection_weight
    torch.nn.init.normal_(projection, std=HIDDEN**-0.5)
    return model


def _build_qwen2_5_vl(tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLForConditionalGeneration:
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 4,
            "hidden_size": HIDDEN,
            "intermediate_size": 448,
            "num_heads": 3,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 64,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [1, 3],
        },
        text_config=_text(tokenizer)
        | {
            "intermediate_size": 448,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return Qwen2_5_VLForConditionalGeneration(config)
