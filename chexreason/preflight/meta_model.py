"""A policy without weights and prompts without images: a run is planned from the config of a model alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, PretrainedConfig

from chexreason.data.batches import EncodedPrompts
from chexreason.model.family import family_of
from chexreason.model.load import resolve_source
from chexreason.model.policy import Policy

log = logging.getLogger(__name__)
CONFIGS = Path(__file__).parent / "configs"  # config.json of the paper's models, by hub id: shapes, no weights


class NoProcessor:
    """Stands in for processor and tokenizer of a model whose config alone is at hand: it knows ids and no words."""

    pad_token_id = 0

    def __init__(self, vocabulary: int) -> None:
        self.tokenizer, self.vocabulary = self, vocabulary

    def get_vocab(self) -> dict[str, int]:
        """The last id, so that none counts as unused."""
        return {f"id {self.vocabulary - 1}": self.vocabulary - 1}


def read_config(source: str) -> PretrainedConfig:
    """The config of a hub id, of a folder (config.json is enough) or of a packaged tiny model.

    That of the paper's models ships with the package and is used where the hub's own was not fetched before: planning
    needs no network. Raises FileNotFoundError, with the ways out, where the config can be had from nowhere.
    """
    path = resolve_source(source)
    known = source in {str(file.parent.relative_to(CONFIGS)) for file in CONFIGS.glob("*/*/config.json")}
    try:
        return AutoConfig.from_pretrained(path, local_files_only=known)
    except (OSError, ValueError) as error:
        if known:
            log.info("%s: planned from the config.json that ships with chexreason", source)
            return AutoConfig.from_pretrained(CONFIGS / source)
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"model.source={source}: its config cannot be read ({reason}). A plan needs config.json alone: "
            "set model.source to a folder that holds it, or run once with a network (gated models: HF_TOKEN=)"
        ) from None


def blank_policy(
    source: str,
    *,
    family: str | None = None,
    dtype: str,
    attention: str = "sdpa",
    gradient_checkpointing: bool = False,
) -> Policy:
    """The policy of ``source`` on the meta device: every module and shape, no weight is read."""
    config = read_config(source)
    reading = family_of(config.model_type, family)
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=attention
        )
    model.requires_grad_(False)
    if model.generation_config.eos_token_id is None:
        model.generation_config.eos_token_id = 1
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return Policy(model, NoProcessor(config.get_text_config().vocab_size), source, reading)


def blank_prompts(policy: Policy, n: int, *, text_tokens: int, n_image_tokens: int) -> EncodedPrompts:
    """``n`` prompts of ``text_tokens`` words and a black image of ``n_image_tokens``, on the policy's device.

    Where that is the meta device, the pixels have no data and the ids are on the CPU.
    """
    config, device = policy.base.config, policy.device
    image = torch.full((n, n_image_tokens), config.image_token_id)
    start_id = getattr(config, "vision_start_token_id", None) or getattr(config, "boi_token_index", 2)
    opening, words = torch.full((n, 1), int(start_id)), torch.full((n, max(text_tokens - 1, 1)), 3)
    ids = torch.cat([opening, image, words], 1)  # [n, P]; Qwen2.5-VL finds its images by what opens them
    types = (ids == config.image_token_id).long()
    pixels, grid = policy.family.blank_images(config, n, n_image_tokens, device)
    prompts = EncodedPrompts(ids, torch.ones_like(ids), types, pixels, grid)
    return prompts if device.type == "meta" else prompts.to(device)


def count_text_tokens(source: str, text: str) -> int | None:
    """Tokens of a prompt of ``text``, the turn's markers included; None where no tokenizer is in the folder."""
    folder = Path(resolve_source(source))
    if not (folder / "tokenizer.json").is_file():
        return None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    written = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return len(tokenizer(written, add_special_tokens=False)["input_ids"]) + 4  # what frames the image
