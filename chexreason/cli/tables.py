"""The paper's tables and figures from finished runs: ``python -m chexreason.cli.tables scale=tiny table=table2``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from chexreason.build.data import build_labels, training_prevalence
from chexreason.build.jobs import read_sweep
from chexreason.cli import command
from chexreason.data.prepare import MANIFEST_NAME
from chexreason.errors import did_you_mean
from chexreason.files import read_sealed, write_text
from chexreason.reports.figures import FIGURES, draw_curves, draw_printed
from chexreason.reports.history import Curve, read_history
from chexreason.reports.printed import TITLES, printed_page
from chexreason.reports.provenance import Origin
from chexreason.reports.ranking_page import write_ranking
from chexreason.reports.result_table import write_table
from chexreason.reports.transfer_page import write_transfer
from chexreason.runs import CONFIG, PREDICTIONS, RunError, is_done, read_done, stored_config
from chexreason.statistics.predictions import read_predictions
from chexreason.statistics.score_files import MADE_FOR, check_made_for, one_reasoning, read_scores
from chexreason.types import Prediction

log = logging.getLogger(__name__)
_EVERY = (*TITLES, *FIGURES, "transfer", "ranking", "paper")
_RANKING_RESAMPLES = 2_000  # at most: each costs a sort of every label's scores; the page says how many it used


def tables(cfg: DictConfig) -> None:
    """Write ``cfg.table``, or all of them, into ``cfg.results``; what has no run yet is left out and said.

    With ``cfg.ablation`` the transfer and ranking reports compare that sweep's arms, in a folder of its name.
    Raises ValueError on an unknown table, and where runs cannot stand in one table; of all of them the others are
    written first.
    """
    if cfg.table not in (known := ("all", *_EVERY)):
        raise ValueError(
            f"unknown table={cfg.table}" + (did_you_mean(cfg.table, known) or f"; choose one of: {', '.join(known)}")
        )
    refused = []
    for name in _EVERY if cfg.table == "all" else (cfg.table,):
        try:
            _write(cfg, name, Path(cfg.results) / (cfg.ablation or ""))
        except (ValueError, KeyError, OSError, RunError) as fault:
            if cfg.table != "all":
                raise
            refused.append(f"{name}: {fault.args[0] if isinstance(fault, KeyError) else fault}")
    if refused:
        raise ValueError(f"the others are written; not {len(refused)} of {len(_EVERY)}:\n" + "\n".join(refused))


def _write(cfg: DictConfig, name: str, out: Path) -> None:
    if name in TITLES:
        _table(cfg, name, out)
    elif name in FIGURES:
        _figure(cfg, name, out)
    elif name == "transfer":
        _transfer(cfg, out)
    elif name == "ranking":
        _ranking(cfg, out)
    else:
        write_text(out / "paper.md", printed_page())
        draw_printed(out / "pareto_paper")
        log.info("paper: what its own tables say, %s", out / "paper.md")


def _table(cfg: DictConfig, name: str, out: Path) -> None:
    rows = sweep_rows(name)
    runs = {row: seeds for row, cell in rows.items() if (seeds := predictions_of(cfg, cell))}
    prepared = (Path(cfg.data.folder) / cfg.data.home / MANIFEST_NAME).is_file()
    write_table(
        name, runs, out, dataset=_dataset(cfg, name), label_set=build_labels(cfg),
        prevalence=training_prevalence(cfg, build_labels(cfg), needed=False) if prepared else {},
        origins={row: origin_of(cfg, rows[row]) for row in runs}, n_resamples=cfg.n_resamples, seed=cfg.seed,
    )  # fmt: skip
    not_run = [cell for row, cell in rows.items() if row not in runs]
    log.info("%s: %d of %d runs, %s%s", name, len(runs), len(rows), out / f"{name}.md", _shown(not_run))


def _figure(cfg: DictConfig, name: str, out: Path) -> None:
    runs: dict[str, Mapping[str, Curve]] = {}
    rows, not_run, studies = sweep_rows(name), [], {}
    for row, cell in rows.items():
        folders = _seed_folders(Path(cfg.paths.out) / cfg.name / cell)
        for folder in filter(is_done, folders.values()):
            read_done(folder)  # it vouches for the curves
        found = {seed: path for seed, folder in folders.items() if (path := folder / "metrics.csv").is_file()}
        for k, path in found.items():
            run = row if len(found) == 1 else f"{row}, seed {k}"
            runs[run], studies[run] = read_history(path), _studies_a_rollout(path.parent)
        not_run += [] if found else [row]
    if not runs:
        log.info("%s: not drawn, none of its runs has a metrics.csv: %s", name, ", ".join(rows.values()))
        return
    draw_curves(name, runs, out, not_run, studies if all(studies.values()) else None)
    log.info("%s: %d of %d runs, %s", name, len(rows) - len(not_run), len(rows), out / f"{name}.svg")


def _studies_a_rollout(folder: Path) -> int:
    """Studies that all ranks of a GRPO run answer in a rollout, a logged step; 0 of SFT, and without a config."""
    kept = stored_config(folder) if (folder / CONFIG).is_file() else {}
    if "rollouts" not in kept.get("phase", {}):
        return 0
    devices, nodes = kept["trainer"]["devices"], kept["trainer"].get("num_nodes", 1)
    return int(kept["phase"]["batch_size"] * (devices * nodes if isinstance(devices, int) else 1))


def _transfer(cfg: DictConfig, out: Path) -> None:
    home, *away = sorted(cfg.data.test, key=lambda name: name != cfg.data.home)
    arms = _arms(cfg)
    if len(arms) < 2 or not away:
        log.info("transfer: left out, it needs two arms (found: %s) and two test sets", ", ".join(arms) or "none")
        return
    shared = _compared(cfg, arms)
    said = write_transfer(
        arms, out, home=home, away=away, place="home" if home == cfg.data.home else "benchmark",
        n_resamples=cfg.n_resamples, n_permutations=cfg.n_permutations, **shared,
    )  # fmt: skip
    log.info("transfer: %s%s\n%s", out / "transfer.md", _shown(shared["not_run"]), "\n".join(said))


def _ranking(cfg: DictConfig, out: Path) -> None:
    arms: dict[str, list[tuple[list[Prediction], pd.DataFrame]]] = {}
    for arm, seeds in _arms(cfg).items():
        answered, scored = (_folders(cfg, kind, _cells(cfg)[arm]) for kind in ("eval", "scores"))
        if both := [(seeds[k], made_scores(scored[k], answered[k])) for k in seeds if k in scored]:
            arms[arm] = both
    if not arms:
        root = Path(cfg.paths.out) / cfg.name / "scores"
        log.info("ranking: left out, no label scores in %s: make ranking, or chexreason.cli.scores for the arms", root)
        return
    one_reasoning(frame for both in arms.values() for _, frame in both)
    shared = _compared(cfg, arms)
    write_ranking(
        arms, out, sets=list(cfg.data.test), kind=cfg.scores,
        n_resamples=min(cfg.n_resamples, _RANKING_RESAMPLES), **shared,
    )  # fmt: skip
    log.info("ranking: %s of %s%s", out / "ranking.md", ", ".join(arms), _shown(shared["not_run"]))


def _compared(cfg: DictConfig, arms: Iterable[str]) -> dict[str, Any]:
    """What the pages that compare ``arms`` are told alike: labels, origins, the arms that lack, the seed."""
    cells = _cells(cfg)
    return {
        "label_set": build_labels(cfg),
        "origins": {arm: origin_of(cfg, cells[arm]) for arm in arms},
        "not_run": [arm for arm in cells if arm not in arms],
        "seed": cfg.seed,
    }


def made_scores(folder: Path, answered: Path) -> pd.DataFrame:
    """The label scores of ``folder``; raises ValueError where they were made for other answers than ``answered``'s."""
    if made_for := read_done(folder).get(MADE_FOR):
        check_made_for(made_for, answered / "predictions.jsonl", folder)
    else:
        log.warning("%s does not record which answers it was made for: scored before that was written", folder)
    return read_scores(folder / "scores.parquet")


def _cells(cfg: DictConfig) -> dict[str, str]:
    """The cell of each arm that is compared: ``cfg.arms``, or those of ``cfg.ablation``, or of Table 5."""
    return {cell: cell for cell in cfg.arms} if cfg.arms is not None else sweep_rows(cfg.ablation or "table5")


def _arms(cfg: DictConfig) -> dict[str, dict[int, list[Prediction]]]:
    """The finished arms that are compared; raises FileNotFoundError where one of ``cfg.arms`` is missing."""
    arms = {arm: seeds for arm, cell in _cells(cfg).items() if (seeds := predictions_of(cfg, cell))}
    if cfg.arms is not None and (missing := [arm for arm in cfg.arms if arm not in arms]):
        folder = Path(cfg.paths.out) / cfg.name / "eval"
        raise FileNotFoundError(
            f"no finished evaluation of {', '.join(missing)} in {folder}: evaluate these arms first"
        )
    return arms


def _shown(not_run: Sequence[str]) -> str:
    return f"; not run: {', '.join(not_run)}" if not_run else ""


def sweep_rows(name: str) -> dict[str, str]:
    """The cell that feeds each printed row, from ``conf/sweep/<name>.yaml``; of an ablation each arm's."""
    sweep = read_sweep(name)
    if "ablation" in sweep:
        return {arm: arm for arm in sweep["ablation"]["arms"]}
    return {node["row"]: node["cell"] for node in sweep["rows"]}


def predictions_of(cfg: DictConfig, cell: str) -> dict[int, list[Prediction]]:
    """The finished predictions of a cell by seed; empty where it was not run or is not DONE."""
    folders = _folders(cfg, "eval", cell)
    for folder in folders.values():
        read_done(folder)  # it vouches for the answers
    return {seed: read_predictions(path / PREDICTIONS) for seed, path in folders.items()}


def origin_of(cfg: DictConfig, cell: str) -> Origin:
    """How a cell's answers came about, from the config its evaluation kept; empty where there is none."""
    for folder in _folders(cfg, "eval", cell).values():
        if (folder / CONFIG).is_file():
            kept = stored_config(folder)
            chosen = [name for adapter in kept["adapters"] for name in _chosen_on(Path(adapter), kept["data"]["val"])]
            return Origin(kept["split"], kept["model"]["source"], tuple(dict.fromkeys(chosen)))
    return Origin()


def _chosen_on(adapter: Path, known: Sequence[str]) -> Sequence[str]:
    """The sets that chose this adapter, by its card; ``known`` where that of a best one is absent, damaged or older."""
    if adapter.name != "best":
        return ()
    try:
        return read_sealed(adapter / "chexreason.json", "")["chosen_on"]  # type: ignore[no-any-return]
    except (ValueError, KeyError):
        return known


def chosen_share(adapter: Path, dataset: str) -> float | None:
    """The share of a set's validation patients that did not choose this adapter; None where none of them did."""
    if dataset not in _chosen_on(adapter, [dataset]):
        return None
    try:
        return float(read_sealed(adapter / "chexreason.json", "")["tuning"])
    except (ValueError, KeyError):
        return 0.0


def _folders(cfg: DictConfig, kind: str, cell: str) -> dict[int, Path]:
    """The finished run folders of a cell by seed; ``kind`` is eval or scores."""
    folder = Path(cfg.paths.out) / cfg.name / kind / cell
    folders = _seed_folders(folder) or {0: folder}  # a demo's arm has no folder a seed
    return {seed: path for seed, path in folders.items() if is_done(path)}


def _seed_folders(folder: Path) -> dict[int, Path]:
    found = {path.name.removeprefix("seed"): path for path in folder.glob("seed*")}
    return {int(seed): found[seed] for seed in sorted(filter(str.isdecimal, found), key=int)}


def _dataset(cfg: DictConfig, name: str) -> str:
    """Where a table is measured: ``cfg.sets``, else the sweep's set that the data config has."""
    if name in (cfg.sets or {}):
        return str(cfg.sets[name])
    choices = read_sweep(name)["dataset"]
    for dataset in choices.values():
        if dataset in cfg.data.sets:
            return str(dataset)
    raise ValueError(
        f"{name} is measured on {' or '.join(choices.values())}, and data={cfg.data.name} has only "
        f"{', '.join(cfg.data.sets)}: choose another scale= or data=, or say 'sets={{{name}: <set>}}'"
    )


main = command(RunError)(tables)

if __name__ == "__main__":
    main()
