"""What the rewards pay for: ``python -m chexreason.cli.rewards`` prints it, against policies that look at nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chexreason.cli import command
from chexreason.errors import printable
from chexreason.files import write_json, write_text

if TYPE_CHECKING:
    from chexreason.labels.schema import LabelSet
    from chexreason.rewards.base import Reward
    from chexreason.types import Study

log = logging.getLogger(__name__)


def rewards(cfg: DictConfig, studies: Sequence[Study], label_set: LabelSet) -> dict[str, Reward]:
    """The rewards to look at, by name; those that price labels know the prevalence in the pool, or in ``studies``."""
    from chexreason.build.data import training_prevalence
    from chexreason.build.training import build_reward
    from chexreason.data.prevalence import prevalence_of

    chosen = list(cfg.rewards) if cfg.only is None else list(cfg.only)
    if unknown := [name for name in chosen if name not in cfg.rewards]:
        raise ValueError(
            f"only={chosen}: no reward {unknown}; there are {', '.join(cfg.rewards)}, "
            f"and +reward@rewards.NAME=NAME adds that of conf/reward/NAME.yaml"
        )
    pool = cfg.studies == "prepared"  # the prices of training; made-up studies are their own pool
    return {
        name: build_reward(
            cfg.rewards[name],
            lambda: training_prevalence(cfg, label_set) if pool else prevalence_of(studies, label_set),
        )
        for name in chosen
    }


def cohort(cfg: DictConfig, label_set: LabelSet) -> list[Study]:
    """The studies whose labels are answered; raises ValueError on an unknown kind, and where none is positive."""
    from chexreason.build.data import load_studies
    from chexreason.rewards.lab.cohorts import chexpert_cohort, phantom_cohort

    if cfg.studies == "phantom":
        return phantom_cohort(label_set, seed=cfg.data.get("seed", 0))
    if cfg.studies == "chexpert":
        return chexpert_cohort(label_set, cfg.seed)
    if cfg.studies == "prepared":
        found = load_studies(cfg, cfg.data.home, (cfg.split,), label_set)
        useful = [study for study in found if any(study.target)]  # as in training
        if not useful:
            raise ValueError(
                f"none of the {len(found)} studies of '{cfg.data.home}' in split={cfg.split} has a positive label: "
                "choose another split="
            )
        return useful
    raise ValueError(f"studies={cfg.studies}: choose phantom, chexpert or prepared")


def adversarial(cfg: DictConfig) -> dict[str, Any]:
    """What each policy earns under each reward, and its F1; ``reward`` -> rows, degenerate ones marked."""
    from chexreason.build.data import build_labels, build_prompt
    from chexreason.data.prevalence import prevalence_of
    from chexreason.prompts import render
    from chexreason.rewards.lab import earnings as lab
    from chexreason.rewards.lab.accounts import policy_table

    label_set, prompt = build_labels(cfg), build_prompt(cfg)
    studies, words = cohort(cfg, label_set), render(prompt, label_set)
    how = {"honest": sorted({*map(float, cfg.honest), lab.BAR}), "n_tokens": cfg.n_tokens, "seed": cfg.seed}
    tried = lab.strategies(studies, prompt.answer_format(label_set), words, **how)
    tables = {
        name: policy_table(reward, tried, studies, prompt.answer_format(label_set), cfg.n_tokens)
        for name, reward in rewards(cfg, studies, label_set).items()
    }
    kept = {"studies": cfg.studies, "n": len(studies), "n_tokens": cfg.n_tokens, "prompt": prompt.name}
    return kept | {"prevalence": prevalence_of(studies, label_set), "rewards": tables}


def scored_file(cfg: DictConfig) -> dict[str, Any]:
    """Mean, parts and rank correlation with F1 of each reward on the answers of ``cfg.completions``, by data set."""
    from chexreason.build.data import build_labels, build_prompt
    from chexreason.rewards.lab.accounts import answers_row
    from chexreason.rewards.lab.answers import is_predictions, of_predictions, read_answers
    from chexreason.statistics.predictions import read_predictions

    label_set, path = build_labels(cfg), Path(cfg.completions)
    answer_format = build_prompt(cfg).answer_format(label_set)
    if is_predictions(path):
        answers = of_predictions(read_predictions(path), answer_format)
    else:
        answers = read_answers(path, answer_format, cfg.n_tokens)
    rows = []
    for dataset, own in answers.by_dataset().items():
        for name, reward in rewards(cfg, own.studies, label_set).items():
            row = answers_row(reward, own, label_set, cfg.n_resamples, cfg.seed)
            rows.append({"reward_name": name, "dataset": dataset} | row)
    return {"completions": str(path), "n": len(answers.completions), "rows": rows}


def write_earnings(folder: Path, name: str, found: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Write all of it as ``<name>.json`` and its rows as ``<name>.csv``, with one column for each figure."""
    import pandas as pd

    write_json(folder / f"{name}.json", found)
    write_text(folder / f"{name}.csv", pd.json_normalize(list(rows), sep="/").to_csv(index=False, lineterminator="\n"))


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print one table a reward: honest answers, then degenerate ones, best paid first."""
    from chexreason.rewards.lab.adversaries import ADVERSARIES
    from chexreason.rewards.lab.earnings import BAR

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
            mark = f"out-earns F1 {BAR:g}" if row["out_earns"] else ""
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
        of = f" of {row['n_studies']}" if row["n"] < row["n_studies"] else ""
        cells = (row["reward_name"], row["dataset"], f"{row['n']}{of}", f"{row['reward']:.4g}", parts, value)
        view.add_row(*map(Text, map(printable, cells)))
    console.print(view)


@command()
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
