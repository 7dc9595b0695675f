"""Fixtures shared by the rooms: a policy of each family, a few images, a few studies."""

from __future__ import annotations

import copy
import functools
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.support.families import FAMILIES, source_of

if TYPE_CHECKING:  # pytest's controller reads this file and runs no test: torch and transformers cost it 12 s
    from chexreason.model.policy import Policy
    from chexreason.types import Prediction, Study

_SECONDS: Counter[str] = Counter()  # of each test file, set-up included
_SAID: list[str] = []  # what tests print on success too: record_property("said", text)


# A shell that starts pytest in the background has it ignore Ctrl-C, and every command of a test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _SECONDS[report.nodeid.partition("::")[0]] += report.duration
    if report.when == "call":
        _SAID.extend(str(text) for key, text in report.user_properties if key == "said")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests say, and the seconds of every test file, the longest first."""
    for text in _SAID:
        terminalreporter.write_line(text)
    terminalreporter.section("seconds by file")
    for file, seconds in _SECONDS.most_common():
        if seconds >= 1:
            terminalreporter.write_line(f"{seconds:8.1f} {file}")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Before any other fixture: runs are compared to the bit, and two threads add in another order than one."""
    import torch

    torch.set_num_threads(1)


@functools.cache
def _loaded(name: str) -> Policy:
    from chexreason.model.load import load_policy

    return load_policy(source_of(name), dtype="float32")


@pytest.fixture(params=FAMILIES)
def policy(request: pytest.FixtureRequest) -> Policy:
    """A policy of each family in turn, as loaded: tests may change it."""
    return copy.deepcopy(_loaded(request.param))  # a copy costs a third of loading


@pytest.fixture
def gemma() -> Policy:
    """The packaged Gemma 3, as loaded: tests may change it."""
    return copy.deepcopy(_loaded("tiny_gemma3"))


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Three different grey images of different sizes, as RGB."""
    rng = np.random.default_rng(0)
    sizes = ((160, 160), (128, 128), (140, 180))
    return [Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).convert("RGB") for size in sizes]


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory, images: list[Image.Image]) -> list[Study]:
    """Six labelled studies of six patients, on three images; not to be changed."""
    from chexreason.labels.catalog import CHEXPERT14
    from chexreason.types import Study

    folder = tmp_path_factory.mktemp("studies")
    label_sets = (["No Finding"], ["Cardiomegaly", "Edema"], ["Pneumothorax"], ["Pleural Effusion"], ["Fracture"])
    found = []
    for i, labels in enumerate((*label_sets, ["Edema"])):
        path = folder / f"{i}.png"
        images[i % 3].save(path)
        mask = (True,) * len(CHEXPERT14)
        found.append(Study(f"s{i}", f"p{i}", "set", path, CHEXPERT14.encode(labels), mask))
    return found


@pytest.fixture
def make_arm() -> Callable[..., list[Prediction]]:
    """``make_arm(accuracy, n=20)``: predictions at phantom_a and phantom_b; the truth is the same for every arm."""

    from chexreason.labels.catalog import CHEXPERT14, NIH9
    from chexreason.types import Prediction

    def make(accuracy: float, n: int = 20, fail_every: int = 0, text: str = "<think>x</think>") -> list[Prediction]:
        truth_source, answer_source = random.Random(1), random.Random(accuracy)
        predictions = []
        for dataset, labelled in (("phantom_a", CHEXPERT14.labels), ("phantom_b", NIH9.labels)):
            for i in range(n):
                truth = tuple(label for label in labelled if truth_source.random() < 0.3)
                right = {label: answer_source.random() < accuracy for label in CHEXPERT14}
                predicted = tuple(label for label in CHEXPERT14 if (label in truth) == right[label])
                broken = "no_solution" if fail_every and i % fail_every == 0 else None
                study, patient = f"{dataset}:s{i}", f"{dataset}:p{i // 2}"
                answer = () if broken else predicted
                predictions.append(Prediction(study, patient, dataset, text, answer, truth, labelled, broken, 12))
        return predictions

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real radiographs, from CHEXREASON_DATA or ../shared/data; skips where it is absent."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("CHEXREASON_DATA", default))
    if not (folder / "nih" / "labels.csv").is_file():
        pytest.skip(f"no real radiographs in {folder}: set CHEXREASON_DATA to their folder")
    return folder
