"""Stage 2 of the tiny models: vision tower and text learned from scratch, first by looking, then by talking.

The general model takes one run, the chest model three, of which the first two may share a machine:

    P="python -m tools.tiny_models.pretrain"
    $P --model tiny_qwen2_5_vl --out out/tiny/qwen2_5_vl --minutes 16 --look-share 0.4
    $P --model tiny_gemma3 --out out/tiny/gemma3 --minutes 50 --look-share 1
    $P --model tiny_gemma3 --out out/tiny/gemma3_text --minutes 15 --look-share 0 --freeze-tower \\
        --tower-from out/tiny/gemma3/checkpoint.pt
    $P --model tiny_gemma3 --out out/tiny/gemma3_talk --minutes 20 --look-share 0 \\
        --tower-from out/tiny/gemma3/checkpoint.pt --text-from out/tiny/gemma3_text/checkpoint.pt

The packaged weights came out of these runs while batch size, rate, marks and tasks were still being adjusted;
``training_log.csv`` beside them is the record of what happened.

Minutes are those of the processor. The learning rate follows the share of them that has passed. A rerun of the same
command continues from the last checkpoint; the package under ``weights/`` is replaced at every measurement made while
talking.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import time
from pathlib import Path

import torch
from torch import nn
from transformers import AutoProcessor

from chexreason.files import whole
from tools.tiny_models.configs import MODELS, build_model
from tools.tiny_models.encode import DialogueEncoder
from tools.tiny_models.lessons import ChestLessons, Lesson, Lessons, ShapeLessons
from tools.tiny_models.package import WEIGHTS, tiny_path, write_package
from tools.tiny_models.radiographs import masked_bce
from tools.tiny_models.student import Student

LOOK_BATCH, TALK_BATCH = 32, 24
LOOK_LR, TALK_LR = 8e-4, 1.2e-3
MARK_WEIGHT = 2.0
COLUMNS = ("minutes", "phase", "step", "text_loss", "look_loss", "measure", "value")


class Pretraining:
    """The state of one run; ``minutes`` is its budget and ``look_share`` the part spent on looking alone."""

    def __init__(
        self,
        name: str,
        lessons: Lessons,
        out: Path,
        minutes: float,
        look_share: float,
        seed: int,
        tower_from: Path | None = None,
        text_from: Path | None = None,
        freeze_tower: bool = False,
    ) -> None:
        self.name, self.lessons, self.out = name, lessons, out
        self.budget, self.look_share, self.seed = 60 * minutes, look_share, seed
        self.processor = AutoProcessor.from_pretrained(tiny_path(name))
        self.encode = DialogueEncoder(name, self.processor.tokenizer)
        self.student = Student(build_model(name, self.processor.tokenizer, seed), lessons.n_targets, lessons.n_marks)
        for path, is_text in ((tower_from, False), (text_from, True)):
            if path is not None:
                _load_part(self.student, path, is_text=is_text)
        if freeze_tower:
            for parameter_name, parameter in self.student.named_parameters():
                parameter.requires_grad_(_is_text(parameter_name))
        self.optimizer = torch.optim.AdamW(_groups(self.student), lr=LOOK_LR, betas=(0.9, 0.98))
        self.step, self.elapsed = 0, 0.0
        self.averages: dict[str, float] = {}
        self._resume()

    @property
    def talking(self) -> bool:
        """True in the second phase, if there is one."""
        return self.look_share < 1 and self.elapsed >= self.look_share * self.budget

    def run(self, every: float = 180.0) -> None:
        """Learn until the budget is spent; measure, save and, once talking, package each ``every`` seconds."""
        clock, mark = time.process_time(), self.elapsed
        while self.elapsed < self.budget:
            self._learn()
            now = time.process_time()
            self.elapsed, clock = self.elapsed + now - clock, now
            if self.elapsed - mark >= every or self.elapsed >= self.budget:
                self._report()
                clock, mark = time.process_time(), self.elapsed

    def _learn(self) -> None:
        rng = random.Random(f"{self.seed}/{self.step}")
        self._set_lr()
        lesson = self.lessons.draw(TALK_BATCH if self.talking else LOOK_BATCH, rng, talk=self.talking)
        self.student.train()
        loss = self._loss(lesson)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1

    def _loss(self, lesson: Lesson) -> torch.Tensor:
        tokens = self.student.image_tokens(lesson.pixels)
        look = masked_bce(self.student.classify(tokens), lesson.target, lesson.mask)
        marks = self.student.mark(tokens)
        spots = lesson.marked[:, None, None].float().expand_as(marks)
        look = look + MARK_WEIGHT * masked_bce(marks, lesson.marks, spots)
        self._average("look_loss", look)
        if not lesson.turns:
            return look
        text = self.student.text_loss(tokens, self.encode(lesson.turns))
        self._average("text_loss", text)
        return text + look

    def _average(self, name: str, value: torch.Tensor) -> None:
        self.averages[name] = 0.98 * self.averages.get(name, value.item()) + 0.02 * value.item()

    def _set_lr(self) -> None:
        """Warm-up of 3 % and cosine to 5 %, once in each phase; the tower learns more slowly while talking."""
        edge = self.look_share * self.budget
        start, length = (edge, self.budget - edge) if self.talking else (0.0, edge)
        share = min(1.0, (self.elapsed - start) / max(length, 1e-9))
        shape = min(1.0, share / 0.03 + 0.01) * (0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)
        for group in self.optimizer.param_groups:
            group["lr"] = shape * (TALK_LR * (0.3 if group["tower"] else 1.0) if self.talking else LOOK_LR)

    def _report(self) -> None:
        with torch.no_grad():
            figures = self.lessons.measure(self.student)
        path = self.out / "training_log.csv"
        new = not path.exists()
        with open(path, "a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            for measure, value in figures.items():
                losses = [f"{self.averages.get(key, math.nan):.4f}" for key in ("text_loss", "look_loss")]
                phase = "talk" if self.talking else "look"
                row = [f"{self.elapsed / 60:.1f}", phase, self.step, *losses, measure, f"{value:.4f}"]
                writer.writerow(row)
                print(*row, flush=True)
        self._save()
        self.lessons.refresh()
        if self.talking:
            write_package(self.student.model, self.processor, WEIGHTS / self.name, path)

    def _save(self) -> None:
        state = {
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {"step": self.step, "elapsed": self.elapsed},
        }
        with whole(self.out / "checkpoint.pt") as temporary:
            torch.save(state, temporary)

    def _resume(self) -> None:
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed = state["progress"]["step"], state["progress"]["elapsed"]
        print(f"continuing at step {self.step}, {self.elapsed / 60:.1f} minutes in", flush=True)


def _is_text(name: str) -> bool:
    """True for the language model's weights; the rest is the tower, its projection and the auxiliary heads."""
    return "language_model" in name or "lm_head" in name


def _load_part(student: Student, path: Path, *, is_text: bool) -> None:
    """Take the language model, or everything else, from another run's checkpoint."""
    saved = torch.load(path, weights_only=True)["student"]
    part = {name: value for name, value in saved.items() if _is_text(name) == is_text}
    unknown = student.load_state_dict(part, strict=False).unexpected_keys
    if unknown or not part:
        raise ValueError(f"{path} does not fit this model: {len(part)} weights taken, unknown {unknown[:3]}")


def _groups(student: Student) -> list[dict[str, object]]:
    """Parameters by (vision tower?, decayed?): matrices decay, vectors do not."""
    split: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        split.setdefault((not _is_text(name), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": params, "tower": tower, "weight_decay": 0.05 if decayed else 0.0}
        for (tower, decayed), params in split.items()
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--look-share", type=float, default=0.6, help="share of the minutes without text")
    parser.add_argument("--tower-from", type=Path, help="checkpoint.pt of another run to take the vision side from")
    parser.add_argument("--text-from", type=Path, help="checkpoint.pt of another run to take the language model from")
    parser.add_argument("--freeze-tower", action="store_true", help="learn the text alone")
    parser.add_argument("--phantoms", type=Path, default=Path("out/tiny/phantoms"))
    parser.add_argument("--soft-labels", type=Path, default=Path("out/tiny/teacher/soft_labels.npz"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    chest = args.model == "tiny_gemma3"
    lessons: Lessons = ChestLessons(args.phantoms, args.soft_labels) if chest else ShapeLessons()
    parts = {"tower_from": args.tower_from, "text_from": args.text_from, "freeze_tower": args.freeze_tower}
    Pretraining(args.model, lessons, args.out, args.minutes, args.look_share, args.seed, **parts).run()


if __name__ == "__main__":
    main()
