"""A tiny model in training: its image tokens, an auxiliary head on them that is never packaged, and its text loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Gemma3ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tools.tiny_models.configs import HIDDEN, TinyModel
from tools.tiny_models.encode import Encoded

PATCH, MERGE, FRAMES = 16, 2, 2


class Student(nn.Module):
    """``model`` with two linear heads: one says what each image token shows, one what the whole image shows.

    The second sees the mean and maximum of the tokens and, for each of the ``n_marks`` kinds of marks, the strongest
    token's logit, so that what is learned where signs are marked carries over to images with labels alone.
    """

    def __init__(self, model: TinyModel, n_targets: int, n_marks: int) -> None:
        super().__init__()
        self.model = model
        self.mark_head = nn.Sequential(nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, n_marks))
        self.head_norm = nn.LayerNorm(2 * HIDDEN)
        self.head = nn.Linear(2 * HIDDEN + n_marks, n_targets)

    def image_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Projected image tokens [B, 16, hidden] of grey images [B, 1, 128, 128] in -1..1."""
        if isinstance(self.model, Gemma3ForConditionalGeneration):
            return self.model.model.get_image_features(pixels.expand(-1, 3, -1, -1)).pooler_output
        features = self.model.model.get_image_features(patchify(pixels), _grid(pixels)).pooler_output
        return torch.stack(list(features))

    def classify(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, K] of the whole image from its tokens [B, 16, hidden]."""
        pooled = self.head_norm(torch.cat([tokens.mean(1), tokens.amax(1)], -1))
        return self.head(torch.cat([pooled, self.mark(tokens).amax(1)], -1))

    def mark(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, 16, M] of each token's marks, row by row from the top left."""
        return self.mark_head(tokens)

    def text_loss(self, tokens: torch.Tensor, text: Encoded) -> torch.Tensor:
        """Weighted mean negative log-likelihood of the answer tokens, given image tokens [B, 16, hidden]."""
        inputs = {"input_ids": text.input_ids, "attention_mask": text.attention_mask, "use_cache": False}
        if isinstance(self.model, Gemma3ForConditionalGeneration):
            inputs |= {"token_type_ids": text.type_ids, "position_ids": text.positions}
            features = BaseModelOutputWithPooling(pooler_output=tokens)
        else:
            inputs |= {"mm_token_type_ids": text.type_ids, "image_grid_thw": _grid(tokens)}
            features = BaseModelOutputWithPooling(pooler_output=tuple(tokens))  # type: ignore[arg-type]
        hidden = self.model.model(**inputs, mm_encoder_outputs={"image": features}).last_hidden_state  # [B, T, hidden]
        weights = text.weights[:, 1:]
        chosen = weights > 0
        logits = self.model.lm_head(hidden[:, :-1][chosen])  # [answer tokens, V]
        loss = F.cross_entropy(logits, text.input_ids[:, 1:][chosen], reduction="none")
        return (loss * weights[chosen]).sum() / weights.sum()


def patchify(pixels: torch.Tensor) -> torch.Tensor:
    """Grey images [B, 1, S, S] as Qwen's patch rows [B * patches, 3 * 2 * 16 * 16], merged patches side by side."""
    b, _, size, _ = pixels.shape
    side = size // (PATCH * MERGE)
    cut = pixels.reshape(b, 1, side, MERGE, PATCH, side, MERGE, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    cut = cut.unsqueeze(6).expand(-1, -1, -1, -1, -1, 3, FRAMES, -1, -1)
    return cut.reshape(b * (size // PATCH) ** 2, 3 * FRAMES * PATCH * PATCH)


def _grid(batch: torch.Tensor) -> torch.Tensor:
    return torch.tensor([[1, 8, 8]]).repeat(len(batch), 1)
