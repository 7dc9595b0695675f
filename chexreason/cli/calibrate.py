"""Fit an arm's operating point: ``python -m chexreason.cli.calibrate name=demo arm=sft data=phantom``."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console

from chexreason import runs
from chexreason.cli import command
from chexreason.files import file_sha256, finite, value_sha256, write_json, write_text
from chexreason.owners import own_folder

if TYPE_CHECKING:
    from chexreason.reports.point_card import Judged
    from chexreason.statistics.operating_point import OperatingPoint, ScoreOrigin
    from chexreason.types import Prediction

log = logging.getLogger(__name__)


def calibrate_arm(cfg: DictConfig) -> tuple[OperatingPoint, dict[str, Any]]:
    """The operating point of an arm and its card, written to ``<run_dir>``.

    Raises ValueError on studies of another split than val, on a target that is none, on scores of other answers, and
    where no label has a positive.
    """
    from chexreason.build.data import build_labels, is_private, public_sets
    from chexreason.reports.point_card import card_page, point_card
    from chexreason.statistics import cuts
    from chexreason.statistics.operating_point import OperatingPoint, hashed_ids, write_point
    from chexreason.statistics.predictions import counts
    from chexreason.statistics.score_files import SCORE_KINDS

    target = cuts.Target(cfg.target, cfg.at)
    if cfg.scores not in SCORE_KINDS:
        raise ValueError(f"scores={cfg.scores}: choose one of {', '.join(SCORE_KINDS)}")
    if cfg.transport is not None and not Path(cfg.transport).is_dir():
        raise ValueError(f"transport={cfg.transport}: no such folder; null applies the point to no other studies")
    labels, home = build_labels(cfg).labels, cfg.data.home
    tuning = _judged(cfg, Path(cfg.tuning), "val")
    if home not in tuning:
        raise ValueError(f"{cfg.tuning} has no studies of data.home={home}; it has: {', '.join(tuning)}")
    fitted, caveats = _unseen(cfg, tuning[home])
    _, truth, mask = counts(fitted.predictions, labels)
    few = cfg.min_positives
    slopes, biases = cuts.calibrate(fitted.scores, truth, mask, cfg.calibration, few)
    rule = partial(cuts.fit_cuts, target=target, min_positives=few)
    found = rule(fitted.scores, truth, mask)
    salt = "" if home in public_sets(cfg) else value_sha256([fitted.origin.data_sha256, fitted.sha256])
    point = OperatingPoint(
        origin=fitted.origin,
        target=target.name,
        at=target.at,
        calibration=cfg.calibration,
        cuts=tuple(found.tolist()),
        slopes=tuple(slopes.tolist()),
        biases=tuple(biases.tolist()),
        positives=tuple((truth & mask).sum(axis=0).tolist()),
        negatives=tuple((mask & ~truth).sum(axis=0).tolist()),
        rare=tuple(x for x, on in zip(labels, cuts.rare_labels(truth, mask, few), strict=True) if on),
        min_positives=few,
        scores_sha256=fitted.sha256,
        ids=hashed_ids((p.study_id for p in fitted.predictions), salt),
        salt=salt,
        caveats=tuple(caveats),
    )
    others = _judged(cfg, Path(cfg.transport)) if cfg.transport is not None else {}
    if cfg.draw not in ("random", "consecutive"):
        raise ValueError(f"draw={cfg.draw}: write random or consecutive")
    few_labels: dict[str, Any] = {"few_labels": list(cfg.few_labels), "consecutive": cfg.draw == "consecutive"}
    how = few_labels | {"n_permutations": cfg.n_permutations, "n_resamples": cfg.n_resamples, "seed": cfg.seed}
    card = point_card(point, rule, fitted, others, **how)
    folder = own_folder(Path(cfg.run_dir), is_private(cfg))
    write_point(folder / "operating_point.json", point)
    write_json(folder / "card.json", finite(card))
    parts = [part if isinstance(part, str) else part.markdown() for part in card_page(point, card)]
    write_text(folder / "card.md", "\n\n".join(parts) + "\n")
    return point, card


def _judged(cfg: DictConfig, root: Path, split: str | None = None) -> dict[str, Judged]:
    """The scored answers of the arm in the study ``root`` by data set; with ``split``, of studies in that one alone."""
    from chexreason.build.data import build_labels, load_studies
    from chexreason.cli.tables import made_scores
    from chexreason.parsing import parse
    from chexreason.reports.point_card import Judged
    from chexreason.statistics.predictions import datasets, read_predictions
    from chexreason.statistics.ranking import judged_scores
    from chexreason.statistics.score_files import aligned

    answered, scored = root / "eval" / cfg.arm, root / "scores" / cfg.arm
    if split is None and not runs.is_done(scored):
        log.info("no finished scores in %s: the point is applied to no other studies", scored)
        return {}
    for folder, verb in ((answered, "evaluate"), (scored, "scores")):
        if not runs.is_done(folder):
            raise FileNotFoundError(
                f"{folder} is not there or not DONE: first python -m chexreason.cli.{verb} arm={cfg.arm} "
                f"name={os.path.relpath(root, cfg.paths.out)}" + (f" split={split}" if split else "")
            )
        runs.read_done(folder)
    frame, kept, label_set = made_scores(scored, answered), runs.stored_config(scored), build_labels(cfg)
    found = {}
    for name, rows in datasets(read_predictions(answered / runs.PREDICTIONS)).items():
        studies = {s.study_id: s for s in load_studies(cfg, name, (split or kept["split"],), label_set)}
        if lost := [p.study_id for p in rows if p.study_id not in studies]:
            raise ValueError(
                f"{len(lost)} studies in {answered} are not in split {split or kept['split']} of {name}, "
                f"e.g. '{lost[0]}' (answered with split={kept['split']}): cuts are fitted on validation studies, never "
                "on test or training ones; answer and score split=val, and say tuning=FOLDER"
            )
        scores, judged = judged_scores(aligned(frame, rows, label_set.labels, cfg.scores), rows, label_set.labels)
        origin = score_origin(kept, rows, label_set.labels, cfg.scores)
        grammar = kept["prompt"]["grammar"]
        facts: list[dict[str, object]] = []
        for p in judged:
            study, think = studies[p.study_id], parse(p.text, label_set, grammar).think
            facts.append({"view": study.view, "age": study.age, "sex": study.sex, "think": think})
        sha256 = file_sha256(scored / runs.SCORES)
        found[name] = Judged(scores, judged, origin, facts, sha256, tuple(kept["adapters"]))
    return found


def score_origin(
    kept: Mapping[str, Any], rows: Sequence[Prediction], labels: tuple[str, ...], kind: str
) -> ScoreOrigin:
    """Where the scores of the answers ``rows`` come from, by the config ``kept`` that they were made with."""
    from chexreason.statistics.operating_point import ScoreOrigin

    return ScoreOrigin(
        model=str(kept["model"]["source"]),
        adapters=tuple(kept.get(runs.ADAPTERS) or kept["adapters"]),
        prompt=f"{kept['prompt']['name']} {value_sha256(kept['prompt'])[:16]}",
        reasoning=str(kept.get("reasoning", "own")),
        kind=kind,
        labels=labels,
        dataset=rows[0].dataset,
        convention=rows[0].policy,
        data_sha256=rows[0].data_sha256,
    )


def _unseen(cfg: DictConfig, tuning: Judged) -> tuple[Judged, list[str]]:
    """The studies that did not choose the checkpoint; where all of them did, all, with the caveat."""
    from chexreason.build.data import build_labels, choosing
    from chexreason.cli.tables import chosen_share

    home = tuning.origin.dataset
    shares = [share for folder in tuning.adapters if (share := chosen_share(Path(folder), home)) is not None]
    if not shares:
        return tuning, []
    kept = {s.study_id for s in choosing(cfg, home, build_labels(cfg), min(shares))[1]}
    if min(shares) and (rows := [i for i, p in enumerate(tuning.predictions) if p.study_id in kept]):
        return tuning.of(rows), []
    return tuning, [
        f"validation studies of {home} chose this arm's checkpoint: figures on them are optimistic, also the "
        "cross-validated ones; train with phase.tuning=0.5 to keep half of their patients from it"
    ]


@command(runs.RunError)
def main(cfg: DictConfig) -> None:
    """Fit the point, write it with its card, and print the card."""
    from chexreason.reports.point_card import card_page

    console = Console(width=80)
    for part in card_page(*calibrate_arm(cfg)):
        console.print(part if isinstance(part, str) else part.terminal(), markup=False, highlight=False)
    log.info("written to %s", cfg.run_dir)


if __name__ == "__main__":
    main()
