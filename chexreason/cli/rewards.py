"""What the rewards pay for: ``python -m chexreason.cli.rewards`` prints it, against policies that look at nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chexreason.build.data import build_labels, build_prompt, load_studies
from chexreason.build.training import build_reward
from chexreason.confdir import confdir
from chexreason.data.prevalence import prevalence_of
from chexreason.errors import friendly, known_choices
from chexreason.files import write_json, write_text
from chexreason.labels.schema import LabelSet
from chexreason.prompts import render
from chexreason.rewards.base import Reward, scored_labels
from chexreason.rewards.lab import earnings as lab
from chexreason.rewards.lab.adversaries import ADVERSARIES
from chexreason.rewards.lab.answers import Answers, is_predictions, of_predictions, read_answers
from chexreason.rewards.lab.cohorts import chexpert_cohort, phantom_cohort
from chexreason.statistics import predictions
from chexreason.statistics.metrics import averages, confusion
from chexreason.types import Completion, Study

log = logging.getLogger(__name__)
Row = dict[str, Any]


def rewards(cfg: DictConfig, studies: Sequence[Study], label_set: LabelSet) -> dict[str, Reward]:
    """The rewards to look at, by name; those that price labels know their prevalence in ``studies``."""
    chosen = list(cfg.rewards) if cfg.only is None else list(cfg.only)
    if unknown := [name for name in chosen if name not in cfg.rewards]:
        raise ValueError(
            f"only={chosen}: no reward {unknown}; there are {', '.join(cfg.rewards)}, "
            f"and +reward@rewards.NAME=NAME adds that of conf/reward/NAME.yaml"
        )
    prevalence = prevalence_of(studies, label_set)
    return {name: build_reward(cfg.rewards[name], lambda: prevalence) for name in chosen}


def cohort(cfg: DictConfig, label_set: LabelSet) -> list[Study]:
    """The studies whose labels are answered; raises ValueError on an unknown kind."""
    if cfg.studies == "phantom":
        return phantom_cohort(label_set, seed=cfg.data.get("seed", 0))
    if cfg.studies == "chexpert":
        return chexpert_cohort(label_set, cfg.seed)
    if cfg.studies == "prepared":
        found = load_studies(cfg, cfg.data.home, (cfg.split,), label_set)
        return [study for study in found if any(study.target)]  # as in training
    raise ValueError(f"studies={cfg.studies}: choose phantom, chexpert or prepared")


def adversarial(cfg: DictConfig) -> dict[str, Any]:
    """What each policy earns under each reward, and its F1; ``reward`` -> rows, degenerate ones marked."""
    label_set, prompt = build_labels(cfg), build_prompt(cfg)
    studies = cohort(cfg, label_set)
    levels = sorted({*map(float, cfg.honest), lab.BAR})
    how = {"honest": levels, "n_tokens": cfg.n_tokens, "seed": cfg.seed}
    tried = lab.strategies(studies, label_set, render(prompt, label_set), prompt.grammar, **how)
    tables = {}
    for name, reward in rewards(cfg, studies, label_set).items():
        labels = lab.best_paid_labels(reward, studies, label_set, prompt.grammar)
        best = lab.constant_strategy("best_constant", labels, studies, label_set, prompt.grammar, cfg.n_tokens)
        rows = [_policy_row(reward, strategy, studies, label_set) for strategy in (*tried, best)]
        bar = next(row["reward"] for row in rows if row["policy"] == lab.honest_name(lab.BAR))
        for row in rows:
            row["out_earns"] = not row["honest"] and row["reward"] > bar
        rows.sort(key=lambda row: (row["honest"], row["reward"]), reverse=True)
        tables[name] = {"best_constant": list(labels), "rank_correlation": _agreement(rows), "rows": rows}
    kept = {"studies": cfg.studies, "n": len(studies), "n_tokens": cfg.n_tokens, "prompt": prompt.name}
    return kept | {"prevalence": prevalence_of(studies, label_set), "rewards": tables}


def _agreement(rows: Sequence[Row]) -> dict[str, float | None]:
    """Spearman's correlation, over policies, of what they earn with what it should pay for; None where one is flat."""
    earned, names = torch.tensor([row["reward"] for row in rows]), [row["policy"] for row in rows]
    found = {}
    for score in ("sample_f1", "macro_f1"):
        value, _, _ = lab.rank_correlation(earned, torch.tensor([row[score] for row in rows]), names, n_resamples=0)
        found[score] = None if math.isnan(value) else value
    return found


def scored_file(cfg: DictConfig) -> dict[str, Any]:
    """Mean, parts and rank correlation with F1 of each reward on the answers of ``cfg.completions``, by data set."""
    label_set, grammar, path = build_labels(cfg), cfg.prompt.grammar, Path(cfg.completions)
    if is_predictions(path):
        answers = of_predictions(predictions.read_predictions(path), label_set, grammar)
    else:
        answers = read_answers(path, label_set, grammar, cfg.n_tokens)
    rows = []
    for dataset, own in answers.by_dataset().items():
        for name, reward in rewards(cfg, own.studies, label_set).items():
            row = _answers_row(reward, own, label_set, cfg.n_resamples, cfg.seed)
            rows.append({"reward_name": name, "dataset": dataset} | row)
    return {"completions": str(path), "n": len(answers.completions), "rows": rows}


def _policy_row(reward: Reward, strategy: lab.Strategy, studies: Sequence[Study], label_set: LabelSet) -> Row:
    paid = lab.earn(reward, strategy.completions, studies, label_set, settled=True)
    row = {"policy": strategy.name, "honest": strategy.honest, "reward": paid.mean}
    scores = {"sample_f1": float(paid.f1.mean())} | _label_f1(strategy.completions, studies, label_set)
    return row | scores | _parts(paid)


def _answers_row(reward: Reward, own: Answers, label_set: LabelSet, n_resamples: int, seed: int) -> Row:
    paid = lab.earn(reward, own.completions, own.studies, label_set, settled=False)
    value, low, high = lab.rank_correlation(paid.total, paid.f1, own.owners, n_resamples, seed)
    row = {"n": len(own.studies), "reward": paid.mean, "sample_f1": float(paid.f1.mean())}
    figures = {"rank_correlation": value, "low": low, "high": high}
    return row | {k: None if math.isnan(v) else v for k, v in figures.items()} | _parts(paid)


def _label_f1(completions: Sequence[Completion], studies: Sequence[Study], label_set: LabelSet) -> dict[str, float]:
    """Macro and micro F1 over the labels that some study judges, as every table of the house scores them."""
    pairs = [scored_labels(c, s, label_set) for c, s in zip(completions, studies, strict=True)]
    truth = np.array([label_set.encode(true) for true, _ in pairs], dtype=bool)  # [N, L]
    pred = np.array([label_set.encode(named) for _, named in pairs], dtype=bool)  # [N, L]
    mask = np.array([study.mask for study in studies], dtype=bool)  # [N, L]
    means = averages(confusion(pred, truth, mask).sum(0), mask.any(0))
    return {name: float(means[name]) for name in ("macro_f1", "micro_f1")}


def _parts(paid: lab.Earnings) -> Row:
    """Mean contribution of each part; a part of weight 0 is a metric, with its plain mean."""
    each = paid.weighted()
    return {
        "parts": {name: value for name, value in each.items() if paid.weights[name]},
        "metrics": {name: value for name, value in each.items() if not paid.weights[name]},
    }


def write_earnings(folder: Path, name: str, found: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write all of it as ``<name>.json`` and its rows as ``<name>.csv``, with one column for each figure."""
    write_json(folder / f"{name}.json", found)
    write_text(folder / f"{name}.csv", pd.json_normalize(list(rows), sep="/").to_csv(index=False, lineterminator="\n"))


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print one table a reward: honest answers, then degenerate ones, best paid first."""
    for name, table in found["rewards"].items():
        rows = table["rows"]
        parts = [part for part in rows[0]["parts"] if any(row["parts"][part] for row in rows)]
        title = f"{name}: what policies earn on {found['n']} studies ({found['studies']})"
        ranks = {k: "undefined" if v is None else f"{v:.2f}" for k, v in table["rank_correlation"].items()}
        caption = (
            f"best_constant: {', '.join(table['best_constant'])}\nrank correlation of the reward over these policies: "
        )
        caption += f"{ranks['sample_f1']} with the F1 of an answer, {ranks['macro_f1']} with macro-F1"
        view = Table(title=title, caption=caption)
        view.add_column("policy")
        for column in ("reward", *parts, "F1 of an answer", "macro-F1", "micro-F1"):
            view.add_column(column, justify="right")
        view.add_column("")
        for i, row in enumerate(rows):
            figures = [row["reward"], *(row["parts"][part] for part in parts)]
            scores = [f"{row[k]:.3f}" for k in ("sample_f1", "macro_f1", "micro_f1")]
            cells = [row["policy"], *(f"{v:.4g}" for v in figures), *scores]
            mark = f"out-earns F1 {lab.BAR:g}" if row["out_earns"] else ""
            last_honest = row["honest"] and i + 1 < len(rows) and not rows[i + 1]["honest"]
            view.add_row(*map(Text, (*cells, mark)), end_section=last_honest, style="bold red" if mark else None)
        console.print(view)
    named = {row["policy"] for table in found["rewards"].values() for row in table["rows"]}
    for name, does in ADVERSARIES.items():
        if name in named:
            console.print(f"  {name}: {does}", markup=False, highlight=False)


def show_file(found: Mapping[str, Any], console: Console) -> None:
    """Print one line a reward and data set."""
    view = Table(title=f"{found['n']} answers of {found['completions']}")
    for column in ("reward", "data set", "n", "mean", "its parts", "rank correlation with F1"):
        view.add_column(column)
    for row in found["rows"]:
        parts = ", ".join(f"{name} {value:.4g}" for name, value in row["parts"].items())
        bounds = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
        value = "undefined" if row["rank_correlation"] is None else f"{row['rank_correlation']:.3f}{bounds}"
        cells = (row["reward_name"], row["dataset"], str(row["n"]), f"{row['reward']:.4g}", parts, value)
        view.add_row(*map(Text, cells))
    console.print(view)


@known_choices
@hydra.main(version_base="1.3", config_path=confdir(), config_name="rewards")
@friendly(ValueError, KeyError, OSError)
def main(cfg: DictConfig) -> None:
    """Print the tables and write them to the run directory."""
    console, folder = Console(), Path(cfg.run_dir)
    if cfg.completions is not None:
        scored = scored_file(cfg)
        write_earnings(folder, "completions", scored, scored["rows"])
        show_file(scored, console)
    found = adversarial(cfg)
    rows = [{"reward_name": name} | row for name, table in found["rewards"].items() for row in table["rows"]]
    write_earnings(folder, "adversarial", found, rows)
    show(found, console)
    log.info("written to %s", folder)


if __name__ == "__main__":
    main()
