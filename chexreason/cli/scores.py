"""Score every label of an evaluated arm: ``python -m chexreason.cli.scores name=demo arm=sft 'adapters=[...]'``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from chexreason.types import Parsed, Prediction, Study

log = logging.getLogger(__name__)
REASONER = "reasoning_sha256"  # in the DONE of scores: the answers of the other arm whose reasoning was scored
AGREEMENT = "agreement"  # in the DONE of scores: what ``sign_agreement`` says of each set


def score_labels(cfg: DictConfig) -> pd.DataFrame:
    """Log-odds and sampled frequency of every label for each predicted study, written to ``<run_dir>/scores.parquet``.

    Raises ValueError on an unknown ``reasoning``, when an adapter was trained with another prompt or label set, and
    when the arm, or the one of ``reasoning=arm:NAME``, was answered anew or its data changed since it was scored,
    wholly or in part; KeyError when a predicted study is gone from the data.
    """
    from chexreason.statistics.partial import partial_path
    from chexreason.statistics.score_files import MADE_FOR, check_made_for, read_scores, write_scores

    run_dir, (kind, of) = Path(cfg.run_dir), _reasoning(cfg.reasoning)
    answers = {MADE_FOR: Path(cfg.predictions)}
    answers |= {REASONER: Path(cfg.paths.out) / cfg.name / "eval" / of / runs.PREDICTIONS} if kind == "arm" else {}
    with runs.open_run(run_dir, cfg):
        if runs.is_done(run_dir):
            done = runs.read_done(run_dir)
            for key, path in answers.items():
                if done.get(key) and path.is_file():
                    check_made_for(done[key], path, run_dir)
            partial_path(run_dir / runs.SCORES).unlink(missing_ok=True)
            log.info("%s is DONE: nothing to score", run_dir)
            return read_scores(run_dir / runs.SCORES)
        frame, record = _scored(cfg, answers)
        write_scores(run_dir / runs.SCORES, frame)
        runs.mark_done(run_dir, {"rows": len(frame), **record})
        partial_path(run_dir / runs.SCORES).unlink()
        return frame


def _reasoning(text: object) -> tuple[str, str]:
    """The kind of ``reasoning=`` and what it names; raises ValueError, with what there is, on any other."""
    kind, _, of = str(text).partition(":")
    named = bool(of) and "/" not in of
    known = {"own": not of, "none": not of, "sampled": of.isdecimal() and int(of) > 0, "arm": named}
    if not known.get(kind) or str(text).endswith(":"):
        raise ValueError(
            f"reasoning={text}: write own, none, sampled:K for K sampled reasonings (sampled:4), or arm:NAME for those "
            "of another evaluated arm (arm:sft)"
        )
    return kind, of


def _scored(cfg: DictConfig, answers: Mapping[str, Path]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The scores of all predicted studies, and what DONE records of them."""
    import pandas as pd

    from chexreason.build.data import build_samples
    from chexreason.cli.evaluate import declared, in_batches, made_with, ready
    from chexreason.statistics import predictions
    from chexreason.statistics.partial import Partial
    from chexreason.statistics.score_files import MADE_FOR, REASONING, aligned, answers_sha256, sign_agreement

    for path in answers.values():
        if runs.is_done(path.parent):
            runs.read_done(path.parent)  # it vouches for them
    predicted, *others = map(predictions.read_predictions, answers.values())
    made_for = {key: answers_sha256(path) for key, path in answers.items()}
    by_set = predictions.datasets(predicted)
    origin = declared(cfg, by_set)
    reasoner = {key: made_for[key] for key in made_for if key != MADE_FOR}
    made_of = made_with(cfg, data=origin, answers=made_for[MADE_FOR], order="labels, length", **reasoner)
    partial = Partial(Path(cfg.run_dir) / runs.SCORES, made_of)
    policy, prompt, answer_format = ready(cfg)
    label_set, rows, own = answer_format.label_set, [], {p.study_id: answer_format.parse(p.text) for p in predicted}
    thinks = {p.study_id: answer_format.parse(p.text).think for other in others for p in other}
    seen = {p.study_id: p.data_sha256 for other in others for p in other}  # "" where it was not recorded
    lost = [p.study_id for p in predicted if seen.get(p.study_id) not in ("", origin[p.dataset]["data_sha256"])]
    if others and lost:
        raise ValueError(
            f"reasoning={cfg.reasoning}: {len(lost)} of {len(predicted)} studies ({', '.join(lost[:5])}) have no answer"
            f" in {answers[REASONER]}, or one to other data: evaluate that arm on these data with restart=true"
        )

    def score(batch: Batch) -> BatchRows:
        frames = pd.concat(_scores(cfg, policy, batch, own, thinks, answer_format))
        return [{str(column): value for column, value in row.items()} for row in frames.to_dict("records")]

    for name, found in by_set.items():
        alike = sorted(found, key=lambda p: (len(own[p.study_id].labels), len(p.text)))  # a batch then pads little
        samples = build_samples(_studies(cfg, name, alike, label_set), prompt, label_set, None)
        rows += in_batches(cfg, policy, samples, score, partial, f"{cfg.arm} label scores on {name}")
    place = {study: n for n, study in enumerate(own)}
    frame, agreement = pd.DataFrame(sorted(rows, key=lambda row: place[row["study_id"]])), {}
    frame.attrs[REASONING] = str(cfg.reasoning)
    for name, found in by_set.items():
        whole = [p for p in found if own[p.study_id].valid]
        named = [label_set.encode(own[p.study_id].labels) for p in whole]
        odds = aligned(frame, whole, list(label_set), "log_odds")
        agreement[name] = sign_agreement(odds, named, list(label_set))
    return frame, {**made_for, REASONING: str(cfg.reasoning), AGREEMENT: agreement}


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
    cfg: DictConfig,
    policy: Policy,
    batch: Batch,
    own: Mapping[str, Parsed],
    thinks: Mapping[str, str],
    answer_format: AnswerFormat,
) -> list[pd.DataFrame]:
    """The scores of one batch, by kind; ``own`` is each study's answer, ``thinks`` its reasoning by another arm."""
    import numpy as np

    from chexreason.model.generate import Sampling, read_completions, sample
    from chexreason.model.label_scores import label_log_odds
    from chexreason.statistics.score_files import score_rows

    prompts, label_set = policy.with_features(batch.prompts), answer_format.label_set
    studies, (kind, of) = [item.study for item in batch.samples], _reasoning(cfg.reasoning)
    drawn: list[list[Parsed]] = []  # of each study
    n_reasonings = int(of) if kind == "sampled" else 0
    if n := max(cfg.samples, n_reasonings):
        keys = [(cfg.seed, "scores", study.study_id, k) for study in studies for k in range(n)]
        found = sample(policy, prompts, Sampling(cfg.max_new_tokens, cfg.temperature), group_size=n, keys=keys)
        parsed = [completion.parsed for completion in read_completions(policy, found, studies, answer_format)]
        drawn = [parsed[i : i + n] for i in range(0, len(parsed), n)]
    reasoned = {
        "none": [[""] for _ in studies],
        "sampled": [[answer.think for answer in row[:n_reasonings]] for row in drawn],
        "arm": [[thinks.get(study.study_id, "")] for study in studies],
    }.get(kind)
    answers = [own[study.study_id] for study in studies]
    odds = label_log_odds(policy, prompts, answers, answer_format, reasoned)
    frames = [score_rows(studies, "log_odds", list(label_set), odds.numpy())]
    if cfg.samples:
        named = np.array([[label_set.encode(answer.labels) for answer in row[: cfg.samples]] for row in drawn])
        frames.append(score_rows(studies, "frequency", list(label_set), named.mean(axis=1)))  # [N, K, L] to [N, L]
    return frames


@command(runs.RunError)
def main(cfg: DictConfig) -> None:
    """Score the labels of an arm, say where they lie, and how far their signs are its answers."""
    frame = score_labels(cfg)
    log.info("%d rows of label scores in %s", len(frame), Path(cfg.run_dir) / runs.SCORES)
    for name, shares in runs.read_done(cfg.run_dir).get(AGREEMENT, {}).items():
        shown = ", ".join(f"{what} {share:.3f}" for what, share in shares.items())
        log.info("%s: where the sign of the log-odds says what the answer names: %s", name, shown or "no valid answer")


if __name__ == "__main__":
    main()
