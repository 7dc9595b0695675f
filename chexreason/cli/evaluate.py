"""Score a model on test sets: ``python -m chexreason.cli.evaluate name=demo arm=base``."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from chexreason import runs
from chexreason.cli import command
from chexreason.files import finite, value_sha256, write_json
from chexreason.progress import track
from chexreason.renames import settings_read
from chexreason.traces.store import StoreError

if TYPE_CHECKING:
    from chexreason.data.batches import Batch
    from chexreason.labels.schema import LabelSet
    from chexreason.model.policy import Policy
    from chexreason.parsing import AnswerFormat
    from chexreason.prompts import Prompt
    from chexreason.statistics.metrics import FloatArray
    from chexreason.statistics.partial import BatchRows, Partial
    from chexreason.types import Prediction, Sample, Study

log = logging.getLogger(__name__)

_HEADLINE = {
    "macro_f1": "macro-F1",
    "macro_f1_supported": "supported",
    "micro_f1": "micro-F1",
    "fail_rate": "failed",
    "unknown_rate": "unknown",
    "no_label_rate": "no label",
}


def evaluate(cfg: DictConfig) -> list[Prediction]:
    """Greedy predictions of every test study, written to ``<run_dir>/predictions.jsonl``; a DONE run is read back.

    Raises ValueError when an adapter was trained with another prompt or label set, and when the data changed since an
    attempt that was cut.
    """
    from chexreason.build.data import build_labels, load_manifest, load_studies
    from chexreason.statistics import predictions
    from chexreason.statistics.partial import Partial, partial_path

    run_dir = Path(cfg.run_dir)
    with runs.open_run(run_dir, cfg):
        if runs.is_done(run_dir):
            runs.read_done(run_dir)
            partial_path(run_dir / runs.PREDICTIONS).unlink(missing_ok=True)
            log.info("%s is DONE: nothing to evaluate", run_dir)
            return predictions.read_predictions(run_dir / runs.PREDICTIONS)
        origin = declared(cfg, cfg.data.test)
        if missing := [name for name in cfg.data.test if cfg.split not in load_manifest(cfg, name).split_counts()]:
            others = ",".join(name for name in cfg.data.test if name not in missing)
            way_out = f"evaluate the others with 'data.test=[{others}]'" if others else "choose another split="
            raise ValueError(f"no study of {', '.join(missing)} is in split={cfg.split}: {way_out}")
        label_set = build_labels(cfg)
        told = {"limit": cfg.limit, "unlabelled": True}
        studies = {name: load_studies(cfg, name, (cfg.split,), label_set, **told) for name in cfg.data.test}
        if "endpoint" in cfg:
            from chexreason.build.served import served_answers

            answered, often = served_answers(cfg, [study for found in studies.values() for study in found], label_set)
        else:
            partial = Partial(run_dir / runs.PREDICTIONS, made_with(cfg, data=origin))
            answered, often = _answers(cfg, studies, label_set, partial), None
        found = [replace(row, **origin[row.dataset]) for row in answered]
        predictions.write_predictions(run_dir / runs.PREDICTIONS, found)
        write_json(run_dir / runs.METRICS, finite(score_sets(found, label_set)))
        if often is not None:
            keep_scores(cfg, found, "frequency", often)
        runs.mark_done(run_dir, {"studies": len(found)})
        partial_path(run_dir / runs.PREDICTIONS).unlink(missing_ok=True)
        return found


def _answers(
    cfg: DictConfig, studies: Mapping[str, Sequence[Study]], label_set: LabelSet, partial: Partial
) -> list[Prediction]:
    """The greedy answers of the policy to the studies of each set."""
    from chexreason.build.data import build_samples
    from chexreason.model.generate import predict_batch
    from chexreason.statistics.predictions import of_row, to_row

    policy, prompt, answer_format = ready(cfg)
    found: BatchRows = []

    def answer(batch: Batch) -> BatchRows:
        return list(map(to_row, predict_batch(policy, batch, answer_format, cfg.max_new_tokens)))

    for name, own in studies.items():
        samples = build_samples(own, prompt, label_set, None)
        found += in_batches(cfg, policy, samples, answer, partial, f"{cfg.arm} on {name}")
    return list(map(of_row, found))


def declared(cfg: DictConfig, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """``policy`` and ``data_sha256`` of each prepared set, as predictions carry them."""
    from chexreason.build.data import declaration, load_manifest

    texts = {name: declaration(cfg, name, load_manifest(cfg, name)) for name in names}
    return {name: {field: text[field] for field in ("policy", "data_sha256")} for name, text in texts.items()}


def made_with(cfg: DictConfig, **data: Any) -> dict[str, Any]:
    """What the batches of an evaluation depend on: the settings it reads, the adapters' weights and ``data``."""
    read = settings_read(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    adapters = [runs.adapter_sha256(folder) for folder in cfg.adapters]
    return {"config": value_sha256(read)[:16], "adapters": adapters, **data}


def ready(cfg: DictConfig) -> tuple[Policy, Prompt, AnswerFormat]:
    """The policy of an arm in evaluation mode on its device, and what it is asked for; seeds the random numbers.

    Raises ValueError when an adapter was trained with another prompt or label set.
    """
    import lightning as L
    import torch

    from chexreason.build.data import build_labels, build_prompt
    from chexreason.build.model import build_policy, check_card, quiet

    label_set, prompt = build_labels(cfg), build_prompt(cfg)
    quiet()
    L.seed_everything(cfg.seed, verbose=False)
    for folder in cfg.adapters:
        check_card(folder, prompt, label_set)
    policy = build_policy(cfg).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return policy, prompt, prompt.answer_format(label_set)


def in_batches(
    cfg: DictConfig,
    policy: Policy,
    samples: Sequence[Sample],
    answer: Callable[[Batch], BatchRows],
    partial: Partial,
    description: str,
) -> BatchRows:
    """The rows that ``answer`` gives to batches of ``cfg.batch_size`` samples on the policy's device, in order.

    Batches of an earlier attempt are read from ``partial``, new ones are added to it; the progress is shown.
    """
    collate, rows = policy.collate(), []
    chunks = [samples[i : i + cfg.batch_size] for i in range(0, len(samples), cfg.batch_size)]
    title, before = f"{description}, batches of {cfg.batch_size}", min(len(partial.ahead), len(chunks))
    for chunk in track(chunks, len(chunks), title, before):
        pairs = [(sample, 0.0) for sample in chunk]
        rows += partial.batch(lambda pairs=pairs: answer(collate(pairs).to(policy.device)))
    return rows


def score_sets(found: list[Prediction], label_set: LabelSet) -> dict[str, dict[str, float]]:
    """Averages, fail rate, rates of answers in other words and per-label F1 of each data set that has labels."""
    import numpy as np

    from chexreason.statistics import predictions
    from chexreason.statistics.metrics import confusion, label_f1

    scores = {}
    for name, rows in predictions.datasets(predictions.labelled_sets(found)).items():
        pred, truth, mask = predictions.counts(rows, label_set.labels)
        failed = np.array([row.broken is not None for row in rows], dtype=bool)
        scores[name] = label_f1(confusion(pred, truth, mask), mask, failed, label_set.labels)
        scores[name] |= predictions.vocabulary_rates(
            predictions.vocabulary(predictions.on_judged(rows, label_set.labels))
        )
    return scores


@contextmanager
def written_once(cfg: DictConfig, folder: Path, facts: Mapping[str, object]) -> Iterator[bool]:
    """Hold a run directory, which is DONE with ``facts`` after the block; whether it was not before."""
    with runs.open_run(folder, cfg):
        is_new = not runs.is_done(folder)
        if not is_new and runs.read_done(folder) != facts:
            raise runs.RunError(f"{folder} was made of other answers: choose another arm=, or restart=true")
        yield is_new
        if is_new:
            runs.mark_done(folder, facts)


def keep_scores(cfg: DictConfig, predictions: Sequence[Prediction], kind: str, values: FloatArray) -> None:
    """Write label scores [N, L] of the predictions in ``cfg.run_dir`` to ``cfg.scores_dir``, a run of its own."""
    from chexreason.build.data import build_labels
    from chexreason.statistics.score_files import MADE_FOR, answers_sha256, score_rows, write_scores

    folder = Path(cfg.scores_dir)
    facts = {"rows": len(predictions), MADE_FOR: answers_sha256(Path(cfg.run_dir) / runs.PREDICTIONS)}
    with written_once(cfg, folder, facts) as is_new:
        if is_new:
            write_scores(folder / runs.SCORES, score_rows(predictions, kind, list(build_labels(cfg)), values))


def report_scores(cfg: DictConfig, found: list[Prediction]) -> None:
    """Print the headline figures of each set that has labels, and give all of them to the loggers of ``cfg``."""
    from rich.console import Console

    from chexreason.build.data import build_labels
    from chexreason.reports.tables import Table
    from chexreason.statistics.comparable import UNRECORDED, basis, set_facts
    from chexreason.statistics.predictions import labelled_sets

    found, label_set = labelled_sets(found), build_labels(cfg)
    scores = score_sets(found, label_set)
    shown = {name: [values[figure] for figure in _HEADLINE] for name, values in scores.items()}
    rows = [
        (name, *(UNRECORDED if math.isnan(value) else f"{value:.3f}" for value in values))
        for name, values in shown.items()
    ]
    table = Table(f"{cfg.arm}, {cfg.split}", ("", *_HEADLINE.values()), rows)
    if rows:
        Console().print(table.terminal())
        log.info("%s", basis(set_facts({cfg.arm: found}, label_set)))
    if cfg.get("logger"):
        from chexreason.build.training import log_scores

        log_scores(cfg, scores, label_set)


@command(runs.RunError, StoreError, ModuleNotFoundError)
def main(cfg: DictConfig) -> None:
    """Evaluate, print the headline figures of each set, and give all of them to the loggers; also of a DONE run."""
    report_scores(cfg, evaluate(cfg))


if __name__ == "__main__":
    main()
