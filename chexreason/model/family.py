"""What differs between the architectures, and nothing else: position ids, image tensors, image placeholders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from chexreason.data.batches import EncodedPrompts


class Family:
    """One architecture's way to feed a prompt: one pixel tensor a study and 1-D positions, where it says nothing else.

    ``model_type`` is transformers' name for it, ``placeholders`` the processor's name for the ids that mark image
    tokens.
    """

    model_type: str
    placeholders = "mm_token_type_ids"

    def encode(self, batch: dict[str, Tensor]) -> EncodedPrompts:
        """Encoded prompts from the processor's output."""
        return EncodedPrompts(
            batch["input_ids"],
            batch["attention_mask"],
            batch[self.placeholders],
            batch["pixel_values"],
            batch.get("image_grid_thw"),
        )

    def processor_settings(self, config: Any) -> dict[str, Any]:
        """What the model's shapes and this code need of the processor, by the names of its settings."""
        return {"do_resize": True, "do_pan_and_scan": False, "do_image_splitting": False}

    def image_features(self, model: Any, prompts: EncodedPrompts) -> tuple[Tensor, ...]:
        """Projected image tokens of each study, [n_i, hidden]."""
        pixels = prompts.pixel_values
        return tuple(model.get_image_features(pixels.to(model.dtype), **_grid(prompts)).pooler_output)

    def image_inputs(self, prompts: EncodedPrompts) -> dict[str, Any]:
        """Keyword arguments that bring the images into a forward pass."""
        if prompts.features is None:
            return {"pixel_values": prompts.pixel_values, **_grid(prompts)}
        output = BaseModelOutputWithPooling(pooler_output=self._bundled(prompts.features))
        return {"mm_encoder_outputs": {"image": output}}

    def positions(self, model: Any, prompts: EncodedPrompts) -> tuple[Tensor, Tensor]:
        """Position ids of the prompt, and the first position after it [B]."""
        mask = prompts.attention_mask
        return (mask.cumsum(-1) - 1).clamp(min=0), mask.sum(-1)  # [B, P], [B]

    def continue_positions(self, start: Tensor, length: int) -> Tensor:
        """Position ids of ``length`` tokens that follow ``start`` [B]."""
        return start[:, None] + torch.arange(length, device=start.device)  # [B, length]

    def sequence_inputs(self, type_ids: Tensor) -> dict[str, Tensor]:
        """Keyword arguments that mark image placeholders in a pass that contains them."""
        return {}

    def _bundled(self, features: tuple[Tensor, ...]) -> Any:
        """The image tokens of all studies as the model takes them."""
        return features


class Gemma3(Family):
    """Gemma 3 (MedGemma): bidirectional attention among image tokens, equally many of them in every image."""

    model_type = "gemma3"
    placeholders = "token_type_ids"

    def processor_settings(self, config: Any) -> dict[str, Any]:
        size = dict.fromkeys(("height", "width"), config.vision_config.image_size)
        return super().processor_settings(config) | {"size": size, "image_seq_length": config.mm_tokens_per_image}

    def sequence_inputs(self, type_ids: Tensor) -> dict[str, Tensor]:
        return {"token_type_ids": type_ids}

    def _bundled(self, features: tuple[Tensor, ...]) -> Any:
        return torch.stack(features)


class Qwen2_5VL(Family):
    """Qwen2.5-VL: patches of all images in one tensor, counted by ``image_grid_thw``; 3-D rotary positions (M-RoPE).

    The positions are passed explicitly, so the model need not find the images again.
    """

    model_type = "qwen2_5_vl"

    def processor_settings(self, config: Any) -> dict[str, Any]:
        vision = config.vision_config
        unit = {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size}
        return super().processor_settings(config) | unit | {"temporal_patch_size": vision.temporal_patch_size}

    def positions(self, model: Any, prompts: EncodedPrompts) -> tuple[Tensor, Tensor]:
        positions, delta = model.model.get_rope_index(
            prompts.input_ids,
            mm_token_type_ids=prompts.type_ids,
            image_grid_thw=prompts.grid,
            attention_mask=prompts.attention_mask,
        )
        return positions, prompts.attention_mask.sum(-1) + delta[:, 0]  # [3, B, P], [B]

    def continue_positions(self, start: Tensor, length: int) -> Tensor:
        return super().continue_positions(start, length)[None].expand(3, -1, -1)  # [3, B, length]


class Idefics3(Family):
    """Idefics3 (SmolVLM): an image and its crops as [B, crops, 3, H, W], causal attention throughout.

    Crops are whole squares and those that fill up a study are empty, so the mask of pixels says nothing. For
    evaluation: adapters and the memory plan know the other two alone.
    """

    model_type = "idefics3"

    def processor_settings(self, config: Any) -> dict[str, Any]:
        side = config.vision_config.image_size
        tokens = (side // config.vision_config.patch_size // config.scale_factor) ** 2
        crops = {"max_image_size": {"longest_edge": side}, "image_seq_len": tokens}
        return {"do_resize": True, "do_pan_and_scan": False} | crops


_FAMILIES = {family.model_type: family for family in (Gemma3, Qwen2_5VL, Idefics3)}


def family_of(model_type: str) -> Family:
    """The family of a ``config.model_type``; raises ValueError naming the supported ones."""
    if model_type not in _FAMILIES:
        raise ValueError(f"model type '{model_type}' is not supported; supported: {', '.join(sorted(_FAMILIES))}")
    return _FAMILIES[model_type]()


def _grid(prompts: EncodedPrompts) -> dict[str, Tensor]:
    """The patch counts of the images, where the processor gives any."""
    return {} if prompts.grid is None else {"image_grid_thw": prompts.grid}
