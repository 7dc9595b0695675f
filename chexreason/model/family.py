"""What differs between the architectures, and nothing else: positions, images, markers, and what a plan must know."""

from __future__ import annotations

from math import isqrt
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from chexreason.data.batches import EncodedPrompts


class Family:
    """One architecture's way to feed a prompt: one pixel tensor a study and 1-D positions, where it says nothing else.

    ``model_type`` is transformers' name for it, ``placeholders`` the processor's name for the ids that mark image
    tokens. Its chat template ends a turn with ``turns`` and writes ``markers`` by itself: no text may hold any of them,
    and no answer but the end of its turn. A model is loaded with the class that its config names (``model.family``).
    """

    model_type: str
    placeholders = "mm_token_type_ids"
    turns: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()

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
        """Projected image tokens of each study, [n_i, hidden], all that the language model takes of the image."""
        return self.features_of(model.get_image_features(prompts.pixel_values.to(model.dtype), **_grid(prompts)))

    def image_inputs(self, prompts: EncodedPrompts) -> dict[str, Any]:
        """Keyword arguments that bring the images into a forward pass."""
        if prompts.features is None:
            return {"pixel_values": prompts.pixel_values, **_grid(prompts)}
        return {"mm_encoder_outputs": {"image": self.output_of(prompts.features)}}

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

    def features_of(self, output: Any) -> tuple[Tensor, ...]:
        """The features of each study from what ``get_image_features`` returns."""
        return tuple(output.pooler_output)

    def output_of(self, features: tuple[Tensor, ...]) -> Any:
        """What ``get_image_features`` returned, from the features of all studies."""
        return BaseModelOutputWithPooling(pooler_output=features)

    def image_tokens(self, config: Any, max_pixels: int | None) -> int:
        """Tokens of the largest image, to plan memory for; raises ValueError where nothing bounds them."""
        raise ValueError(
            f"{type(self).__name__} has no image_tokens, which a plan needs: write it, or set preflight=false"
        )

    def blank_images(
        self, config: Any, n: int, n_image_tokens: int, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """Black ``pixel_values`` of ``n`` images of so many tokens on ``device``, and their ``grid`` on the CPU."""
        size = config.vision_config.image_size
        return torch.zeros(n, 3, size, size, device=device), None


class Gemma3(Family):
    """Gemma 3 (MedGemma): bidirectional attention among image tokens, equally many of them in every image."""

    model_type = "gemma3"
    placeholders = "token_type_ids"
    turns = ("<end_of_turn>",)
    markers = ("<start_of_image>", "<end_of_image>", "<image_soft_token>", "<start_of_turn>", "<bos>", "<pad>", "<unk>")

    def processor_settings(self, config: Any) -> dict[str, Any]:
        size = dict.fromkeys(("height", "width"), config.vision_config.image_size)
        return super().processor_settings(config) | {"size": size, "image_seq_length": config.mm_tokens_per_image}

    def sequence_inputs(self, type_ids: Tensor) -> dict[str, Tensor]:
        return {"token_type_ids": type_ids}

    def output_of(self, features: tuple[Tensor, ...]) -> Any:
        return super().output_of(torch.stack(features))  # type: ignore[arg-type]

    def image_tokens(self, config: Any, max_pixels: int | None) -> int:
        return int(config.mm_tokens_per_image)


class Qwen2_5VL(Family):
    """Qwen2.5-VL: patches of all images in one tensor, counted by ``image_grid_thw``; 3-D rotary positions (M-RoPE).

    The positions are passed explicitly, so the model need not find the images again.
    """

    model_type = "qwen2_5_vl"
    turns = ("<|im_end|>",)
    markers = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<|im_start|>")

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

    def image_tokens(self, config: Any, max_pixels: int | None) -> int:
        if max_pixels is None:
            raise ValueError("model.max_pixels is not set: the largest image has no bound to plan for; set it")
        vision = config.vision_config
        return int(max_pixels // (vision.patch_size * vision.spatial_merge_size) ** 2)

    def blank_images(
        self, config: Any, n: int, n_image_tokens: int, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        vision = config.vision_config
        rows = next(k for k in range(isqrt(n_image_tokens), 0, -1) if n_image_tokens % k == 0)
        merge = vision.spatial_merge_size
        grid = torch.tensor([[1, rows * merge, n_image_tokens // rows * merge]] * n)  # [n, 3]
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return torch.zeros(int(grid.prod(-1).sum()), width, device=device), grid


class Qwen3VL(Qwen2_5VL):
    """Qwen3-VL: like Qwen2.5-VL, and inner layers of the vision tower are added to early layers (DeepStack).

    A study's features are [n_i, 1 + layers, hidden]: the image tokens, then what each of those layers is given.
    Source: https://arxiv.org/abs/2406.04334.
    """

    model_type = "qwen3_vl"

    def features_of(self, output: Any) -> tuple[Tensor, ...]:
        layers = (output.pooler_output, *output.deepstack_features)
        return tuple(torch.stack(study, 1) for study in zip(*layers, strict=True))

    def output_of(self, features: tuple[Tensor, ...]) -> Any:
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures  # heavy

        layers = list(zip(*(study.unbind(1) for study in features), strict=True))
        return BaseModelOutputWithDeepstackFeatures(pooler_output=layers[0], deepstack_features=layers[1:])


def family_of(model_type: str, named: str | None = None) -> Family:
    """The family ``named`` by the path of its class, or this module's own for a ``config.model_type``.

    Raises ValueError where the path leads to no family, or to another architecture's, and where none is known.
    """
    kinds = [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, Family)]
    own = {kind.model_type: kind for kind in kinds if kind is not Family}
    try:
        found: Any = resolve_name(str(named)) if named else own.get(model_type)
    except (ImportError, AttributeError, ValueError) as error:
        found = error
    if isinstance(found, type) and issubclass(found, Family):
        if (known := getattr(found, "model_type", None)) == model_type:
            return found()
        fault = f"model.family={named} reads {known} models, this one is {model_type}"
    elif named:
        fault = f"model.family={named} leads to no subclass of {__name__}.Family ({found})"
    else:
        fault = f"model type '{model_type}' is not supported; supported: {', '.join(sorted(own))}"
    fitting = f"{__name__}.{own[model_type].__name__}" if model_type in own else "the path of a class for it"
    raise ValueError(f"{fault}: set model.family={fitting}")


def _grid(prompts: EncodedPrompts) -> dict[str, Tensor]:
    """The patch counts of the images, where the processor gives any."""
    return {} if prompts.grid is None else {"image_grid_thw": prompts.grid}
