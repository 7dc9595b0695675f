"""Plain geometry, drawn and described: what the general tiny model is pre-trained on instead of radiographs."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw

from chexreason.parsing import Grammar, format_answer
from tools.tiny_models.dialogues import PLAIN_FORMS, THINK_FORMS, Turn

KINDS = ("circle", "square", "triangle", "cross", "ring", "bar")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
NUMBERS = ("zero", "one", "two", "three", "four")
# What the auxiliary head predicts: each kind anywhere, each kind on the left and on the right, each cell bright / dark.
N_TARGETS = 3 * len(KINDS) + 2 * len(ROWS) * len(COLUMNS)


@dataclass(frozen=True)
class Shape:
    """One shape in a cell of the 3 x 3 grid."""

    kind: str
    row: int
    column: int
    bright: bool
    large: bool

    def __str__(self) -> str:
        size, tone = "large" if self.large else "small", "bright" if self.bright else "dark"
        return f"a {size} {tone} {self.kind} at the {ROWS[self.row]} {COLUMNS[self.column]}"


def sample_shapes(rng: random.Random) -> list[Shape]:
    """Zero to four shapes in different cells, in reading order."""
    cells = sorted(rng.sample(range(9), rng.choice((0, 1, 1, 2, 2, 3, 3, 4))))
    return [Shape(rng.choice(KINDS), c // 3, c % 3, rng.random() < 0.5, rng.random() < 0.5) for c in cells]


def draw(shapes: list[Shape], seed: int, size: int = 128) -> np.ndarray:
    """Grey image uint8 [size, size]: a slanted gradient with noise, and the shapes on it."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1, 1, size)
    slope = rng.uniform(-25, 25, 2)
    ground = 118 + rng.uniform(-15, 15) + slope[0] * axis[:, None] + slope[1] * axis[None, :]
    image = Image.fromarray(ground.astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for shape in shapes:
        cell = size / 3
        x, y = (np.array([shape.column, shape.row]) + 0.5) * cell + rng.uniform(-0.1, 0.1, 2) * cell
        grey = int(rng.uniform(195, 245) if shape.bright else rng.uniform(10, 55))
        _draw_one(pen, shape.kind, float(x), float(y), cell * (0.42 if shape.large else 0.24), grey)
    noisy = np.asarray(image, dtype=np.float32) + rng.normal(0, rng.uniform(1, 9), (size, size))
    return noisy.clip(0, 255).astype(np.uint8)


def _draw_one(pen: ImageDraw.ImageDraw, kind: str, x: float, y: float, r: float, grey: int) -> None:
    box = (x - r, y - r, x + r, y + r)
    if kind == "circle":
        pen.ellipse(box, fill=grey)
    elif kind == "square":
        pen.rectangle(box, fill=grey)
    elif kind == "ring":
        pen.ellipse(box, outline=grey, width=max(2, int(r / 3)))
    elif kind == "triangle":
        pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=grey)
    elif kind == "bar":
        pen.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=grey)
    else:
        pen.rectangle((x - r, y - r / 4, x + r, y + r / 4), fill=grey)
        pen.rectangle((x - r / 4, y - r, x + r / 4, y + r), fill=grey)


def targets(shapes: list[Shape]) -> torch.Tensor:
    """What the auxiliary head should say about the image: [N_TARGETS] of 0 and 1."""
    target = torch.zeros(N_TARGETS)
    for shape in shapes:
        kind, cell = KINDS.index(shape.kind), 3 * shape.row + shape.column
        target[3 * kind] = 1
        if shape.column != 1:
            target[3 * kind + (1 if shape.column == 0 else 2)] = 1
        target[3 * len(KINDS) + 2 * cell + int(shape.bright)] = 1
    return target


def token_marks(shapes: list[Shape]) -> torch.Tensor:
    """Which kinds touch each of the 4 x 4 image tokens, [16, kinds]; a shape counts where a fifth of it may lie."""
    marks = torch.zeros(4, 4, len(KINDS))
    for shape in shapes:
        r = (0.42 if shape.large else 0.24) * 4 / 3
        x, y = (shape.column + 0.5) * 4 / 3, (shape.row + 0.5) * 4 / 3
        rows = slice(int(y - 0.6 * r), int(y + 0.6 * r) + 1)
        columns = slice(int(x - 0.6 * r), int(x + 0.6 * r) + 1)
        marks[rows, columns, KINDS.index(shape.kind)] = 1
    return marks.flatten(0, 1)


def describe(shapes: list[Shape]) -> str:
    """One or two sentences that name every shape with its size, tone and place."""
    if not shapes:
        return "The image is empty. There is no shape."
    count = "There is one shape" if len(shapes) == 1 else f"There are {NUMBERS[len(shapes)]} shapes"
    return f"{count}. I see {_join([str(shape) for shape in shapes])}."


def caption(shapes: list[Shape], rng: random.Random) -> Turn:
    """A request for a description, and the description."""
    return rng.choice(("Describe the image.", "What does this image show?", "Say what you see.")), describe(shapes)


def question(shapes: list[Shape], rng: random.Random) -> Turn:
    """A question about the shapes and its answer."""
    kind = rng.choice([shape.kind for shape in shapes]) if shapes and rng.random() < 0.5 else rng.choice(KINDS)
    found = [shape for shape in shapes if shape.kind == kind]
    topic = rng.random()
    if topic < 0.25:
        return "How many shapes are there?", f"{NUMBERS[len(shapes)].capitalize()}."
    if topic < 0.5 and len(found) == 1:
        return f"Where is the {kind}?", f"At the {ROWS[found[0].row]} {COLUMNS[found[0].column]}."
    if topic < 0.6 and len(found) == 1:
        return f"Is the {kind} bright or dark?", "Bright." if found[0].bright else "Dark."
    if not found:
        return f"Is there a {kind}?", "No."
    return f"Is there a {kind}?", rng.choice(("Yes.", f"Yes, {_join([str(shape) for shape in found])}."))


def task(shapes: list[Shape], rng: random.Random) -> Turn:
    """One task in the answer form."""
    kinds = [kind for kind in KINDS if any(shape.kind == kind for shape in shapes)]
    topics = [
        ("List the kinds of shapes you see.", [*KINDS, "nothing"], kinds or ["nothing"]),
        ("Say how many shapes there are.", list(NUMBERS), [NUMBERS[len(shapes)]]),
        ("Name the shapes on the left of the image.", [*KINDS, "nothing"], _at(shapes, 0)),
        ("Name the shapes on the right of the image.", [*KINDS, "nothing"], _at(shapes, 2)),
    ]
    asked, options, answer = rng.choice(topics)
    words = f" Use only these words: {', '.join(rng.sample(options, len(options)))}." if rng.random() < 0.7 else ""
    opening = rng.choice(("", "Look at this image. ", "Look at the image and say briefly what you see. "))
    if rng.random() < 0.2:
        return f"{opening}{asked}{words} {rng.choice(PLAIN_FORMS)}", format_answer("", answer, Grammar.SOLUTION_ONLY)
    reply = format_answer(describe(shapes), answer, Grammar.THINK_SOLUTION)
    return f"{opening}{asked}{words}\n{rng.choice(THINK_FORMS)}", reply


def _at(shapes: list[Shape], column: int) -> list[str]:
    found = {shape.kind for shape in shapes if shape.column == column}
    return [kind for kind in KINDS if kind in found] or ["nothing"]


def _join(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
