"""The project's views and report page on Weights & Biases, or offline what they would be made of."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from chexreason.build.jobs import read_sweep
from chexreason.cli import command
from chexreason.files import write_json
from chexreason.sweep.cells import CellError, wanted

log = logging.getLogger(__name__)

ALL_ARMS = "All arms"
_TRAINING = {
    "Training loss": "train/loss",
    "Token accuracy": "train/token_accuracy",
    "Reward": "train/reward",
    "Completion length, tokens": "train/completion_length",
    "Entropy": "train/entropy",
    "Fail rate": "train/fail_rate",
}


def dashboard(cfg: DictConfig) -> dict[str, Any]:
    """Write the views and the page ``cfg`` asks for into ``cfg.folder``, and make them on the server with ``push``.

    Returns what it wrote. Raises CellError on a view that is no sweep or rests on no training, ValueError where
    ``push`` has no entity, ModuleNotFoundError where wandb-workspaces is not installed.
    """
    node = cfg.logger.get("wandb")
    if node is None:
        raise ValueError("logger.wandb is null: compose it with logger=wandb")
    if cfg.push and not node.entity:
        raise ValueError("push=true needs a user or team: logger.wandb.entity=...")
    views = {} if cfg.arms is not None else {view: arms_of(view) for view in cfg.views}
    runs = {ALL_ARMS: list(cfg.arms or dict.fromkeys(arm for arms in views.values() for arm in arms)), **views}
    groups = {title: [f"{cfg.name}/{arm}" for arm in arms] for title, arms in runs.items()}
    place = {"entity": node.entity or "", "project": node.project}
    saved = [_workspace(place, f"{cfg.name}: {title}", found, cfg.data) for title, found in groups.items()]
    page = _page(place, cfg.name, groups, cfg.data)
    written = {"views": [_plain(view) for view in saved], "page": _plain(page)}
    write_json(Path(cfg.folder) / "dashboard.json", written)
    log.info("%d views and a page of %s: %s", len(saved), cfg.name, Path(cfg.folder) / "dashboard.json")
    for made in (*saved, page) if cfg.push else ():
        made.save()
    return written


def arms_of(view: str) -> list[str]:
    """The train cells that a sweep of ``conf/sweep`` rests on."""
    cells = wanted({**read_sweep(view), "cells": read_sweep("cells/paper")})
    arms = [cell.name for cell in cells if cell.verb == "train"]
    if not arms:
        raise CellError(f"sweep={view} trains nothing: there is no run to show")
    return arms


def _workspace(place: Mapping[str, str], title: str, groups: Sequence[str], data: DictConfig) -> Any:
    """A saved view: the runs of ``groups``, seeds together, by what they score at home and elsewhere."""
    ws = _library("workspaces")
    columns = [f"summary:val/{name}/macro_f1.max" for name in (*data.val, *_callbacks("transfer_rules").CHOSEN_BY)]
    x_axis = ws.SectionPanelSettings(x_axis=_callbacks("wandb_run").STEP)
    sections = [
        ws.Section(name=name, panels=panels, is_open=True, panel_settings=x_axis)
        for name, panels in _panels(data.val, data.test).items()
    ]
    runs = ws.RunsetSettings(
        filters=[ws.Metric("Group").isin(list(groups))], groupby=[ws.Metric("Group")], pinned_columns=columns
    )
    return ws.Workspace(**place, name=title, sections=sections, runset_settings=runs)


def _page(place: Mapping[str, str], name: str, groups: Mapping[str, Sequence[str]], data: DictConfig) -> Any:
    """The report page: a heading and the curves of each view."""
    wr, ws = _library("reports.v2"), _library("workspaces")
    note = (
        "Validation curves are for choosing; what is claimed stands in the tables and the transfer report, with "
        "intervals (python -m chexreason.cli.tables). A set's score is over its own labels; worst, mean and "
        "constrained are over those that all sets judge. Steps are optimiser steps of SFT and rollouts of GRPO."
    )
    blocks = [wr.P(note), wr.TableOfContents()]
    for title, found in groups.items():
        runs = wr.Runset(**place, name=title, filters=[ws.Metric("Group").isin(list(found))], groupby=["group"])
        panels = [panel for part in _panels(data.val, data.test).values() for panel in part]
        blocks += [wr.H2(title), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(**place, title=f"{name}: training", blocks=blocks, width="fluid")


def _panels(sets: Sequence[str], test: Sequence[str]) -> dict[str, list[Any]]:
    """The panels by section: transfer and tests first, then training, then the answers."""
    wr = _library("reports.v2")
    scores = {f"Macro-F1, {name}": f"val/{name}/macro_f1" for name in (*sets, *_callbacks("transfer_rules").CHOSEN_BY)}
    scores |= {f"Fail rate, {name}": f"val/{name}/fail_rate" for name in sets}
    scores |= {f"Answers without a known label, {name}": f"val/{name}/no_label_rate" for name in sets}
    home, *away = (wr.SummaryMetric(f"val/{name}/macro_f1.max") for name in sets)
    scatters = [
        wr.ScatterPlot(title=f"Home against {name}", x=home, y=y) for name, y in zip(sets[1:], away, strict=True)
    ]
    answers = wr.WeavePanelSummaryTable(table_name="completions")
    tested = [wr.BarPlot(title=f"Test macro-F1, {name}", metrics=[f"test/{name}/macro_f1"]) for name in test]
    return {
        "Home and away": [*_lines(scores), *scatters],
        "Test sets, by evaluate logger=wandb": tested,
        "Training": _lines(_TRAINING),
        "Answers to the same studies": [answers],
    }


def _lines(metrics: Mapping[str, str]) -> list[Any]:
    wr = _library("reports.v2")
    return [wr.LinePlot(title=title, x=_callbacks("wandb_run").STEP, y=[metric]) for title, metric in metrics.items()]


def _callbacks(module: str) -> Any:
    """A module of ``training.callbacks``: they import Lightning and wandb, which take seconds that --help has not."""
    return importlib.import_module(f"chexreason.training.callbacks.{module}")


def _library(part: str) -> Any:
    try:
        return importlib.import_module(f"wandb_workspaces.{part}")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "wandb-workspaces is not installed: pip install 'chexreason[dashboard]'", name="wandb_workspaces"
        ) from None


def _plain(made: Any) -> Any:
    """What a view or page holds, without the library's own fields: those are random."""
    adapter = importlib.import_module("pydantic").TypeAdapter(type(made))
    return _public(json.loads(adapter.dump_json(made, exclude_none=True)))


def _public(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _public(value) for key, value in node.items() if not key.startswith("_")}
    return [_public(value) for value in node] if isinstance(node, list) else node


main = command(ModuleNotFoundError)(dashboard)

if __name__ == "__main__":
    main()
