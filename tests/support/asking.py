"""What the tests of asking share: studies, a quick task, a run against a scripted server."""

from __future__ import annotations

import json
import random
from pathlib import Path

from omegaconf import OmegaConf

from chexreason.labels.catalog import CHEXPERT14
from chexreason.traces.acceptance import acceptance
from chexreason.traces.ask import Tariff
from chexreason.traces.budget import Budget
from chexreason.traces.collect import collect_traces
from chexreason.traces.instruction import Instruction
from chexreason.traces.openai_teacher import OpenAITeacher
from chexreason.traces.store import TraceStore
from chexreason.traces.task import Limits, Task, judge_again
from chexreason.types import Study
from tests.support import scripted_server as s

CONF = Path(__file__).parents[2] / "conf"
QUICK = Limits(concurrency=4, seconds=5.0, pause=0.001, longest_pause=0.01, retries=4, give_up=3)
PRICED = Tariff(1.0, 10.0, image_tokens=500, max_tokens=1000)
DISEASES = [label for label in CHEXPERT14 if label != "No Finding"]


def instruction(arm: str) -> Instruction:
    """The teacher's instruction for ``arm`` as the command composes it."""
    files = (CONF / "teacher_instruction" / f"{name}.yaml" for name in ("shared/words", arm))
    words = OmegaConf.merge(*map(OmegaConf.load, files))
    del words["defaults"]
    return Instruction(**OmegaConf.to_container(words, resolve=True))


ARM = instruction("free_reasoning")


def study(number: int, image: Path, patient: str = "x") -> Study:
    labels = random.Random(number).sample(DISEASES, 1 + number % 3)
    return Study(f"x/{number}", f"{patient}:{number}", "x", image, CHEXPERT14.encode(labels), (True,) * 14)


def task(url: str, tariff: Tariff = PRICED, arm: Instruction = ARM, model: str = "m", **options) -> Task:
    """One that asks the server at ``url`` about the prompt of the scripted server."""
    teacher = OpenAITeacher(model, f"{url}/v1", tariff, {"max_tokens": tariff.max_tokens, **options})
    return Task(teacher, arm, s.PROMPT, CHEXPERT14)


def run(store: TraceStore, server, studies, limits=QUICK, budget=10.0, tariff=PRICED) -> str:
    return run_task(task(server.url, tariff), store, studies, limits, budget)


def run_task(task: Task, store: TraceStore, studies, limits: Limits = QUICK, budget: float = 10.0) -> str:
    """The run as the command does it."""
    store.begin(task.identity, studies, task.label_set)
    judge_again(task, store, studies)
    held = Budget(budget, store.spent(), task.teacher.tariff, task.teacher.endpoint)
    return collect_traces(task, store, studies, limits, held, lambda *_: None)


def outcomes(store: TraceStore) -> dict[str, int]:
    return acceptance(store, CHEXPERT14, QUICK.attempts)["requests"]


def faults(store: TraceStore) -> list[str]:
    rows = store.rows("SELECT faults FROM request WHERE accepted IS NOT NULL ORDER BY id")
    return [rule for (found,) in rows for rule, _ in json.loads(found)]


def first(act):
    """Misbehaves on the first request only."""
    return lambda n, asked: act(asked) if n == 0 else s.good(n, asked)
