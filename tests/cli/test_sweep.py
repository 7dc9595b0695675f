"""The paper's tables as sweeps: every cell composes and fits its constructors, every printed row has its cell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from chexreason.build.jobs import cells_of, jobs_of
from chexreason.cli.sweep import costs, show_end, show_plan
from chexreason.cli.tables import sweep_rows
from chexreason.confdir import confdir
from chexreason.reports.printed import TITLES, printed
from chexreason.runs import attempts, record_attempt
from chexreason.sweep.cells import Cell, CellError
from chexreason.sweep.launch import Job, launch
from tests.support.configs import composed, misfits

ROOT = Path(confdir())
SWEEPS = sorted(path.stem for path in (ROOT / "sweep").glob("*.yaml"))
FIGURES = {  # the paper's, with the runs they draw
    "fig1": ["only_label", "free_reasoning", "reasoning_narrative", "reasoning_a"],
    "fig2": ["nuanced"],
    "fig3": ["hard"],
}
PRINTED = [*TITLES, *FIGURES]
BEYOND = [name for name in SWEEPS if name not in PRINTED and name != "paper"]


def cell_config(cell: Cell, scale: str):
    scaled = [f"scale={scale}"] * (cell.verb != "prepare")
    return composed(cell.verb, *cell.arguments(Path("out/x"), 0), "name=x", *scaled)


def every_cell(scale: str, sweeps) -> dict[str, Cell]:
    found: dict[str, Cell] = {}
    for name in sweeps:
        for cell in cells_of(composed("sweep", f"sweep={name}", f"scale={scale}")):
            assert found.setdefault(cell.name, cell) == cell, f"two cells are called {cell.name}"
    return found


@pytest.mark.parametrize("name", PRINTED)
def test_every_printed_row_has_its_cell(name):
    rows = sweep_rows(name)
    cells = OmegaConf.load(ROOT / "sweep" / "cells" / "paper.yaml")
    assert {cells[cell].verb for cell in rows.values()} == {"train" if name in FIGURES else "evaluate"}
    assert len(set(rows.values())) == len(rows)
    if name in FIGURES:
        assert list(rows) == FIGURES[name]
    else:
        assert [printed(name).run(row) for row in rows] == list(printed(name).runs)


def test_the_sweeps_beyond_the_paper_are_there():
    ablations = {"reward", "group_size", "beta", "clip", "prompt", "label_policy", "lora_rank", "alpha", "seeds"}
    assert {*ablations, "ranking"} == set(BEYOND)


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "sweeps"), [("tiny", ["paper", *BEYOND]), ("paper", ["paper", "ranking"])])
def test_every_cell_composes_and_fits_its_constructors(scale, sweeps, monkeypatch):
    for variable in ("MIMIC_ROOT", "CHEXPERT_ROOT", "NIH_ROOT"):
        monkeypatch.setenv(variable, variable.lower())
    cells = every_cell(scale, sweeps)
    used = {word for cell in cells.values() for word in cell.overrides if word.startswith("experiment=")}
    files = {path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.glob("experiment/table*/*.yaml")}
    assert {f"experiment/{word.partition('=')[2]}" for word in used} >= files  # no experiment is forgotten
    for cell in cells.values():
        if cell.adapter is not None and cell.adapter.startswith("train_"):
            continue  # an ablation's copy of a cell that is here itself
        cfg = cell_config(cell, scale)
        assert misfits(cfg) == [], cell.name
        if cell.verb != "prepare":
            assert (cfg.run_dir, cfg.name) == (str(cell.run_dir(Path("out/x"), 0)), "x")
            loaded = cell.parents or (cell.adapter,) * bool(cell.adapter)
            adapters = [f"out/x/{name}/seed0/adapter/{cell.checkpoint}" for name in loaded]
            assert list(cfg.adapters) == adapters
            assert cell.verb != "scores" or cfg.predictions == f"out/x/eval/{cell.of}/seed0/predictions.jsonl"
            assert cfg.data.name == {"tiny": "phantom", "paper": "paper"}[scale]
    for table in PRINTED:
        dataset = composed("sweep", f"sweep={table}").sweep.get("dataset")
        assert dataset is None or dataset[scale] in cfg.data.sets


@pytest.mark.slow
def test_an_experiment_alone_is_the_cell_of_the_sweep_and_takes_its_scale():
    cells = every_cell("tiny", ["table4", "table5"])
    hard = composed("train", "experiment=table4/hard")
    sft = composed("evaluate", "experiment=table5/medgemma_sft", "scale=paper", "seed=2")
    qwen = composed("train", "experiment=table3/only_label", "scale=paper")
    alone = composed("train", "experiment=table4/hard", "arm=grpo_hard", "name=x")
    assert (hard.model.source, hard.phase.name, hard.reward.min_length) == ("tiny:tiny_gemma3", "grpo", 30)
    assert hard.name == "reproduction_tiny"
    assert alone == cell_config(cells["grpo_hard"], "tiny")
    assert sft.adapters == ["out/reproduction_paper/sft_medgemma_free_reasoning/seed2/adapter/best"]
    assert sft.run_dir == "out/reproduction_paper/eval/medgemma_sft/seed2"
    assert (qwen.model.source, qwen.prompt.name) == ("Qwen/Qwen2.5-VL-3B-Instruct", "only_label")
    assert (qwen.phase.lr, qwen.trainer.accelerator, qwen.data.name) == (5e-5, "gpu", "paper")


@pytest.mark.slow
def test_a_plan_prices_what_is_left_and_writes_nothing(tmp_path, capsys):
    cfg = composed("sweep", "sweep=fig2", f"paths.out={tmp_path}", "seeds=[0,1]")
    jobs = jobs_of(cfg, cells_of(cfg))
    assert [job.kind for job in jobs] == ["prepare", "sft", "sft", "grpo", "grpo"]
    assert jobs[4].needs == ("prepare", "sft_medgemma_free_reasoning/seed1")
    assert jobs[1].digest != jobs[2].digest
    show_plan(cfg, jobs)
    assert "0 of 5 done; the rest takes about" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    record_attempt(jobs[1].run_dir, jobs[1].digest, "done", kind="sft", seconds=30.0)
    assert costs(cfg, jobs)[jobs[2].name] == 30.0  # as it took here
    moved = composed("sweep", "sweep=fig2", "paths.out=elsewhere", "seeds=[0,1]")
    assert [job.digest for job in jobs_of(moved, cells_of(moved))] == [job.digest for job in jobs]
    changed = composed("sweep", "sweep=fig2", f"paths.out={tmp_path}", 'extra.train=["phase.lr=1"]')
    assert not {job.digest for job in jobs_of(changed, cells_of(changed))[1:]} & {job.digest for job in jobs}
    broken = composed("sweep", "sweep=fig2", 'extra.train=["phase.rollout=1","experiment=tabel4/hard"]')
    with pytest.raises(CellError, match=r"2 cells of this sweep do not compose:\n.*did you mean table4/hard"):
        jobs_of(broken, cells_of(broken))
    again = composed("sweep", "sweep=fig2", 'extra.train=["restart=true"]')
    with pytest.raises(CellError, match=r"2 cells .*\n.*give it once, to the command itself: python -m "):
        jobs_of(again, cells_of(again))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BEYOND if name != "ranking"])
def test_make_lists_an_ablation_with_its_cells_and_cost(name, tmp_path):
    spent = {}
    for scale in ("tiny", "paper"):
        cfg = composed("sweep", f"sweep={name}", f"scale={scale}", f"paths.out={tmp_path}")
        jobs = jobs_of(cfg, cells_of(cfg))
        spent[scale] = sum(costs(cfg, jobs).values())
    cost = f"({len(jobs)} cells: tiny {spent['tiny'] / 60:.0f} min; paper {spent['paper'] / 3600:.0f} h, a guess)"
    lines = (ROOT.parent / "Makefile").read_text().splitlines()
    assert [line.endswith(cost) for line in lines if line.startswith(f"ablation_{name}:")] == [True], cost


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")
@pytest.mark.parametrize(("status", "tables"), [(0, True), (1, True), (130, False)])
def test_make_shows_what_there_is_and_ends_with_the_status_of_the_sweep(status, tables, tmp_path):
    fake, said = tmp_path / "python", tmp_path / "said"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {said}\ncase "$*" in *cli.sweep*) exit {status};; esac\n')
    fake.chmod(0o755)
    command = ["make", "-o", ".venv/.installed", f"PY={fake}", "OUT=out", "ATTEMPTS=3", "ablation_group_size"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of `make test` itself
    done = subprocess.run(command, cwd=ROOT.parent, env=clean, capture_output=True, text=True, check=False)
    assert (done.returncode, f"Error {status}" in done.stderr) == (2 if status else 0, bool(status))
    lines = said.read_text().splitlines()
    assert lines[0].endswith("attempts=3 paths.out=out sweep=group_size")
    assert [line.split()[-2:] for line in lines[1:]] == [["table=transfer", "ablation=group_size"]] * tables


def test_the_end_shows_what_failed_with_its_log(tmp_path, capsys):
    def job(name: str, status: int, *needs: str) -> Job:
        done = tmp_path / f"{name}.done"
        command = ("sh", "-c", f"touch {done}; exit {status}")
        return Job(name, name, "sft", command, tmp_path / name, done, tmp_path / f"{name}.log", needs)

    jobs = [job("good", 0), job("bad[red]", 3), job("after", 0, "bad[red]")]
    states = launch(jobs, slots=1, limit=1, say=print)
    assert show_end(jobs, states) == 2
    shown = capsys.readouterr()
    assert f"FAILED bad[red]: exit status 3\n    log: {tmp_path}/bad[red].log\n" in shown.err
    assert "BLOCKED after: needs bad[red]\n" in shown.err
    assert "a failed cell is tried again with attempts=2 (make: ATTEMPTS=2)\n" in shown.err
    assert shown.out.endswith("1 of 3 cells done\n")


def listed(*overrides: str) -> str:
    return "[" + ",".join(f'"{word}"' for word in overrides) + "]"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_row_of_table_2_from_nothing_and_again(tmp_path):
    sizes = "data.sets.phantom_a.source.n={sft: 8, rl: 2, val: 4, test: 2}"
    small = [sizes, "data.sets.phantom_b.source.n={val: 2, test: 2}"]
    fast = ["debug=fast", "phase.batch_size=4", "preflight=false", "model.max_new_tokens=8", "callbacks.progress=false"]
    command = [sys.executable, "-m", "chexreason.cli.sweep", "sweep=table2", f"paths.out={tmp_path}", "name=t2"]
    command += [
        "sweep.rows=[{row: only_label, cell: medgemma_only_label}]",
        f"extra.prepare={listed('audit=false', *small)}",
    ]
    command += [f"extra.train={listed(*fast, *small)}", f"extra.evaluate={listed('max_new_tokens=8', *small)}"]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "3 of 3 cells done" in first.stdout
    scored = tmp_path / "t2" / "eval" / "medgemma_only_label" / "seed0"
    assert {"predictions.jsonl", "metrics.json", "DONE"} <= {path.name for path in scored.iterdir()}
    assert len((scored / "predictions.jsonl").read_text().splitlines()) == 4
    run_dirs = [tmp_path / "t2", tmp_path / "t2" / "sft_medgemma_only_label" / "seed0", scored]
    assert [[event["state"] for event in attempts(run_dir)] for run_dir in run_dirs] == [["running", "done"]] * 3
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "started" not in again.stdout
