"""Score every label of an evaluated arm: ``python -m chexreason.cli.scores name=demo arm=sft 'adapters=[...]'``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from chexreason import runs
from chexreason.cli import command

if TYPE_CHECKING:
    import pandas as pd

    from chexreason.data.batches import Batch
    from chexreason.labels.schema import LabelSet
    from chexreason.model.policy import Policy
    from chexreason.parsing import AnswerFormat
    from chexreason.statistics.partial import BatchRows
    from chexreason.types import Prediction, Study

log = logging.getLogger(__name__)


def score_labels(cfg: DictConfig) -> pd.DataFrame:
    """Log-odds and sampled frequency of every label for each predicted study, written to ``<run_dir>/scores.parquet``.

    Raises ValueError when an adapter was trained with another prompt or label set, and when the arm was answered anew
    or its data changed since it was scored, wholly or in part; KeyError when a predicted study is gone from the data.
    """
    import pandas as pd

    from chexreason.build.data import build_samples
    from chexreason.cli.evaluate import declared, in_batches, made_with, ready
    from chexreason.statistics import predictions
    from chexreason.statistics.partial import Partial, partial_path
    from chexreason.statistics.score_files import MADE_FOR, answers_sha256, check_made_for, read_scores, write_scores

    run_dir, answers = Path(cfg.run_dir), Path(cfg.predictions)
    with runs.open_run(run_dir, cfg):
        if runs.is_done(run_dir):
            if (made_for := runs.read_done(run_dir).get(MADE_FOR)) and answers.is_file():
                check_made_for(made_for, answers, run_dir)
            partial_path(run_dir / runs.SCORES).unlink(missing_ok=True)
            log.info("%s is DONE: nothing to score", run_dir)
            return read_scores(run_dir / runs.SCORES)
        if runs.is_done(answers.parent):
            runs.read_done(answers.parent)  # it vouches for them
        predicted, sha256 = predictions.read_predictions(answers), answers_sha256(answers)
        by_set = predictions.datasets(predicted)
        made_of = made_with(cfg, data=declared(cfg, by_set), answers=sha256)
        partial = Partial(run_dir / runs.SCORES, made_of)
        policy, prompt, answer_format = ready(cfg)
        label_set, rows = answer_format.label_set, []
        answers_of = {p.study_id: p for p in predicted}

        def score(batch: Batch) -> BatchRows:
            found = [answers_of[sample.study.study_id] for sample in batch.samples]
            frames = pd.concat(_scores(cfg, policy, batch, found, answer_format))
            return [{str(column): value for column, value in row.items()} for row in frames.to_dict("records")]

        for name, found in by_set.items():
            samples = build_samples(_studies(cfg, name, found, label_set), prompt, label_set, None)
            rows += in_batches(cfg, policy, samples, score, partial, f"{cfg.arm} label scores on {name}")
        frame = pd.DataFrame(rows)
        write_scores(run_dir / runs.SCORES, frame)
        runs.mark_done(run_dir, {"rows": len(frame), MADE_FOR: sha256})
        partial_path(run_dir / runs.SCORES).unlink()
        return frame


def _studies(cfg: DictConfig, name: str, found: Sequence[Prediction], label_set: LabelSet) -> list[Study]:
    """The studies that were predicted, in that order."""
    from chexreason.build.data import load_studies

    studies = load_studies(cfg, name, (cfg.split,), label_set, unlabelled=True)
    known = {study.study_id: study for study in studies}
    if lost := [p.study_id for p in found if p.study_id not in known]:
        raise KeyError(
            f"{len(lost)} predicted studies are not in {name}/{cfg.split}, e.g. {lost[0]}: "
            "evaluate this arm anew with restart=true"
        )
    return [known[p.study_id] for p in found]


def _scores(
    cfg: DictConfig, policy: Policy, batch: Batch, found: Sequence[Prediction], answer_format: AnswerFormat
) -> list[pd.DataFrame]:
    import numpy as np

    from chexreason.model.generate import Sampling, read_completions, sample
    from chexreason.model.label_scores import label_log_odds
    from chexreason.statistics.score_files import score_rows

    prompts = policy.with_features(batch.prompts)
    label_set, answers = answer_format.label_set, [answer_format.parse(answer.text) for answer in found]
    odds = label_log_odds(policy, prompts, answers, answer_format)
    frames = [score_rows(found, "log_odds", list(label_set), odds.numpy())]
    if cfg.samples:
        studies = [item.study for item in batch.samples]
        keys = [(cfg.seed, "scores", study.study_id, k) for study in studies for k in range(cfg.samples)]
        drawn = sample(
            policy, prompts, Sampling(cfg.max_new_tokens, cfg.temperature), group_size=cfg.samples, keys=keys
        )
        completions = read_completions(policy, drawn, studies, answer_format)
        named = np.array([label_set.encode(completion.parsed.labels) for completion in completions])  # [N * K, L]
        often = named.reshape(len(studies), cfg.samples, -1).mean(axis=1)  # [N, L]
        frames.append(score_rows(found, "frequency", list(label_set), often))
    return frames


@command(runs.RunError)
def main(cfg: DictConfig) -> None:
    """Score the labels of an arm and say where they lie."""
    frame = score_labels(cfg)
    log.info("%d rows of label scores in %s", len(frame), Path(cfg.run_dir) / runs.SCORES)


if __name__ == "__main__":
    main()
