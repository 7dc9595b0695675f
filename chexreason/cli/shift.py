"""How far a hospital is from home: ``python -m chexreason.cli.shift name=demo arm=sft away=phantom_b``."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from chexreason.cli import command
from chexreason.files import write_json, write_text
from chexreason.owners import own_folder

if TYPE_CHECKING:
    from chexreason.data.manifest import Manifest
    from chexreason.model.policy import Policy
    from chexreason.statistics.metrics import FloatArray
    from chexreason.types import Prediction, Study

    Side = list[Prediction]

log = logging.getLogger(__name__)
PAGE, MOST = "shift.html", 2000  # training films that are read


def compare_hospitals(cfg: DictConfig) -> dict[str, Any]:
    """Every figure of the page, which is written with ``shift.json`` into ``run_dir``.

    Raises ValueError where a set is missing or was not answered, or home has no training or no validation film.
    """
    from chexreason.audit.audit_page import template
    from chexreason.build.data import build_labels, is_private
    from chexreason.data.sources.film_folder import OWN_PATIENT
    from chexreason.statistics.predictions import datasets, read_predictions
    from chexreason.statistics.shift import ALPHA, energy_test

    if cfg.away == cfg.home or cfg.away not in cfg.data.sets:
        raise ValueError(f"away={cfg.away}: name another set than home={cfg.home}: {', '.join(cfg.data.sets)}")
    answered = datasets(read_predictions(Path(cfg.predictions)))
    if lost := [name for name in (cfg.home, cfg.away) if name not in answered]:
        raise ValueError(
            f"{cfg.predictions} has no answer to {', '.join(lost)}, only to {', '.join(answered)}: evaluate "
            f"arm={cfg.arm} with 'data.test=[{cfg.home},{cfg.away}]' restart=true"
        )
    home, away, labels = answered[cfg.home], answered[cfg.away], build_labels(cfg).labels
    said = {name: [set(p.predicted if p.named is None else p.named) for p in answered[name]] for name in answered}
    called = {
        k: [sum(k in own for own in said[name]) / len(said[name]) for name in (cfg.home, cfg.away)] for k in labels
    }
    figures: dict[str, Any] = {"title": f"{cfg.away} against {cfg.home}", "home": cfg.home, "away": cfg.away}
    figures |= {"arm": cfg.arm, "labels": {k: {"called": rates} for k, rates in called.items()}}
    films = _films(cfg, figures, home, away)
    energy, p = energy_test(*films, ([p.patient_id for p in home], [p.patient_id for p in away]), cfg.permutations)
    differ = "differ" if p <= ALPHA else "do not differ measurably"
    told = [f"Image features {differ}: energy distance {energy:.3f}, p = {p:.3f} (patients permuted)."]
    figures |= {"energy": energy, "energy_p": p}
    figures["said"] += told + _scores(cfg, figures, films, home, away)
    if n := sum(f":{OWN_PATIENT}" in p.patient_id for p in away):
        figures["said"].append(f"The patient of {n} films is unknown: p is too small where several are one person's.")
    folder = own_folder(Path(cfg.run_dir), is_private(cfg))
    write_json(folder / "shift.json", figures)
    write_text(folder / PAGE, template("shift.html.j2").render(figures=figures))
    return figures


def _films(cfg: DictConfig, figures: dict[str, Any], home: Side, away: Side) -> tuple[FloatArray, FloatArray]:
    """Image features of both sides; which of their films are unlike those of training goes into ``figures``."""
    from chexreason.build.data import build_labels, load_manifest
    from chexreason.cli.evaluate import ready
    from chexreason.data.manifest import studies
    from chexreason.labels.uncertainty import label_policy
    from chexreason.model.features import pooled_films
    from chexreason.statistics.oddity import ODDITIES, oddities

    def found(name: str, split: str) -> dict[str, Study]:
        read = studies(load_manifest(cfg, name), build_labels(cfg), label_policy("ignore"), (split,))
        return {study.study_id: study for study in read}

    policy = ready(cfg)[0]
    usual = usual_films(policy, load_manifest(cfg, cfg.home), f"home={cfg.home}")
    known = [found(name, cfg.split) for name in (cfg.home, cfg.away)]
    films = [pooled_films(policy, [of[p.study_id] for p in side]) for of, side in zip(known, (home, away), strict=True)]
    odd = [oddities(*usual, pair) for pair in films]  # [N, 6] each
    rows = {"any": [float((o > 1).any(axis=1).mean()) for o in odd]}
    rows |= {reason: [float((o[:, i] > 1).mean()) for o in odd] for i, reason in enumerate(ODDITIES)}
    alone = {p.study_id: ODDITIES[int(o.argmax())] for p, o in zip(away, odd[1], strict=True) if o.max() > 1}
    figures |= {"unlike": rows, "unlike_films": alone}
    ours, theirs = rows["any"]
    many = " So many that it makes other films: single odd ones do not stand out." if theirs > 0.2 else ""
    figures["said"] = [f"{theirs:.1%} of the films of {cfg.away} are unlike training's ({ours:.1%} at home).{many}"]
    return films[0][0], films[1][0]


def usual_films(policy: Policy, home: Manifest, setting: str) -> list[tuple[FloatArray, FloatArray]]:
    """``pooled_films`` of training and of validation films of ``home``; raises ValueError where it has none of one."""
    from chexreason.data.leakage import TRAIN
    from chexreason.data.manifest import studies
    from chexreason.labels.catalog import CHEXPERT14
    from chexreason.labels.uncertainty import label_policy
    from chexreason.model.features import pooled_films

    counts = home.split_counts()
    train = next((split for split in TRAIN if split in counts), None)
    if train is None or "val" not in counts:
        kind = "validation" if train else "training"
        raise ValueError(f"{setting} has no {kind} film, so nothing says which films are usual there")
    return [
        pooled_films(policy, studies(home, CHEXPERT14, label_policy("ignore"), (split,))[:MOST])
        for split in (train, "val")
    ]


def _scores(cfg: DictConfig, figures: dict[str, Any], films: Sequence[FloatArray], home: Side, away: Side) -> list[str]:
    """What scores say; their distances and prior shift go into ``figures``."""
    import numpy as np

    from chexreason.statistics.predictions import counts
    from chexreason.statistics.score_files import aligned, read_scores
    from chexreason.statistics.shift import prior_shift, score_distances

    if not Path(cfg.scores).is_file():
        return ["There are no label scores: run scores for this arm, then this again, for prior shift."]
    frame, labels = read_scores(Path(cfg.scores)), list(figures["labels"])
    ours, theirs = (aligned(frame, side, labels, "log_odds") for side in (home, away))
    for label, far in zip(labels, score_distances(ours, theirs), strict=True):
        figures["labels"][label]["scores"] = far
    _, truth, mask = counts(home, labels)
    here, there = (np.unique([p.patient_id for p in side], return_index=True)[1] for side in (home, away))
    kept = np.flatnonzero(mask.all(axis=0))  # one film a patient, and labels that all of them have
    sides = (ours[here][:, kept], films[0][here]), (theirs[there][:, kept], films[1][there])
    found = prior_shift(sides[0], truth[here][:, kept], sides[1], cfg.draws, cfg.seed)
    if found is None:
        return ["There is no prior shift: no label has ten positives and ten negatives at home."]
    for i, pair in zip(found.labels, zip(found.home.tolist(), found.away.tolist(), strict=True), strict=True):
        figures["labels"][labels[kept[i]]]["prior"] = pair
    figures |= {"prior_p": found.p, "prior_usable": found.usable}
    verdict = "is not contradicted" if found.usable else "FAILS: do not use its estimates"
    return [
        f"Prior shift assumes that only the case mix differs. That {verdict} (p = {found.p:.3f}).",
        "No test without labels sees that a hospital gives other names to the same films (annotation shift).",
    ]


def label_table(figures: Mapping[str, Any]) -> str:
    """The labels in 80 columns."""
    lines = [f"{'':<27}{'called':^14}{'scores':>9}{'share of positives':>22}"]
    lines.append(f"{'label':<27}{'home':>7}{'away':>7}{'apart':>9}{'home':>10}{'away, by EM':>14}")
    for label, row in figures["labels"].items():
        shares = [f"{share:.0%}" for share in (*row["called"], *row.get("prior", ()))] + ["-", "-"]
        far = f"{row['scores']:.2f}" if "scores" in row else "-"
        lines.append(f"{label:<27}{shares[0]:>7}{shares[1]:>7}{far:>9}{shares[2]:>10}{shares[3]:>14}")
    return "\n".join(lines)


@command()
def main(cfg: DictConfig) -> None:
    """Print the table and what can be said."""
    figures = compare_hospitals(cfg)
    print("\n".join([label_table(figures), "", *(textwrap.fill(text, 80) for text in figures["said"])]))
    log.info("page: %s", Path(cfg.run_dir) / PAGE)


if __name__ == "__main__":
    main()
