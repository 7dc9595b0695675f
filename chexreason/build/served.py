"""A served model as an arm: the prompt is asked of an endpoint as traces are, and each answer counts as it comes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from omegaconf import DictConfig, OmegaConf

from chexreason.build.data import build_prompt, make, public_sets
from chexreason.labels.schema import LabelSet
from chexreason.statistics.metrics import FloatArray
from chexreason.statistics.predictions import to_prediction
from chexreason.traces.budget import Budget
from chexreason.traces.collect import ask_all
from chexreason.traces.endpoint import check_export
from chexreason.traces.store import StoreError, open_store
from chexreason.traces.task import Limits, Task, judge_again
from chexreason.types import Completion, Prediction, Study


def served_answers(
    cfg: DictConfig, studies: Sequence[Study], label_set: LabelSet
) -> tuple[list[Prediction], FloatArray | None]:
    """The own answer to every study and, with ``cfg.samples``, the share [N, L] of sampled answers that name a label.

    Every response is stored in ``cfg.run_dir`` before anything reads it; the same command again asks what is open.
    Raises ValueError, or ExportError where studies that are not declared public would leave the machine, before
    anything is sent, and StoreError where studies are left open, with the reason.
    """
    if not cfg.endpoint or not cfg.served_model:
        raise ValueError("say which model, and where: endpoint=http://127.0.0.1:8000/v1 served_model=NAME")
    if not re.match("https?://", cfg.endpoint):
        raise ValueError(f"endpoint={cfg.endpoint}: begin it with http:// or https://, as http://127.0.0.1:8000/v1")
    if cfg.adapters:
        raise ValueError("an endpoint takes no adapters=: serve the adapter there and give its name as served_model=")
    if cfg.samples < 0 or cfg.image_side < 1:
        raise ValueError(f"samples={cfg.samples}, image_side={cfg.image_side}: samples are 0 or more, a side 1 or more")
    answer_format = build_prompt(cfg).answer_format(label_set)
    own, spent = _asked(cfg, studies, label_set, "own", {"temperature": 0.0}, 0.0)
    completions = [
        Completion(study.study_id, text, answer_format.parse(text), n_tokens or 0)
        for study, (text, n_tokens) in zip(studies, own, strict=True)
    ]
    found = [to_prediction(study, one, label_set) for study, one in zip(studies, completions, strict=True)]
    if not cfg.samples:
        return found, None
    again = [replace(study, study_id=f"{study.study_id} sample {k}") for study in studies for k in range(cfg.samples)]
    drawn, _ = _asked(cfg, again, label_set, "sampled", {"temperature": cfg.temperature}, spent)
    named = np.array([label_set.encode(answer_format.parse(text).labels) for text, _ in drawn], dtype=np.float64)
    return found, named.reshape(len(studies), cfg.samples, -1).mean(1)  # [N * K, L] to [N, L]


def _asked(
    cfg: DictConfig, studies: Sequence[Study], label_set: LabelSet, kind: str, changed: dict[str, float], spent: float
) -> tuple[list[tuple[str, int | None]], float]:
    """Text and tokens of the answer to each of ``studies``, asked for where there is none yet; and the USD spent."""
    options: dict[str, Any] = OmegaConf.to_container(cfg.teacher.options, resolve=True) | changed  # type: ignore[operator]
    teacher = make(cfg.teacher, options=options, _convert_="all")
    agreement = check_export(studies, teacher.endpoint, public_sets(cfg), cfg.data.allow_export)
    asked_with = json.dumps([cfg.image_side, options], sort_keys=True)
    task = Task(teacher, None, build_prompt(cfg), label_set, agreement, cfg.image_side, cfg.seed, asked_with)
    limits = Limits(**OmegaConf.to_container(cfg.limits, resolve=True))  # type: ignore[arg-type]
    with open_store(Path(cfg.run_dir) / f"{kind}_answers.db") as store:
        store.begin(task.identity, studies, label_set)
        judge_again(task, store, studies)
        stopped = ask_all(
            task, store, studies, limits, Budget(cfg.budget, spent + store.spent(), teacher.tariff, teacher.endpoint)
        )
        rows = store.rows("SELECT study_id, text, tokens_out FROM request WHERE accepted")
        answers = {study_id: (text, n_tokens) for study_id, text, n_tokens in rows}
        if left := [study.study_id for study in studies if study.study_id not in answers]:
            why = f"stopped: {stopped or 'some studies got no answer (see above)'}. {len(left)} answers are open"
            raise StoreError(f"{why}, e.g. {left[0]} (budget={cfg.budget}): mend it and run the same command again")
        return [answers[study.study_id] for study in studies], spent + store.spent()


def no_weights(**_: object) -> NoReturn:
    """Refuse (ValueError) what needs a model's weights where the model is an endpoint."""
    raise ValueError(
        "model=endpoint has no weights here: evaluate asks it, and nothing else does; choose another model="
    )
