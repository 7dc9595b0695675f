"""Tables, figures and the transfer report into a folder, from predictions and curves alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from chexreason.files import write_text
from chexreason.labels.schema import LabelSet
from chexreason.reports.curve_figure import draw_curves
from chexreason.reports.derived import page
from chexreason.reports.history import Curve
from chexreason.reports.measured import Runs, measure
from chexreason.reports.pareto_figure import draw_pareto
from chexreason.reports.printed import MACRO, printed
from chexreason.reports.provenance import Ground, Origins, sizes
from chexreason.reports.ranking_page import Scored, see, sight_csv, sight_latex, sight_page
from chexreason.reports.result_table import ResultTable, result_table
from chexreason.reports.table_text import to_csv, to_latex, to_markdown
from chexreason.reports.tables import table_latex
from chexreason.reports.transfer_page import transfer_csv, transfer_page, transfer_table
from chexreason.statistics.bootstrap import Interval
from chexreason.statistics.comparable import check_studies, set_facts
from chexreason.statistics.predictions import datasets
from chexreason.statistics.transfer import transfer_report


def write_table(
    name: str,
    runs: Runs,
    out: Path,
    *,
    dataset: str,
    label_set: LabelSet,
    prevalence: Mapping[str, float] | None = None,
    origins: Origins | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> ResultTable:
    """Writes ``<out>/<name>.csv``, ``.md`` and ``.tex``; ``runs`` maps rows of the printed table to seeds' predictions.

    ``origins`` says by row how its answers came about, where that is known. A row absent from ``runs`` is shown as
    missing. Raises ValueError on a row the paper does not have, and where runs stand on different policies, data or
    studies; nothing is written then.
    """
    paper = printed(name)
    found = {paper.run(run): seeds for run, seeds in runs.items()}
    measured = measure(found, dataset, label_set, prevalence or {}, n_resamples, seed)
    known = {paper.run(run): origin for run, origin in (origins or {}).items()}
    table = result_table(paper, measured, dataset, known)
    for suffix, text in (("csv", to_csv(table)), ("md", to_markdown(table)), ("tex", to_latex(table))):
        write_text(out / f"{name}.{suffix}", text)
    return table


def write_figure(name: str, runs: Mapping[str, Mapping[str, Curve]], out: Path, not_run: Sequence[str]) -> list[Path]:
    """Writes ``<out>/<name>.svg``, ``.png`` and ``.csv``."""
    return draw_curves(name, runs, out / name, not_run)


def write_transfer(
    arms: Runs,
    out: Path,
    *,
    home: str,
    away: Sequence[str],
    label_set: LabelSet,
    origins: Origins | None = None,
    not_run: Sequence[str] = (),
    n_resamples: int = 10_000,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> list[str]:
    """Writes ``transfer.md``, ``.csv``, ``.tex`` and a Pareto plot for each other data set; returns the sentences.

    ``not_run`` names arms that should have been in it.
    """
    answers = {arm: list(seeds.values()) for arm, seeds in arms.items()}
    report = transfer_report(
        answers, label_set, home, away, n_resamples=n_resamples, n_permutations=n_permutations, seed=seed
    )
    first = {arm: seeds[0] for arm, seeds in answers.items()}
    facts = {name: found for name, found in set_facts(first, label_set).items() if name in (home, *away)}
    ground = Ground(facts, sizes(next(iter(first.values())), facts), origins or {}, tuple(not_run))
    text = transfer_page(report, ground)
    write_text(out / "transfer.md", text)
    write_text(out / "transfer.csv", transfer_csv(report, ground))
    write_text(out / "transfer.tex", table_latex(transfer_table(report, ground.sentence()), "transfer"))
    for name in away:
        points = {arm: (scores[home], scores[name]) for arm, scores in report.scores.items()}
        draw_pareto(
            points, out / f"pareto_{name}", home=home, away=name, statistic="macro-F1", title="Home against away"
        )
    return [line for line in text.splitlines() if line.startswith("Compared with")]


def write_ranking(
    arms: Scored,
    out: Path,
    *,
    sets: Sequence[str],
    label_set: LabelSet,
    kind: str,
    origins: Origins | None = None,
    not_run: Sequence[str] = (),
    fit_patients: int = 50,
    n_resamples: int = 2_000,
    seed: int = 0,
) -> None:
    """Writes ``ranking.md``, ``.csv`` and ``.tex``: every arm on each of ``sets``, and how its changes split.

    What an arm lacks is shown as missing, with the reason; ``not_run`` names arms that should have been in it. Raises
    ValueError where arms stand on different policies, data or studies; nothing is written then.
    """
    named = {
        f"{arm} (seed {k})" if len(seeds) > 1 else arm: [p for p in answers if p.dataset in sets]
        for arm, seeds in arms.items()
        for k, (answers, _) in enumerate(seeds)
    }
    facts = set_facts(named, label_set)
    for name in facts:
        check_studies(name, {arm: rows for arm, p in named.items() if (rows := datasets(p).get(name))})
    views = [
        see(arms, name, label_set, kind=kind, fit_patients=fit_patients, n_resamples=n_resamples, seed=seed)
        for name in sets
    ]
    everything = [p for answers in named.values() for p in answers]
    n_studies = sizes({p.study_id: p for p in everything}.values(), facts)
    ground = Ground(facts, n_studies, origins or {}, tuple(not_run))
    write_text(out / "ranking.md", sight_page(views, ground, kind, fit_patients, n_resamples))
    write_text(out / "ranking.csv", sight_csv(views, ground, kind))
    write_text(out / "ranking.tex", sight_latex(views, ground))


def write_paper(out: Path) -> None:
    """Writes ``paper.md``, what the paper's own tables say, and its models as a Pareto plot."""
    home, away = printed("table5").rows[MACRO], printed("table6").rows[MACRO]
    points = {model: (_point(home[model]), _point(away[model])) for model in home}
    title = "The paper's models, as printed"
    write_text(out / "paper.md", page())
    draw_pareto(points, out / "pareto_paper", home="CheXpert", away="NIH", statistic="macro-F1", title=title)


def _point(value: float) -> Interval:
    return Interval(value, float("nan"), float("nan"))
