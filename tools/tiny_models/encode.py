"""Dialogues as token tensors: the family's chat form around each turn, weight on the answers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from tools.tiny_models.configs import IMAGE_TOKENS
from tools.tiny_models.dialogues import Turn


@dataclass(frozen=True)
class Frame:
    """The fixed text around turns: before the first question, between an answer and the next question, and so on."""

    start: str
    ask_end: str
    answer_end: str
    again: str
    image_token: str


FRAMES = {
    "tiny_gemma3": Frame(
        start="<bos><start_of_turn>user\n\n\n<start_of_image>"
        + "<image_soft_token>" * IMAGE_TOKENS
        + "<end_of_image>\n\n",
        ask_end="<end_of_turn>\n<start_of_turn>model\n",
        answer_end="<end_of_turn>",
        again="\n<start_of_turn>user\n",
        image_token="<image_soft_token>",
    ),
    "tiny_qwen2_5_vl": Frame(
        start="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        + "<|image_pad|>" * IMAGE_TOKENS
        + "<|vision_end|>",
        ask_end="<|im_end|>\n<|im_start|>assistant\n",
        answer_end="<|im_end|>",
        again="\n<|im_start|>user\n",
        image_token="<|image_pad|>",
    ),
}


@dataclass(frozen=True)
class Encoded:
    """Left-padded dialogues, all [B, T]: ids, mask, 1 at image tokens, positions, and loss weights of answer tokens."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    type_ids: torch.Tensor
    positions: torch.Tensor
    weights: torch.Tensor


class DialogueEncoder:
    """Turns dialogues into tensors with one tokenizer and one family's frame.

    A turn of n answer tokens weighs sqrt(n) in total, so that short answers, which hinge on the image, count.
    """

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.frame = FRAMES[name]
        self.tokenizer = tokenizer
        self.image_id = tokenizer.convert_tokens_to_ids(self.frame.image_token)

    def __call__(self, dialogues: Sequence[Sequence[Turn]]) -> Encoded:
        rows = [self._row(turns) for turns in dialogues]
        length = max(len(ids) for ids, _ in rows)
        shape = (len(rows), length)
        input_ids = torch.full(shape, int(self.tokenizer.pad_token_id))
        mask, weights = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
        for row, (ids, weight) in enumerate(rows):
            input_ids[row, length - len(ids) :] = torch.tensor(ids)
            weights[row, length - len(ids) :] = torch.tensor(weight)
            mask[row, length - len(ids) :] = 1
        type_ids = ((input_ids == self.image_id) & (mask == 1)).long()
        return Encoded(input_ids, mask, type_ids, (mask.cumsum(-1) - 1).clamp(min=0), weights)

    def _row(self, turns: Sequence[Turn]) -> tuple[list[int], list[float]]:
        ids: list[int] = []
        weights: list[float] = []
        for index, (asked, answer) in enumerate(turns):
            before = (self.frame.again if index else self.frame.start) + asked + self.frame.ask_end
            for text, scored in ((before, False), (answer + self.frame.answer_end, True)):
                piece = self.tokenizer(text, add_special_tokens=False)["input_ids"]
                ids += piece
                weights += [len(piece) ** -0.5 if scored else 0.0] * len(piece)
        return ids, weights
