"""What differs between the architectures, and nothing else: positions, image features, stop and banned tokens."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from chexreason.data.prompt_tensors import EncodedPrompts


class Family(Protocol):
    """One architecture's way to feed a prompt: everything the engine needs to know about it."""

    model_type: str

    def encode(self, batch: dict[str, Tensor]) -> EncodedPrompts:
        """Encoded prompts from the processor's output."""
        ...

    def image_features(self, model: Any, prompts: EncodedPrompts) -> tuple[Tensor, ...]:
        """Projected image tokens of each study, [n_i, hidden]."""
        ...

    def image_inputs(self, prompts: EncodedPrompts) -> dict[str, Any]:
        """Keyword arguments that bring the images into a forward pass."""
        ...

    def positions(self, model: Any, prompts: EncodedPrompts) -> tuple[Tensor, Tensor]:
        """Position ids of the prompt, and the first position after it [B]."""
        ...

    def continue_positions(self, start: Tensor, length: int) -> Tensor:
        """Position ids of ``length`` tokens that follow ``start`` [B]."""
        ...

    def sequence_inputs(self, type_ids: Tensor) -> dict[str, Tensor]:
        """Keyword arguments that mark image placeholders in a pass that contains them."""
        ...


def _counted(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [B, P] of the real tokens of left-padded rows, and the position [B] that follows."""
    return (mask.cumsum(-1) - 1).clamp(min=0), mask.sum(-1)


def _steps(start: Tensor, length: int) -> Tensor:
    return start[:, None] + torch.arange(length, device=start.device)  # [B, length]


class Gemma3:
    """Gemma 3 (MedGemma): one pixel tensor a study, bidirectional attention among image tokens, 1-D positions."""

    model_type = "gemma3"

    def encode(self, batch: dict[str, Tensor]) -> EncodedPrompts:
        return EncodedPrompts(
            batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], batch["pixel_values"]
        )

    def image_features(self, model: Any, prompts: EncodedPrompts) -> tuple[Tensor, ...]:
        pixels = prompts.pixel_values
        return tuple(model.get_image_features(pixels.to(model.dtype)).pooler_output.unbind(0))

    def image_inputs(self, prompts: EncodedPrompts) -> dict[str, Any]:
        if prompts.features is None:
            return {"pixel_values": prompts.pixel_values}
        stacked = BaseModelOutputWithPooling(pooler_output=torch.stack(prompts.features))
        return {"mm_encoder_outputs": {"image": stacked}}

    def positions(self, model: Any, prompts: EncodedPrompts) -> tuple[Tensor, Tensor]:
        return _counted(prompts.attention_mask)

    def continue_positions(self, start: Tensor, length: int) -> Tensor:
        return _steps(start, length)

    def sequence_inputs(self, type_ids: Tensor) -> dict[str, Tensor]:
        return {"token_type_ids": type_ids}


class Qwen2_5VL:
    """Qwen2.5-VL: patches of all images in one tensor, counted by ``image_grid_thw``; 3-D rotary positions (M-RoPE)."""

    model_type = "qwen2_5_vl"

    def encode(self, batch: dict[str, Tensor]) -> EncodedPrompts:
        return EncodedPrompts(
            batch["input_ids"],
            batch["attention_mask"],
            batch["mm_token_type_ids"],
            batch["pixel_values"],
            batch["image_grid_thw"],
        )

    def image_features(self, model: Any, prompts: EncodedPrompts) -> tuple[Tensor, ...]:
        pixels = prompts.pixel_values
        return tuple(model.get_image_features(pixels.to(model.dtype), prompts.grid).pooler_output)

    def image_inputs(self, prompts: EncodedPrompts) -> dict[str, Any]:
        if prompts.features is None:
            return {"pixel_values": prompts.pixel_values, "image_grid_thw": prompts.grid}
        output = BaseModelOutputWithPooling(pooler_output=prompts.features)  # type: ignore[arg-type]
        return {"mm_encoder_outputs": {"image": output}}

    def positions(self, model: Any, prompts: EncodedPrompts) -> tuple[Tensor, Tensor]:
        positions, delta = model.model.get_rope_index(
            prompts.input_ids,
            mm_token_type_ids=prompts.type_ids,
            image_grid_thw=prompts.grid,
            attention_mask=prompts.attention_mask,
        )
        return positions, prompts.attention_mask.sum(-1) + delta[:, 0]  # [3, B, P], [B]

    def continue_positions(self, start: Tensor, length: int) -> Tensor:
        return _steps(start, length)[None].expand(3, -1, -1)  # [3, B, length]

    def sequence_inputs(self, type_ids: Tensor) -> dict[str, Tensor]:
        return {}  # 3-D positions are passed explicitly, so the model need not find the images again


class Idefics3:
    """Idefics3 (SmolVLM): an image and its crops as [B, crops, 3, H, W], causal attention throughout, 1-D positions.

    For evaluation: adapters and the memory plan know the other two alone.
    """

    model_type = "idefics3"

    def encode(self, batch: dict[str, Tensor]) -> EncodedPrompts:
        # crops are whole squares and those that fill up a study are empty, so the mask of pixels says nothing
        return EncodedPrompts(
            batch["input_ids"], batch["attention_mask"], batch["mm_token_type_ids"], batch["pixel_values"]
        )

    def image_features(self, model: Any, prompts: EncodedPrompts) -> tuple[Tensor, ...]:
        return tuple(model.get_image_features(prompts.pixel_values).pooler_output)

    def image_inputs(self, prompts: EncodedPrompts) -> dict[str, Any]:
        if prompts.features is None:
            return {"pixel_values": prompts.pixel_values}
        output = BaseModelOutputWithPooling(pooler_output=prompts.features)  # type: ignore[arg-type]
        return {"mm_encoder_outputs": {"image": output}}

    def positions(self, model: Any, prompts: EncodedPrompts) -> tuple[Tensor, Tensor]:
        return _counted(prompts.attention_mask)

    def continue_positions(self, start: Tensor, length: int) -> Tensor:
        return _steps(start, length)

    def sequence_inputs(self, type_ids: Tensor) -> dict[str, Tensor]:
        return {}


FAMILIES: dict[str, type[Gemma3] | type[Qwen2_5VL] | type[Idefics3]] = {
    f.model_type: f for f in (Gemma3, Qwen2_5VL, Idefics3)
}


def family_of(model_type: str) -> Family:
    """The family of a ``config.model_type``; raises ValueError naming the supported ones."""
    if model_type not in FAMILIES:
        raise ValueError(f"model type '{model_type}' is not supported; supported: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]()
