"""A vision-language model with its processor: it encodes prompts, decodes answers and knows its stop tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from typing import Any, NamedTuple

import torch
import torchvision
import transformers
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from chexreason.data.batches import Collate, EncodedPrompts, EncodePrompts, LoadImage, load_study
from chexreason.data.image import PIXELS
from chexreason.model.family import Family, family_of

NEW = "default"  # the adapter under training, by PEFT's own name for the first one


class FilmReader(NamedTuple):
    """How films reach a model: ``load`` fetches one, ``encode`` takes what was fetched, ``compute`` makes features."""

    load: LoadImage
    encode: EncodePrompts
    compute: Callable[[EncodedPrompts], tuple[Tensor, ...]]


class Encoder:
    """The half of a policy that is pickled into a loader's workers: it encodes prompts and answers, without weights."""

    def __init__(self, processor: Any, config: Any, family: Family, stop_id: int) -> None:
        self.processor, self.tokenizer, self.config, self.family = processor, processor.tokenizer, config, family
        self.stop_id, vocab = stop_id, self.tokenizer.get_vocab()
        self.markers = tuple(marker for marker in (*family.turns, *family.markers) if marker in vocab)
        self.pad_id = int(stop_id if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id)
        self.context = int(config.get_text_config().max_position_embeddings)  # longest prompt and answer together

    def encode(self, images: Sequence[Image.Image], texts: Sequence[str], *, resized: bool = False) -> EncodedPrompts:
        """Encode one image and one user text a study, up to where the assistant starts; padded on the left.

        ``resized`` says that the images come from ``resize``: the tensors are then those of the originals, bit by bit.
        Nothing is ever cut off: raises ValueError for a prompt longer than the model's context, for a text that holds
        a marker of the chat template, and for an image smaller than a patch.
        """
        self._check_texts(texts, "prompt")
        for image in images:
            self._check_size(image)
        conversations = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
            for image, text in zip(images, texts, strict=True)
        ]
        self.tokenizer.padding_side = "left"  # right padding misaligns Gemma's image tokens without an error
        batch = self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={
                "padding": True,
                "padding_side": "left",
                "return_mm_token_type_ids": True,
                **({"do_resize": False} if resized else {}),
            },
        )
        prompts = self.family.encode(batch)
        self._check_length(
            prompts.attention_mask, f"{int(prompts.type_ids[0].sum())} of them its image", "model.max_pixels"
        )
        return prompts

    def resize(self, image: Image.Image) -> Image.Image:
        """The RGB ``image`` at the size, and by the interpolation, that ``encode`` would bring it to.

        Raises ValueError where it is smaller than a patch.
        """
        self._check_size(image)
        processor = self.processor.image_processor
        factor = getattr(processor, "patch_size", 1) * getattr(processor, "merge_size", 1)  # Qwen-VL's unit of size
        pixels = processor.resize(pil_to_tensor(image)[None], processor.size, processor.resample, factor=factor)
        return Image.fromarray(pixels[0].permute(1, 2, 0).numpy())

    @property
    def resize_key(self) -> str:
        """16 hex digits that stand for ``resize`` of a file: decoder, processor's settings, libraries' versions."""
        settings = [PIXELS, self.processor.image_processor.to_dict(), transformers.__version__, torchvision.__version__]
        return sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def encode_answers(self, answers: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids [B, T] of the answers, each closed by the stop token and padded on the right, with their mask.

        Raises ValueError for an answer that holds a marker of the chat template, or exceeds the model's context.
        """
        self._check_texts(answers, "answer")
        rows = [[*ids, self.stop_id] for ids in self.tokenizer([*answers], add_special_tokens=False)["input_ids"]]
        ids, mask = pad_right(rows, self.pad_id)
        self._check_length(mask, "without the prompt", "the teacher's length")
        return ids, mask

    def _check_texts(self, texts: Sequence[str], kind: str) -> None:
        for text in texts:
            if found := [marker for marker in self.markers if marker in text]:
                raise ValueError(
                    f"the {kind} holds {', '.join(found)}, which the model would read as an image or a turn's end: "
                    f"take it out of {text[:80]!r}"
                )

    def _check_size(self, image: Image.Image) -> None:
        patch = int(self.config.vision_config.patch_size)
        if min(image.size) < patch:
            width, height = image.size
            raise ValueError(
                f"an image of {width} x {height} pixels is smaller than one patch ({patch} x {patch}): "
                "enlarging it would show nothing; leave the study out, or give its full-size file"
            )

    def _check_length(self, mask: Tensor, what: str, setting: str) -> None:
        longest = int(mask.sum(1).max()) if len(mask) else 0
        if longest > self.context:
            raise ValueError(
                f"{longest} tokens ({what}) do not fit the model's context of {self.context}, and nothing is cut off: "
                f"that could take image tokens or the answer away. Choose a shorter prompt=, or lower {setting}"
            )


class Policy(nn.Module):
    """The model, its processor and its ``family``, which its architecture decides where none is given.

    ``source`` is the hub id or folder the base weights came from; ``films`` says how films are read, None from their
    files each time. Raises ValueError for an unsupported architecture, a model without a stop token, or an image token
    that the tokenizer does not know.
    """

    def __init__(self, model: nn.Module, processor: Any, source: str, family: Family | None = None) -> None:
        super().__init__()
        self.model, self.processor, self.tokenizer, self.source = model, processor, processor.tokenizer, source
        self.films: FilmReader | None = None
        self.family = family or family_of(self.base.config.model_type)
        if getattr(self.base.config.get_text_config(), "final_logit_softcapping", None):
            raise ValueError(f"{source} caps its logits (final_logit_softcapping), which log-probabilities here do not")
        vocab = self.tokenizer.get_vocab()
        self.stop_ids = _stop_ids(self.base, self.family, vocab)
        self.encoder = encoder = Encoder(processor, self.base.config, self.family, self.stop_ids[0])
        self.encode, self.encode_answers, self.resize = encoder.encode, encoder.encode_answers, encoder.resize
        self.pad_id = encoder.pad_id
        self.banned_ids = _banned_ids(self.base, self.tokenizer, self.family, vocab, self.stop_ids)

    @property
    def base(self) -> Any:
        """The transformers model, without the adapter wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def collate(self) -> Collate:
        """What makes batches for this policy: films fetched and encoded as it reads them."""
        reader = self.film_reader()
        return Collate(reader.encode, self.encode_answers, reader.load)

    def film_reader(self) -> FilmReader:
        """``films``, or the plain way; not kept, since a policy that refers to itself would stay in memory."""
        return self.films or FilmReader(load_study, self.encode, self.image_features)

    def decode(self, ids: Tensor, mask: Tensor) -> list[str]:
        """Texts of completions [N, T], without the stop token and padding."""
        drop = set(self.stop_ids)
        rows = [[t for t in row[keep].tolist() if t not in drop] for row, keep in zip(ids, mask.bool(), strict=True)]
        return [self.tokenizer.decode(row, skip_special_tokens=False) for row in rows]

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The policy without the adapter under training; earlier adapters stay.

        Not for use while a gradient is being taken. Raises RuntimeError where no adapter is attached.
        """
        if NEW not in getattr(self.model, "peft_config", {}):
            raise RuntimeError("no adapter is attached, so the policy is its own reference")
        self.model.base_model.set_adapter(self.frozen_adapters(), inference_mode=True)
        try:
            yield
        finally:
            self.activate_adapters()

    def frozen_adapters(self) -> list[str]:
        """Names of the earlier adapters, oldest first; empty where there are none."""
        return [name for name in getattr(self.model, "peft_config", {}) if name != NEW]

    def activate_adapters(self) -> None:
        """Add up all adapters of the model, of which the one under training alone is trained."""
        frozen, adapted = self.frozen_adapters(), self.model.base_model
        adapted.set_adapter([*frozen, NEW])
        adapted.set_requires_grad(frozen, requires_grad=False)

    def with_features(self, prompts: EncodedPrompts) -> EncodedPrompts:
        """The prompts with their images encoded once, without gradient: the vision tower is frozen."""
        if prompts.features is not None:
            return prompts
        with torch.no_grad():
            return replace(prompts, features=self.film_reader().compute(prompts))

    def image_features(self, prompts: EncodedPrompts) -> tuple[Tensor, ...]:
        """The family's features of each study's image, [n_i, ...], from the pixels."""
        return self.family.image_features(self.base, prompts)


def pad_right(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ragged ids as a [N, T] tensor padded on the right, and its mask [N, T].

    >>> pad_right([[5, 6], [7]], 0)[0].tolist()
    [[5, 6], [7, 0]]
    """
    width = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return ids, mask


def _stop_ids(model: Any, family: Family, vocab: Mapping[str, int]) -> list[int]:
    """Every id that ends a turn, the turn marker first: it is what an answer is closed with in training."""
    declared = model.generation_config.eos_token_id
    ids = list(declared) if isinstance(declared, (list, tuple)) else [declared]
    markers = [vocab[token] for token in family.turns if token in vocab]
    ordered = [i for i in dict.fromkeys([*markers, *ids]) if i is not None]
    if not ordered:
        raise ValueError("the model declares no stop token: set eos_token_id in its generation_config.json")
    return ordered


def _banned_ids(
    model: Any, tokenizer: Any, family: Family, vocab: Mapping[str, int], stop_ids: Sequence[int]
) -> list[int]:
    """Ids that must never be sampled: image tokens (features would no longer match), padding, other turns, no token.

    The output layer is wider than the vocabulary (63 rows in Gemma 3, 271 in Qwen2.5-VL); those rows decode to nothing.
    """
    ids = {vocab[name] for name in family.markers if name in vocab}
    ids |= {i for i in (model.config.image_token_id, tokenizer.pad_token_id) if i is not None}
    ids |= set(range(max(vocab.values()) + 1, model.config.get_text_config().vocab_size))
    return sorted(ids - set(stop_ids))
