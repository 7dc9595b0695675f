"""Score a model on test sets: ``python -m chexreason.cli.evaluate name=demo arm=base``."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from chexreason import runs
from chexreason.cli import command
from chexreason.files import finite, write_json
from chexreason.progress import track

if TYPE_CHECKING:
    from chexreason.data.batches import Batch
    from chexreason.labels.schema import LabelSet
    from chexreason.model.policy import Policy
    from chexreason.parsing import AnswerFormat
    from chexreason.prompts import Prompt
    from chexreason.types import Prediction, Sample

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> list[Prediction]:
    """Greedy predictions of every test study, written to ``<run_dir>/predictions.jsonl``; a DONE run is read back.

    Raises ValueError when an adapter was trained with another prompt or label set.
    """
    from chexreason.build.data import build_samples, declaration, load_manifest, load_studies
    from chexreason.data.sampling import subset
    from chexreason.model.generate import predict_batch
    from chexreason.statistics import predictions

    run_dir = Path(cfg.run_dir)
    with runs.open_run(run_dir, cfg):
        if runs.is_done(run_dir):
            runs.read_done(run_dir)
            log.info("%s is DONE: nothing to evaluate", run_dir)
            return predictions.read_predictions(run_dir / runs.PREDICTIONS)
        policy, prompt, answer_format = ready(cfg)
        label_set = answer_format.label_set
        found: list[Prediction] = []
        for name in cfg.data.test:
            declared = declaration(cfg, name, load_manifest(cfg, name))
            origin = {field: declared[field] for field in ("policy", "data_sha256")}
            studies = subset(load_studies(cfg, name, (cfg.split,), label_set), cfg.limit, cfg.seed)
            samples = build_samples(studies, prompt, label_set, None)
            for batch in batches(cfg, policy, samples, f"{cfg.arm} on {name}"):
                answers = predict_batch(policy, batch, answer_format, cfg.max_new_tokens)
                found += [replace(answer, **origin) for answer in answers]
        predictions.write_predictions(run_dir / runs.PREDICTIONS, found)
        write_json(run_dir / runs.METRICS, finite(score_sets(found, label_set)))
        runs.mark_done(run_dir, {"studies": len(found)})
        return found


def ready(cfg: DictConfig) -> tuple[Policy, Prompt, AnswerFormat]:
    """The policy of an arm in evaluation mode on its device, and what it is asked for; seeds the random numbers.

    Raises ValueError when an adapter was trained with another prompt or label set.
    """
    import lightning as L
    import torch

    from chexreason.build.data import build_labels, build_prompt
    from chexreason.build.model import build_policy, check_card
    from chexreason.quiet import quiet

    label_set, prompt = build_labels(cfg), build_prompt(cfg)
    quiet()
    L.seed_everything(cfg.seed, verbose=False)
    for folder in cfg.adapters:
        check_card(folder, prompt, label_set)
    policy = build_policy(cfg).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return policy, prompt, prompt.answer_format(label_set)


def batches(cfg: DictConfig, policy: Policy, samples: Sequence[Sample], description: str) -> Iterator[Batch]:
    """The samples in batches of ``cfg.batch_size`` on the policy's device, with the progress shown."""
    collate = policy.collate()
    chunks = [samples[i : i + cfg.batch_size] for i in range(0, len(samples), cfg.batch_size)]
    for chunk in track(chunks, len(chunks), f"{description}, batches of {cfg.batch_size}"):
        yield collate([(sample, 0.0) for sample in chunk]).to(policy.device)


def score_sets(found: list[Prediction], label_set: LabelSet) -> dict[str, dict[str, float]]:
    """Averages, fail rate and per-label F1 of each data set."""
    import numpy as np

    from chexreason.statistics import predictions
    from chexreason.statistics.metrics import confusion, label_f1

    scores = {}
    for name, rows in predictions.datasets(found).items():
        pred, truth, mask = predictions.counts(rows, label_set.labels)
        failed = np.array([row.broken is not None for row in rows], dtype=bool)
        scores[name] = label_f1(confusion(pred, truth, mask), mask, failed, label_set.labels)
    return scores


@command(runs.RunError)
def main(cfg: DictConfig) -> None:
    """Evaluate and print the headline figures of each set."""
    from chexreason.build.data import build_labels
    from chexreason.statistics.comparable import basis, set_facts

    found, label_set = evaluate(cfg), build_labels(cfg)
    facts = set_facts({cfg.arm: found}, label_set)
    for name, values in score_sets(found, label_set).items():
        wanted = ("macro_f1", "macro_f1_supported", "micro_f1", "fail_rate")
        log.info("%s on %s: %s", cfg.arm, name, ", ".join(f"{k} {values[k]:.3f}" for k in wanted))
        log.info("%s", basis({name: facts[name]}))


if __name__ == "__main__":
    main()
