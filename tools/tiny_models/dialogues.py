"""What is said about a radiograph in pre-training: captions, questions, and tasks in the answer form.

The answer form is taught with other content than the fine-tuning arms ask for: view, brightness, sides, hardware, and
the findings in plain words. Words the fine-tuning arms will need, CheXpert's label names among them, are only ever
repeated, never tied to an image: a token that was never an answer keeps a random embedding, which LoRA on the
layers cannot mend, and is then drawn with a probability of a few per cent where it should be certain.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

from chexreason.confdir import confdir
from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import Grammar, format_answer
from chexreason.prompts import load_prompt
from chexreason.traces.template import ARMS, TemplateTeacher
from chexreason.types import Study
from tools.tiny_models.captions import describe, question

Turn = tuple[str, str]  # what the user asks, what the model answers

CAPTION_REQUESTS = (
    "Describe this chest radiograph.",
    "What does this chest radiograph show?",
    "Write a short report of this image.",
    "Read this image and say briefly what you see.",
    "Describe the image in plain words.",
)

PLAIN_WORDS = {
    "Atelectasis": "collapse",
    "Cardiomegaly": "enlarged heart",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Enlarged Cardiomediastinum": "wide mediastinum",
    "Fracture": "broken rib",
    "Lung Lesion": "nodule or mass",
    "Lung Opacity": "hazy shadow",
    "No Finding": "normal chest",
    "Pleural Effusion": "fluid",
    "Pleural Other": "thick pleura",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "pneumothorax",
    "Support Devices": "device",
}

OPENINGS = (
    "",
    "You are a radiologist. ",
    "Look at this frontal chest radiograph. ",
    "Read this frontal chest radiograph as a radiologist would. ",
    "Look at the heart, lungs, pleura and bones. Say briefly what you see. ",
    "Look at devices, heart, lungs, pleura and bones. Say what you see and what is absent. ",
)
HINT = " Normal chest means that no disease is visible; a device may stand beside it."
FINDINGS_ASKED = (
    "List what you see in plain words.",
    "Say in plain words what is wrong, if anything.",
    "Name every finding that applies.",
    "Then list all that applies.",
    "Then list every label that applies.",
    "List every finding that is present.",
)
NOUNS = ("words", "terms", "labels")
THINK_FORMS = (
    "Answer in exactly this form:\n<think>your concise analysis</think>\n<solution>word, word</solution>",
    "Answer in exactly this form, with nothing before, between or after the two blocks:\n"
    "<think>what you see</think>\n<solution>word</solution>",
    "Think first between <think> and </think>, then write the answer between <solution> and </solution>.",
    "Use this form: <think>...</think> <solution>...</solution>",
)
PLAIN_FORMS = (
    "Write nothing else. Answer in exactly this form:\n<solution>word, word</solution>",
    "Write only the answer between <solution> and </solution>.",
)

_TEACHER = TemplateTeacher()


def repeat(rng: random.Random) -> Turn:
    """Words to be repeated as they are: label names in any order, or words of the traces in none."""
    if rng.random() < 0.4:
        words = ", ".join(rng.sample(CHEXPERT14.labels, rng.randint(1, 6)))
        if rng.random() < 0.5:
            words = format_answer("", words.split(", "), Grammar.SOLUTION_ONLY)
    else:
        bank = trace_words()
        start = [rng.randrange(len(bank) - 4) for _ in range(3)]
        words = " ".join(word for i in start for word in bank[i : i + 4])
    return f"Repeat: {words}", words


@cache
def trace_words() -> list[str]:
    """The words of some traces in every arm's style, in running order."""
    rng, words = random.Random("trace words"), []
    prompts = [load_prompt(arm, Path(confdir(), "prompt")) for arm in ARMS]
    for i in range(200):
        positive = rng.sample([label for label in CHEXPERT14 if label != "No Finding"], rng.randint(0, 5))
        target = CHEXPERT14.encode(positive or ["No Finding"])
        study = Study(f"words-{i}", "", "", Path(), target, (True,) * len(target), view=rng.choice(("PA", "AP")))
        words += _TEACHER.write(study, rng.choice(prompts), CHEXPERT14).split()
    return words


def caption(study: Study, rng: random.Random) -> Turn:
    """A request for a description, and prose that names every positive label."""
    return rng.choice(CAPTION_REQUESTS), describe(study, CHEXPERT14, rng)


def questions(study: Study, rng: random.Random, n: int) -> list[Turn]:
    """``n`` questions about judged findings with their answers."""
    return [question(study, CHEXPERT14, rng) for _ in range(n)]


def task(study: Study, brightness: tuple[float, float], rng: random.Random) -> Turn:
    """One task in the answer form; ``brightness`` is the mean grey (0..255) of the image's left and right half."""
    topics = _topics(study, brightness)
    thought, asked, options, answer = _findings(study, rng) if rng.random() < 0.5 else rng.choice(topics)(rng)
    rng.shuffle(options)
    if rng.random() < 0.5:
        options, answer = [word.title() for word in options], [word.title() for word in answer]
    words = f" Use only these {rng.choice(NOUNS)}: {', '.join(options)}." if rng.random() < 0.7 else ""
    if rng.random() < 0.25:
        form, reply = rng.choice(PLAIN_FORMS), format_answer("", answer, Grammar.SOLUTION_ONLY)
    else:
        form, reply = rng.choice(THINK_FORMS), format_answer(thought, answer, Grammar.THINK_SOLUTION)
    hint = rng.choice(("", HINT)) if asked in FINDINGS_ASKED else ""
    gap = rng.choice((" ", "\n"))
    return f"{rng.choice(OPENINGS)}{asked}{words}{hint}{gap}{form}", reply


_Task = tuple[str, str, list[str], list[str]]  # reasoning, question, the words to choose from, the answer


def _topics(study: Study, brightness: tuple[float, float]) -> list[Callable[[random.Random], _Task]]:
    """The tasks this study can be asked: those whose answer is known."""
    topics = [lambda rng: _brightness(study, brightness, rng), lambda rng: _halves(study, brightness, rng)]
    if study.view in {"PA", "AP"}:
        topics.append(lambda rng: _view(study, rng))
    if study.mask[CHEXPERT14.index("Support Devices")]:
        topics.append(lambda rng: _hardware(study, rng))
    if any(sign.side in {"left", "right"} for sign in study.signs):
        topics.append(lambda rng: _side(study, rng))
    return topics


def _brightness(study: Study, brightness: tuple[float, float], rng: random.Random) -> _Task:
    mean = sum(brightness) / 2
    word = "dark" if mean < 95 else "medium" if mean < 135 else "bright"
    asked = rng.choice(("How bright is the image as a whole?", "Say how bright the image is."))
    return _think(study, rng, f"The image as a whole is {word}."), asked, ["dark", "medium", "bright"], [word]


def _halves(study: Study, brightness: tuple[float, float], rng: random.Random) -> _Task:
    left, right = brightness
    word = "equal" if abs(left - right) < 6 else "left half" if left > right else "right half"
    said = "Both halves are equally bright." if word == "equal" else f"The {word} of the image is brighter."
    return said, "Which half of the image is brighter?", ["left half", "right half", "equal"], [word]


def _view(study: Study, rng: random.Random) -> _Task:
    asked = rng.choice(("Is this an AP or a PA view?", "State the view of the image."))
    thought = _think(study, rng, f"This is a frontal {study.view} view.")
    return thought, asked, ["AP view", "PA view"], [f"{study.view} view"]


def _hardware(study: Study, rng: random.Random) -> _Task:
    on = study.target[CHEXPERT14.index("Support Devices")] == 1
    said = "Support hardware overlies the chest." if on else "No support hardware is in place."
    word = "hardware" if on else "no hardware"
    return said, "Is any hardware in the way?", ["hardware", "no hardware"], [word]


def _side(study: Study, rng: random.Random) -> _Task:
    sign = rng.choice([sign for sign in study.signs if sign.side in {"left", "right"}])
    word = PLAIN_WORDS[sign.label]
    asked = f"On which side of the patient is the {word}?"
    return f"I see {word} on the {sign.side}.", asked, ["left side", "right side"], [f"{sign.side} side"]


def _findings(study: Study, rng: random.Random) -> _Task:
    positive = [name for name, on in zip(CHEXPERT14, study.target, strict=True) if on]
    words = [PLAIN_WORDS[name] for name in positive] or ["unclear"]
    thought = describe(study, CHEXPERT14, rng)
    return thought, rng.choice(FINDINGS_ASKED), [*PLAIN_WORDS.values(), "unclear"], words


def _think(study: Study, rng: random.Random, sentence: str) -> str:
    """The sentence alone, or after a description of the image."""
    return sentence if rng.random() < 0.6 else f"{describe(study, CHEXPERT14, rng)} {sentence}"
