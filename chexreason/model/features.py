"""Image tokens on disk: the frozen vision tower and projector run once a film, for all epochs."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor

from chexreason.data.batches import EncodedPrompts
from chexreason.data.cache import ImageCache
from chexreason.data.fingerprint import hashed
from chexreason.data.image import load_image
from chexreason.files import read_checked, write_checked
from chexreason.model.policy import FilmReader, Policy
from chexreason.owners import remove_leftovers
from chexreason.statistics.metrics import FloatArray
from chexreason.statistics.oddity import picture_figures
from chexreason.types import Study

log = logging.getLogger(__name__)
RESERVE = 2 * 2**30  # bytes of the disk that are left to checkpoints and predictions
_SIDE = 128  # pixels of the pictures whose figures are compared
TEXTS = 1024  # tokenised prompts kept in memory: a run asks one question about images of a few sizes


class ImageTokens(NamedTuple):
    """One image as the language model sees it: its family's features [n, ...], and its patch grid [3] if it has one."""

    features: Tensor
    grid: Tensor | None


class Film(NamedTuple):
    """A study, with the hash of its radiograph, on its way to ``encode``; its image tokens where they are known."""

    study: Study
    tokens: ImageTokens | None


class FeatureCache:
    """``load`` and ``encode`` of a data loader that skip decoder, processor and vision tower for films seen before.

    ``load`` finds a film's image tokens in ``folder`` by the SHA-256 of its file and by ``features_key``; ``encode``
    then needs no pixels. A batch in which one film is new is read as ``policy`` reads without the cache, and
    ``compute`` keeps what the tower makes of it. Images go through the tower one by one: an entry does not depend on
    the batch it came with, so a resumed run reads or computes the bits of an uninterrupted one.

    Entries are written whole, so workers and ranks may share a folder; a damaged one is made anew. The folder is never
    emptied, and takes no more where less than ``RESERVE`` bytes would stay free. Raises ValueError where weights that
    make the features are under training.
    """

    def __init__(self, folder: Path, policy: Policy) -> None:
        self.encoder, (self._load, self._encode, _) = policy.encoder, policy.film_reader()
        self.folder = folder / features_key(policy)
        self._texts: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}
        self._open = self._silent = True
        remove_leftovers(self.folder)

    def load(self, study: Study) -> Film:
        """The film with its image tokens, where they are kept; no image is read."""
        study = hashed(study)  # the hash goes along: what is decoded is what it names
        return Film(study, _read(self._path(study.image_sha256)) if study.image_sha256 else None)

    def encode(self, films: Sequence[Film], texts: Sequence[str]) -> EncodedPrompts:
        """Encode ``films`` as ``Policy.encode`` does their images: equal ids, and the features in place of pixels."""
        known = [film.tokens for film in films if film.tokens is not None]
        if len(known) < len(films):
            prompts = self._encode([self._load(film.study) for film in films], texts)
            return replace(prompts, images=tuple(film.study.image_sha256 for film in films))
        rows = [self._tokenise(text, tokens.grid) for tokens, text in zip(known, texts, strict=True)]
        grids = [tokens.grid for tokens in known if tokens.grid is not None]
        return EncodedPrompts(
            input_ids=_pad_left([ids for ids, _ in rows], self.encoder.pad_id),
            attention_mask=_pad_left([torch.ones_like(ids) for ids, _ in rows], 0),
            type_ids=_pad_left([types for _, types in rows], 0),
            grid=torch.stack(grids) if grids else None,
            features=tuple(tokens.features for tokens in known),
        )

    def compute(self, tower: Callable[..., tuple[Tensor, ...]], prompts: EncodedPrompts) -> tuple[Tensor, ...]:
        """The ``tower``'s features of each study, an image at a time; those of known files (``images``) are kept."""
        found = []
        for row, sha256 in enumerate(prompts.images or [""] * len(prompts)):
            one = prompts.select([row])
            (features,) = tower(one)
            found.append(features)
            if sha256:
                self._keep(self._path(sha256), ImageTokens(features, None if one.grid is None else one.grid[0]))
        return tuple(found)

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def _tokenise(self, text: str, grid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Ids and type ids [P] of one prompt: the size of an image decides them, not what it shows."""
        key = (text, None if grid is None else tuple(grid.tolist()))
        if key not in self._texts:
            if len(self._texts) >= TEXTS:
                self._texts.clear()
            prompts = self.encoder.encode([Image.new("RGB", self._size(grid))], [text], resized=True)
            self._texts[key] = prompts.input_ids[0], prompts.type_ids[0]
        return self._texts[key]

    def _size(self, grid: Tensor | None) -> tuple[int, int]:
        """Width and height of an image, resized, of this patch grid."""
        processor = self.encoder.processor.image_processor
        if grid is None:
            return processor.size["width"], processor.size["height"]
        _, height, width = (int(n) * processor.patch_size for n in grid)
        return width, height

    def _keep(self, path: Path, tokens: ImageTokens) -> None:
        """Add an entry; where the disk cannot take it, log a warning once and go on without."""
        if not self._open:
            return
        try:
            data = _pack(tokens)
            path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(path.parent).free
            if free - len(data) < RESERVE:
                raise OSError(f"{free / 2**30:.1f} GiB are free")
            write_checked(path, data, self.folder)
        except OSError as error:
            self._open = False
            log.warning("the feature cache %s takes no more (%s): images are encoded each time", self.folder, error)
            return
        if self._silent:
            self._silent = False
            size, room = len(data) / 2**20, (free - RESERVE) // len(data)
            log.info("image features are kept in %s: %.2f MiB an image, room for %d", self.folder, size, room)


@torch.no_grad()
def pooled_films(policy: Policy, studies: Sequence[Study], batch: int = 16) -> tuple[FloatArray, FloatArray]:
    """The mean image token [N, D] of each study's film, and the figures of the picture [N, 5] (``picture_figures``)."""
    tokens, figures = [], []
    for start in range(0, len(studies), batch):
        films = [load_image(study.image, study.image_sha256) for study in studies[start : start + batch]]
        prompts = policy.encode(films, ["x"] * len(films)).to(policy.device)
        tokens += [row.float().flatten(0, -2).mean(0).cpu() for row in policy.with_features(prompts).features or ()]
        figures += [picture_figures(np.asarray(film.resize((_SIDE, _SIDE)))) for film in films]
    return torch.stack(tokens).double().numpy(), np.stack(figures)


def cache_films(policy: Policy, image_cache: str | None, feature_cache: str | None) -> Policy:
    """The policy, which from now on reads films through these folders (None: no cache).

    With ``image_cache`` a film is resized once; with ``feature_cache`` it is read once, and its features are kept.
    """
    policy.films = None
    for folder in filter(None, (image_cache, feature_cache)):
        with suppress(OSError):  # it makes a slower run, and is said
            Path(folder).mkdir(0o700, parents=True, exist_ok=True)  # who shares films makes the folder
    if image_cache is not None:
        load = ImageCache(Path(image_cache), policy.resize, policy.encoder.resize_key).load
        policy.films = FilmReader(load, partial(policy.encode, resized=True), policy.image_features)
    if feature_cache is not None:
        kept = FeatureCache(Path(feature_cache), policy)
        policy.films = FilmReader(kept.load, kept.encode, partial(kept.compute, policy.film_reader().compute))
    return policy


def features_key(policy: Policy) -> str:
    """16 hex digits that stand for all that image tokens depend on besides the film: weights, their dtype, processor.

    Raises ValueError where weights that make them are under training.
    """
    digest = hashlib.sha256(policy.encoder.resize_key.encode())
    config: Any = policy.base.config.vision_config
    digest.update(json.dumps([torch.__version__, config.to_dict()], sort_keys=True, default=str).encode())
    for name, weight in policy.base.state_dict(keep_vars=True).items():
        if "language_model" in name or "lm_head" in name:
            continue
        if weight.requires_grad:
            raise ValueError(f"{name} is under training, its features change: set paths.feature_cache=null")
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _pad_left(rows: Sequence[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side="left")


def _pack(tokens: ImageTokens) -> bytes:
    """The entry of ``tokens``: a safetensors file, in the dtype of the model."""
    return save({name: value.cpu().contiguous() for name, value in tokens._asdict().items() if value is not None})


def _read(path: Path) -> ImageTokens | None:
    """The image tokens of an entry; None where there is none or it is damaged."""
    if (entry := read_checked(path)) is None:
        return None
    tensors = load(entry)
    return ImageTokens(tensors["features"], tensors.get("grid"))
