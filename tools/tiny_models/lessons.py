"""What a tiny model learns from: radiographs and phantoms for one, plain geometry for the other."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from chexreason.labels.catalog import CHEXPERT14
from chexreason.types import Study
from tools.tiny_models import dialogues, shapes
from tools.tiny_models.dialogues import Turn
from tools.tiny_models.marks import GRID, load_marks
from tools.tiny_models.phantoms import SHARD, load_shards
from tools.tiny_models.radiographs import Radiographs, augment, load_radiographs, macro_auroc, normalise, warp
from tools.tiny_models.student import Student

N_LABELS = len(CHEXPERT14)


@dataclass(frozen=True)
class Lesson:
    """One batch: pixels [B, 1, S, S], targets and mask [B, K], marks [B, 16, M] of the rows in ``marked`` [B].

    ``turns`` holds a dialogue an image, or nothing in a lesson of looking alone.
    """

    pixels: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor
    marks: torch.Tensor
    marked: torch.Tensor
    turns: list[list[Turn]]


class ChestLessons:
    """Real radiographs (train split, hard labels blended with the teacher's) and phantoms of both hospitals.

    Auxiliary targets: 14 labels, then each label's sign on the left and on the right (phantoms only), then AP view.
    """

    n_targets = 3 * N_LABELS + 1
    n_marks = N_LABELS

    def __init__(self, phantom_folder: Path, soft_labels: Path, real_share: float = 0.4) -> None:
        self.phantom_folder, self.real_share = phantom_folder, real_share
        self.real, self.real_val = load_radiographs("train"), load_radiographs("val")
        self.real_studies = _real_studies(self.real)
        with np.load(soft_labels, allow_pickle=False) as saved:
            soft = torch.from_numpy(saved["train"])
        blend = 0.7 * soft + 0.3 * self.real.target
        views = torch.tensor([[float(view == "AP")] for view in self.real.views])
        sides = torch.zeros(len(self.real), 2 * N_LABELS)
        self.real_target = torch.cat([blend, sides, views], 1)
        self.real_mask = torch.cat([self.real.mask, sides, torch.ones_like(views)], 1)
        self.phantom_val, _ = load_shards(phantom_folder, first=0, last=1)
        self.refresh()

    def refresh(self) -> None:
        """Take in the phantom shards rendered since; the first one is held out."""
        self.phantom, self.phantom_studies = load_shards(self.phantom_folder, first=1)
        self.phantom_target = torch.stack([_phantom_target(study) for study in self.phantom_studies])
        self.marked, self.marks = load_marks(self.phantom_folder, range(1, 1 + len(self.phantom) // SHARD))

    def draw(self, n: int, rng: random.Random, *, talk: bool) -> Lesson:
        """A batch of ``n`` images, with dialogues where ``talk``."""
        n_real = round(self.real_share * n)
        real = torch.tensor([rng.randrange(len(self.real)) for _ in range(n_real)])
        fake = torch.tensor([rng.randrange(len(self.phantom)) for _ in range(n - n_real)])
        raw = torch.cat([self.real.pixels[real], self.phantom.pixels[fake]])
        pixels, affine = augment(raw, torch.Generator().manual_seed(rng.getrandbits(60)))
        target = torch.cat([self.real_target[real], self.phantom_target[fake]])
        mask = torch.cat([self.real_mask[real], torch.ones(len(fake), self.n_targets)])
        studies = [self.real_studies[i] for i in real.tolist()] + [self.phantom_studies[i] for i in fake.tolist()]
        kind = rng.random()  # one kind of dialogue a batch: their lengths differ, and padding costs time
        turns = [_chest_turns(*pair, kind, rng) for pair in zip(studies, pixels, strict=True)] if talk else []
        marks = token_marks([[] for _ in range(n_real)] + [self.marks.get(i, []) for i in fake.tolist()], affine)
        marked = torch.cat([torch.zeros(n_real, dtype=torch.bool), self.marked[fake]])
        return Lesson(pixels, target, mask, marks, marked, turns)

    def measure(self, student: Student) -> dict[str, float]:
        """Held-out figures of the auxiliary head."""
        sets = {"nih_val_auroc": self.real_val, "phantom_val_auroc": self.phantom_val}
        return {
            name: macro_auroc(logits_of(student, normalise(data.pixels))[:, :N_LABELS], data.target, data.mask)["macro"]
            for name, data in sets.items()
        }


class ShapeLessons:
    """Geometry drawn on the fly; the held-out images come from other seeds."""

    n_targets = shapes.N_TARGETS
    n_marks = len(shapes.KINDS)

    def draw(self, n: int, rng: random.Random, *, talk: bool) -> Lesson:
        drawn = [shapes.sample_shapes(rng) for _ in range(n)]
        films = np.stack([shapes.draw(one, rng.getrandbits(60)) for one in drawn])
        target = torch.stack([shapes.targets(one) for one in drawn])
        kind = rng.random()
        turns = [_shape_turns(one, kind, rng) for one in drawn] if talk else []
        marks = torch.stack([shapes.token_marks(one) for one in drawn])
        marked = torch.ones(n, dtype=torch.bool)
        return Lesson(normalise(torch.from_numpy(films)), target, torch.ones_like(target), marks, marked, turns)

    def refresh(self) -> None:
        """Nothing to take in: every batch is new."""

    def measure(self, student: Student) -> dict[str, float]:
        lesson = self.draw(400, random.Random("held-out"), talk=False)
        logits = logits_of(student, lesson.pixels)
        return {"shape_accuracy": float(((logits > 0) == (lesson.target > 0.5)).float().mean())}


Lessons = ChestLessons | ShapeLessons


def token_marks(marks: list[list[tuple[int, torch.Tensor]]], affine: torch.Tensor) -> torch.Tensor:
    """Marks of each image token, [B, 16, 14] of 0 and 1: a sign's map, moved like its image, where it is strong."""
    maps = torch.zeros(len(marks), N_LABELS, GRID, GRID)
    for row, found in enumerate(marks):
        for column, mark in found:
            maps[row, column] = mark.float() / 255
    cells = F.adaptive_avg_pool2d(warp(maps, affine), 4).flatten(2)  # [B, 14, 16]
    strong = cells >= 0.35 * cells.amax(2, keepdim=True).clamp(min=0.02)
    return strong.float().transpose(1, 2)


@torch.no_grad()
def logits_of(student: Student, pixels: torch.Tensor, batch_size: int = 100) -> torch.Tensor:
    """Auxiliary logits [N, K] of images [N, 1, S, S] in -1..1, in evaluation mode."""
    student.eval()
    return torch.cat([student.classify(student.image_tokens(part)) for part in pixels.split(batch_size)])


def brightness(pixels: torch.Tensor) -> tuple[float, float]:
    """Mean grey (0..255) of the left and right half of one image [1, S, S] in -1..1."""
    middle = pixels.shape[-1] // 2
    left, right = pixels[..., :middle].mean(), pixels[..., middle:].mean()
    return float(left + 1) * 127.5, float(right + 1) * 127.5


def _chest_turns(study: Study, pixels: torch.Tensor, kind: float, rng: random.Random) -> list[Turn]:
    """A caption, questions, or a task in the answer form, by ``kind`` in 0..1."""
    if kind < 0.35:
        return [dialogues.caption(study, rng), dialogues.repeat(rng)]
    if kind < 0.70:
        return [*dialogues.questions(study, rng, 4), dialogues.repeat(rng)]
    return [dialogues.task(study, brightness(pixels), rng), dialogues.repeat(rng)]


def _shape_turns(drawn: list[shapes.Shape], kind: float, rng: random.Random) -> list[Turn]:
    if kind < 0.35:
        return [shapes.caption(drawn, rng), dialogues.repeat(rng)]
    if kind < 0.65:
        return [*(shapes.question(drawn, rng) for _ in range(3)), dialogues.repeat(rng)]
    return [shapes.task(drawn, rng), dialogues.repeat(rng)]


def _real_studies(data: Radiographs) -> list[Study]:
    """Radiographs as studies without signs: sides and severities are not known."""
    return [
        Study(
            f"real-{row}", f"real-{row}", "nih", Path(), tuple(int(value) for value in target), tuple(mask), view=view
        )
        for row, (target, mask, view) in enumerate(
            zip(data.target.tolist(), data.mask.bool().tolist(), data.views, strict=True)
        )
    ]


def _phantom_target(study: Study) -> torch.Tensor:
    """Auxiliary target [K] of a phantom: labels, sides, view."""
    target = torch.zeros(ChestLessons.n_targets)
    target[:N_LABELS] = torch.tensor(study.target)
    for sign in study.signs:
        column = CHEXPERT14.index(sign.label)
        target[N_LABELS + column] = float(sign.side in {"left", "both"})
        target[2 * N_LABELS + column] = float(sign.side in {"right", "both"})
    target[-1] = float(study.view == "AP")
    return target
