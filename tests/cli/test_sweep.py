"""The paper's tables as sweeps: every cell composes and fits its constructors, every printed row has its cell."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from chexreason.build.jobs import cells_of, jobs_of
from chexreason.cli import command
from chexreason.cli.sweep import costs, show_end, show_plan
from chexreason.confdir import confdir
from chexreason.errors import unknown_choices
from chexreason.runs import attempts, record_attempt
from chexreason.sweep.cells import Cell, CellError
from chexreason.sweep.launch import Job, launch

ROOT = Path(confdir())
SWEEPS = sorted(path.stem for path in (ROOT / "sweep").glob("*.yaml"))
ARMS = ["only_label", "free_reasoning", "reasoning_narrative", "reasoning_a"]
MODELS = ["nv_reason", "medgemma", "qwen2_5_vl", "medgemma_sft", "chexreason"]
STYLES = ["narrative", "self_check", "hypothesis", *"abcdef"]
PRINTED = {  # the paper's rows, in its order; of Tables 5 and 6 the columns
    "table1": [f"reasoning_{style}" for style in STYLES],
    "table2": ARMS,
    "table3": ARMS,
    "table4": ["nuanced,best", "nuanced,last", "hard,best", "hard,last"],
    "table5": MODELS,
    "table6": MODELS,
    "fig1": ARMS,
    "fig2": ["nuanced"],
    "fig3": ["hard"],
}
BEYOND = [name for name in SWEEPS if name not in PRINTED and name != "paper"]


def configured(*overrides: str):
    with initialize_config_dir(confdir(), version_base="1.3"):
        return compose("sweep", list(overrides))


def composed(cell: Cell, scale: str):
    with initialize_config_dir(confdir(), version_base="1.3"):
        given = [*cell.arguments(Path("out/x"), 0), "name=x"]
        return compose(cell.verb, given + ([] if cell.verb == "prepare" else [f"scale={scale}"]))


def targets(node: object):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


def every_cell(scale: str, sweeps) -> dict[str, Cell]:
    found: dict[str, Cell] = {}
    for name in sweeps:
        for cell in cells_of(configured(f"sweep={name}", f"scale={scale}")):
            assert found.setdefault(cell.name, cell) == cell, f"two cells are called {cell.name}"
    return found


@pytest.mark.parametrize("table", PRINTED)
def test_every_printed_row_has_its_cell(table):
    node = OmegaConf.load(ROOT / "sweep" / f"{table}.yaml")
    cells = OmegaConf.load(ROOT / "sweep" / "cells" / "paper.yaml")
    assert [row.row for row in node.rows] == PRINTED[table]
    verb = "train" if table.startswith("fig") else "evaluate"
    assert {cells[row.cell].verb for row in node.rows} == {verb}
    assert len({row.cell for row in node.rows}) == len(node.rows)


def test_the_sweeps_beyond_the_paper_are_there():
    ablations = {"reward", "group_size", "beta", "clip", "prompt", "label_policy", "lora_rank", "seeds"}
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
        cfg = composed(cell, scale)
        node = OmegaConf.to_container(cfg, resolve=True)
        for target in targets(node):
            signature = inspect.signature(get_object(target["_target_"]))
            if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values()):
                given = {key for key in target if not key.startswith("_")}
                assert given <= set(signature.parameters) | {"eval_batch_size", "max_new_tokens"}, cell.name
        if cell.verb != "prepare":
            assert (cfg.run_dir, cfg.name) == (str(cell.run_dir(Path("out/x"), 0)), "x")
            assert list(cfg.adapters) == (
                [f"out/x/{cell.adapter}/seed0/adapter/{cell.checkpoint}"] * bool(cell.adapter)
            )
            assert cell.verb != "scores" or cfg.predictions == f"out/x/eval/{cell.of}/seed0/predictions.jsonl"
            assert cfg.data.name == {"tiny": "phantom", "paper": "paper"}[scale]
    for table in PRINTED:
        dataset = configured(f"sweep={table}").sweep.get("dataset")
        assert dataset is None or dataset[scale] in cfg.data.sets


@pytest.mark.slow
def test_an_experiment_alone_is_the_cell_of_the_sweep_and_takes_its_scale():
    cells = every_cell("tiny", ["table4", "table5"])
    with initialize_config_dir(confdir(), version_base="1.3"):
        hard = compose("train", ["experiment=table4/hard"])
        sft = compose("evaluate", ["experiment=table5/medgemma_sft", "scale=paper", "seed=2"])
        qwen = compose("train", ["experiment=table3/only_label", "scale=paper"])
        alone = compose("train", ["experiment=table4/hard", "arm=grpo_hard", "name=x"])
    assert (hard.model.source, hard.phase.name, hard.reward.min_length) == ("tiny:tiny_gemma3", "grpo", 30)
    assert hard.name == "reproduction_tiny"
    assert alone == composed(cells["grpo_hard"], "tiny")
    assert sft.adapters == ["out/reproduction_paper/sft_medgemma_free_reasoning/seed2/adapter/best"]
    assert sft.run_dir == "out/reproduction_paper/eval/medgemma_sft/seed2"
    assert (qwen.model.source, qwen.prompt.name) == ("Qwen/Qwen2.5-VL-3B-Instruct", "only_label")
    assert (qwen.phase.lr, qwen.trainer.accelerator, qwen.data.name) == (5e-5, "gpu", "paper")


@pytest.mark.slow
def test_a_plan_prices_what_is_left_and_writes_nothing(tmp_path, capsys):
    cfg = configured("sweep=fig2", f"paths.out={tmp_path}", "seeds=[0,1]")
    jobs = jobs_of(cfg, cells_of(cfg))
    assert [job.kind for job in jobs] == ["prepare", "sft", "sft", "grpo", "grpo"]
    assert jobs[4].needs == ("prepare", "sft_medgemma_free_reasoning/seed1")
    assert jobs[1].digest != jobs[2].digest
    show_plan(cfg, jobs)
    assert "0 of 5 done; the rest takes about" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    record_attempt(jobs[1].run_dir, jobs[1].digest, "done", kind="sft", seconds=30.0)
    assert costs(cfg, jobs)[jobs[2].name] == 30.0  # as it took here
    moved = configured("sweep=fig2", "paths.out=elsewhere", "seeds=[0,1]")
    assert [job.digest for job in jobs_of(moved, cells_of(moved))] == [job.digest for job in jobs]
    changed = configured("sweep=fig2", f"paths.out={tmp_path}", 'extra.train=["phase.lr=1"]')
    assert not {job.digest for job in jobs_of(changed, cells_of(changed))[1:]} & {job.digest for job in jobs}
    broken = configured("sweep=fig2", 'extra.train=["phase.rollout=1","experiment=tabel4/hard"]')
    with pytest.raises(CellError, match=r"2 cells of this sweep do not compose:\n.*did you mean table4/hard"):
        jobs_of(broken, cells_of(broken))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BEYOND if name != "ranking"])
def test_make_lists_an_ablation_with_its_cells_and_cost(name, tmp_path):
    spent = {}
    for scale in ("tiny", "paper"):
        cfg = configured(f"sweep={name}", f"scale={scale}", f"paths.out={tmp_path}")
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


def test_unknown_names_get_the_closest_one(monkeypatch, capsys):
    assert unknown_choices(["experiment=table2/only_labl"]) == [
        "there is no experiment=table2/only_labl: did you mean table2/only_label?"
    ]
    assert "did you mean table2?" in unknown_choices(["sweep=tabel2"])[0]
    assert "did you mean table2/free_reasoning?" in unknown_choices(["experiment=free_reasonin"])[0]
    assert "; choose one of: paper, tiny" in unknown_choices(["scale=enormous"])[0]
    fine = ["reward=hard,nuanced", "debug=null", "name=x", "phase.lr=1", "-m", "+scale=tiny", "prompt=${x}", "seed=0"]
    assert unknown_choices(fine) == []
    assert unknown_choices(["--config-dir=mine", "experiment=mine"]) == []
    monkeypatch.setattr(sys, "argv", ["train", "experiment=demo_sfd", "phase=grpoo"])
    with pytest.raises(SystemExit) as stopped:
        command()(lambda cfg: pytest.fail("it ran"))()
    assert stopped.value.code == 1
    assert "did you mean demo_sft?\n       there is no phase=grpoo: did you mean grpo?" in capsys.readouterr().err


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
    as_an_earlier_version_left_it(tmp_path / "t2", run_dirs)
    converted = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line.split("] - ")[-1] for line in converted.stdout.splitlines() if "started" in line] == [
        "prepare: started"
    ]
    assert (tmp_path / "t2" / "ledger.jsonl.converted").is_file()


def as_an_earlier_version_left_it(study: Path, run_dirs: list[Path]) -> None:
    """One ledger in place of the attempts, digests that are no longer computed, and targets under their old names."""
    with (study / "ledger.jsonl").open("w") as ledger:
        for run_dir in run_dirs:
            for event in attempts(run_dir):
                ledger.write(
                    json.dumps(event | {"digest": f"old-{run_dir.parent.name}", "run_dir": str(run_dir)}) + "\n"
                )
            (run_dir / "attempts.jsonl").unlink()
            if (config := run_dir / "config.yaml").is_file():
                text = config.read_text().replace("chexreason.model.load", "chexreason.policy.load")
                config.write_text(text.replace("chexreason.phantom.", "chexreason.data.sources.phantom."))
