from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chexreason.labels.catalog import CHEXPERT14
from chexreason.types import Completion, Parsed, Study


@pytest.fixture(scope="session")
def study() -> Callable[..., Study]:
    def make(*truth: str, study_id: str = "s1", unlabelled: tuple[str, ...] = ()) -> Study:
        return Study(
            study_id=study_id,
            patient_id="p1",
            dataset="phantom_a",
            image=Path("none.png"),
            target=CHEXPERT14.encode(truth),
            mask=tuple(label not in unlabelled for label in CHEXPERT14),
        )

    return make


@pytest.fixture(scope="session")
def answer() -> Callable[..., Completion]:
    def make(
        *labels: str,
        study_id: str = "s1",
        n_tokens: int = 300,
        unknown: tuple[str, ...] = (),
        duplicates: tuple[str, ...] = (),
        stray_blocks: int = 0,
        broken: str | None = None,
    ) -> Completion:
        parsed = Parsed(labels, unknown, duplicates, stray_blocks, broken)
        return Completion(study_id, f"an answer with {', '.join(labels)}", parsed, n_tokens)

    return make
