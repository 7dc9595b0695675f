"""Run directories: one owner, one config, a DONE marker, time added up over attempts."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from chexreason import renames, runs
from chexreason.cli.train import resume_from
from chexreason.statistics.partial import Partial
from chexreason.training.callbacks.run_files import merge_attempts

CFG = OmegaConf.create({"name": "x", "phase": {"lr": 0.1, "betas": [0.9, 0.95]}, "paths": {"out": "out"}})


def test_a_folder_that_moved_or_is_spelled_in_another_way_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def placed(out: str, lr: float = 0.1):
        made = {"data": {"folder": "${paths.out}/data"}, "adapters": ["${paths.out}/sft", "hub/adapter"], "lr": lr}
        return OmegaConf.create({"paths": {"out": out}, **made, "run_dir": "${paths.out}/x"})

    for spelled in ("out", "./out/", f"{tmp_path}/out"):
        with runs.open_run("out/x", placed(spelled)):
            pass
    (tmp_path / "out").rename(tmp_path / "moved")
    runs.mark_done("moved/x", {})
    with runs.open_run("moved/x", placed("moved")):
        pass
    with pytest.raises(runs.RunError, match=r"moved/x holds a run with another config: lr: 0\.1 -> 0\.2"):
        runs.open_run("moved/x", placed("moved", 0.2)).__enter__()
    elsewhere = OmegaConf.merge(placed("moved"), {"data": {"folder": "outside/data"}})
    with pytest.raises(runs.RunError, match=r"data\.folder: '\$\{paths\.out\}/data' -> 'outside/data'"):
        runs.open_run("moved/x", elsewhere).__enter__()


def test_data_that_moved_are_the_same_and_another_set_is_not():
    def read(place: str, name: str = "nih") -> dict[str, object]:
        return renames.settings({"paths": {"out": "out", "data": place}, "data": {"folder": f"{place}/{name}"}})

    assert read("out/data") == read("/disk/data/") == {"data.folder": "${paths.data}/nih"}
    assert read("out/data") != read("out/data", "mimic")


def test_a_run_of_before_a_key_goes_on_as_it_was_begun_however_often(tmp_path, caplog):
    """The same command composes 0.1 now; a run that was begun with 0 is another matter, and so is another setting."""
    old = OmegaConf.create({"phase": {"name": "sft", "lr": 0.1}})
    with runs.open_run(tmp_path / "old", old):
        keep(tmp_path / "old", runs.CHECKPOINT)
    for _ in range(3):
        cfg = OmegaConf.merge(old, {"phase": {"holdout": 0.1}})
        with runs.open_run(tmp_path / "old", cfg):
            assert cfg.phase.holdout == 0
        assert runs.digest(cfg) == runs.digest(old) != runs.digest(OmegaConf.merge(old, {"phase": {"holdout": 0.1}}))
    assert "was begun before phase.holdout existed: it goes on as begun, with 0" in caplog.text
    with pytest.raises(runs.RunError, match=r"another config: phase\.lr: 0\.1 -> 0\.2\."):
        runs.open_run(tmp_path / "old", OmegaConf.merge(cfg, {"phase": {"lr": 0.2, "holdout": 0.1}})).__enter__()
    with runs.open_run(tmp_path / "new", OmegaConf.merge(old, {"phase": {"holdout": 0}})):
        keep(tmp_path / "new", runs.CHECKPOINT)
    with pytest.raises(runs.RunError, match=r"another config: phase\.holdout: 0 -> 0\.1"):
        runs.open_run(tmp_path / "new", OmegaConf.merge(old, {"phase": {"holdout": 0.1}})).__enter__()


def test_a_replaced_adapter_is_another_run(tmp_path):
    adapter, run_dir = tmp_path / "sft" / "best", tmp_path / "eval"
    cfg = OmegaConf.create({"adapters": [str(adapter)]})

    def opened(weights: str | None) -> None:
        adapter.mkdir(parents=True, exist_ok=True)
        file = adapter / "adapter_model.safetensors"
        file.unlink(missing_ok=True)
        if weights is not None:
            file.write_text(weights)
        with runs.open_run(run_dir, cfg):
            pass

    opened(None)  # it is refused where it is loaded
    opened("first")
    runs.mark_done(run_dir, {})
    opened("first")  # trained again to the same weights
    opened(None)  # removed since: what was made with it stands, and is remembered
    with pytest.raises(
        runs.RunError, match=rf"{run_dir} holds a run with another config: adapters_sha256: .*restart=true"
    ):
        opened("second")
    kept = OmegaConf.load(run_dir / runs.CONFIG)
    del kept[runs.ADAPTERS]  # a run finished before they were recorded
    OmegaConf.save(kept, run_dir / runs.CONFIG)
    (run_dir / runs.DONE).write_text("{}")
    opened("second")
    opened("third")


def begin(run_dir: Path, **changes: object) -> None:
    with runs.open_run(run_dir, OmegaConf.merge({"restart": False}, CFG, changes)):
        pass


def keep(run_dir: Path, what: str) -> None:
    path = run_dir / what
    path.parent.mkdir(exist_ok=True)
    if "partial" in what:
        Partial(run_dir / what.replace(".partial", ""), {"config": "1"}).batch(lambda: [{"study_id": "s"}])
    else:
        path.write_text("{}")


@pytest.mark.parametrize("name", [runs.CHECKPOINT, runs.DONE, runs.STAGE, "predictions.partial.jsonl"])
def test_a_folder_in_the_place_of_a_file_is_named_with_a_way_out(tmp_path, name):
    begin(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(runs.RunError, match=rf"{tmp_path / name} is a folder, where a run keeps a file: move it away"):
        begin(tmp_path)
    (tmp_path / name).rename(tmp_path.with_name(f"{tmp_path.name}-away"))
    begin(tmp_path)


def test_no_rank_goes_on_from_what_restart_sets_aside(tmp_path):
    """A further rank may be faster than the first one, which alone sets the directory aside."""
    keep(tmp_path, runs.CHECKPOINT)
    assert resume_from(tmp_path, OmegaConf.merge(CFG, {"restart": False})) == tmp_path / runs.CHECKPOINT
    assert resume_from(tmp_path, OmegaConf.merge(CFG, {"restart": True})) is None


def test_yaml_nested_too_deeply_is_a_damaged_config(tmp_path):
    (tmp_path / runs.CONFIG).write_text("[" * 10_000)
    with pytest.raises(runs.RunError, match=r"config.yaml is damaged or missing"):
        runs.stored_config(tmp_path)


@pytest.mark.parametrize("value", ["null", "[]", "[1]", "3", '"x"', "true"])
def test_a_sealed_file_that_holds_no_object_is_damaged(tmp_path, value):
    (tmp_path / runs.DONE).write_text(value)
    with pytest.raises(ValueError, match="DONE is damaged: delete it"):
        runs.read_done(tmp_path)


@pytest.mark.parametrize("first", [runs.CHECKPOINT, runs.DONE, "predictions.partial.jsonl", "scores.partial.jsonl"])
def test_a_directory_holds_a_run_from_the_first_result_it_keeps(tmp_path, first):
    run_dir = tmp_path / "run"
    begin(run_dir)
    begin(run_dir, phase={"lr": 0.2})  # what preflight asks for: no result yet
    keep(run_dir, first)
    begin(run_dir, phase={"lr": 0.2})
    with pytest.raises(
        runs.RunError, match=r"phase\.lr: 0\.2 -> 0\.3\. Choose another name=, or .* restart=true"
    ) as fault:
        begin(run_dir, phase={"lr": 0.3})
    assert str(fault.value).startswith(f"{run_dir} holds a run with another config")
    assert (run_dir / first).exists()
    begin(run_dir, phase={"lr": 0.3}, restart=True)  # the way out
    assert not (run_dir / first).exists()
    assert (tmp_path / "run.old-1" / first).exists()
    assert [event["state"] for event in runs.attempts(run_dir)] == ["running", "failed"]


def test_what_another_config_left_that_is_no_result_is_set_aside_and_nothing_is_lost(tmp_path):
    run_dir = tmp_path / "run"
    begin(run_dir)
    keep(run_dir, "adapter/best")
    (run_dir / "predictions.partial.jsonl").write_text('{"header": 1}\n[1')  # no whole batch
    begin(run_dir)
    assert (run_dir / "adapter/best").exists()
    begin(run_dir, phase={"lr": 0.2})
    assert not (run_dir / "adapter").exists()
    assert (tmp_path / "run.old-1" / "adapter" / "best").exists()


def test_a_restart_takes_the_first_free_name_each_time_and_moves_no_other_run(tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    for n in (1, 2):
        begin(run_dir, restart=True)  # nothing is there yet
        keep(run_dir, runs.DONE)
        begin(run_dir, restart=True)  # the same config: at every start
        assert (tmp_path / f"run.old-{n}" / runs.DONE).exists()
    assert not (tmp_path / "run.old-3").exists()
    keep(run_dir, runs.DONE)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # the requeued job goes on
    begin(run_dir, restart=True)
    assert (run_dir / runs.DONE).exists()
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    begin(run_dir / "seed0")  # the directory of an arm that another study keeps by seed
    with pytest.raises(runs.RunError, match="seed0 is a run of its own"):
        begin(run_dir, restart=True)
    with runs.open_run(run_dir, CFG), pytest.raises(runs.RunError, match="in use"):
        begin(run_dir, restart=True)
    assert (run_dir / runs.DONE).exists()


def test_a_run_that_recorded_no_adapters_goes_on(tmp_path):
    begin(tmp_path, adapters=[])
    stored = OmegaConf.load(tmp_path / runs.CONFIG)
    del stored[runs.ADAPTERS]
    OmegaConf.save(stored, tmp_path / runs.CONFIG)
    keep(tmp_path, runs.CHECKPOINT)
    begin(tmp_path, adapters=[])


@pytest.mark.parametrize("restart", [True, False])
def test_the_log_and_the_lock_of_a_restart_are_in_the_new_directory(tmp_path, restart):
    begin(tmp_path / "run")
    keep(tmp_path / "run", runs.DONE)
    handler = logging.FileHandler(tmp_path / "run" / "train.log")
    logging.getLogger().addHandler(handler)
    try:
        with runs.open_run(tmp_path / "run", OmegaConf.merge(CFG, {"restart": restart})):
            logging.getLogger().warning("in the run")
            with pytest.raises(runs.RunError, match="in use"):
                begin(tmp_path / "run")
    finally:
        logging.getLogger().removeHandler(handler)
    assert "in the run" in (tmp_path / "run" / "train.log").read_text()


def test_seconds_add_up_over_attempts(tmp_path):
    for _ in range(2):
        with runs.open_run(tmp_path, CFG):
            time.sleep(0.05)
    stage = json.loads((tmp_path / runs.STAGE).read_text())
    assert 0.1 <= stage["seconds"] < 5
    assert stage["peak_rss_bytes"] > 1e6


def recorded(run_dir: Path, *, body=lambda: None) -> list[dict]:
    with runs.open_run(run_dir, CFG):
        body()
    return runs.attempts(run_dir)


def test_a_run_records_its_attempts(tmp_path):
    def fail(error: BaseException) -> None:
        raise error

    for error, state, facts in (
        (OSError("first line\nno room"), "failed", {"status": 1, "error": "no room"}),
        (KeyboardInterrupt(), "cut", {"status": 130}),
        (SystemExit(3), "failed", {"status": 1, "error": "3"}),
    ):
        with pytest.raises(type(error)):
            recorded(tmp_path, body=lambda error=error: fail(error))
        start, end = runs.attempts(tmp_path)[-2:]
        assert (start["state"], end["state"], start["pid"]) == ("running", state, os.getpid())
        assert end["seconds"] <= end["time"] - start["time"] + 1
        assert {"host", "job_id", "digest"} <= start.keys()
        assert {key: end[key] for key in facts} == facts
    assert recorded(tmp_path)[-1]["error"] == f"ended without {tmp_path}/DONE"
    events = recorded(tmp_path, body=lambda: runs.mark_done(tmp_path, {}))
    assert [event["state"] for event in events[-2:]] == ["running", "done"]
    assert {event["digest"] for event in events} == {runs.digest(CFG)}
    assert recorded(tmp_path) == events  # there was nothing to do


def test_whoever_started_a_run_records_its_attempts(tmp_path, monkeypatch):
    monkeypatch.setenv(runs.ATTEMPT_OF, str(tmp_path / "cell"))
    assert recorded(tmp_path / "cell") == []
    assert [event["state"] for event in recorded(tmp_path / "another")] == ["running", "failed"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(runs.STATES), min_size=1, max_size=6), st.floats(0, 1))
def test_a_file_cut_anywhere_loses_at_most_its_last_line(tmp_path_factory, states, share):
    folder = tmp_path_factory.mktemp("run")
    for state in states:
        runs.record_attempt(folder, "a", state)
    path = folder / runs.ATTEMPTS
    whole = path.read_bytes()
    cut = whole[: round(share * len(whole))]
    path.write_bytes(cut)
    kept = [line for line in whole.split(b"\n") if line and line in cut.split(b"\n")]  # its end of line may be missing
    assert [event["state"] for event in runs.attempts(folder)] == states[: len(kept)]
    assert len(kept) >= cut.count(b"\n")
    runs.record_attempt(folder, "a", "done")
    assert [json.loads(line)["state"] for line in path.read_text().splitlines()] == [*states[: len(kept)], "done"]


@pytest.mark.parametrize(
    "line",
    [
        '{"digest": "b", "state": "done", "time": 1.0, "seconds": null}',
        '{"digest": "b", "state": "done", "time": 1.0, "seconds": NaN}',
        '{"digest": "b", "state": "done", "time": NaN}',
        '{"digest": "b", "state": "perhaps", "time": 1.0}',
        '{"digest": ["b"], "state": "done", "time": 1.0}',
        '{"digest": "b", "sta',
        "[1]",
        "\xff",
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_attempt_is_left_out(tmp_path, line):
    runs.record_attempt(tmp_path, "a", "running")
    with (tmp_path / runs.ATTEMPTS).open("a") as file:
        file.write(line + "\n")
    runs.record_attempt(tmp_path, "a", "done")
    assert [event["state"] for event in runs.attempts(tmp_path)] == ["running", "done"]


def test_a_resumed_attempt_replaces_the_steps_it_repeats(tmp_path):
    for attempt, rows in enumerate(("0,1\n1,1\n2,1\n", "2,9\n3,9\n")):
        folder = tmp_path / "metrics" / f"version_{attempt}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("step,train/loss\n" + rows)
    merged = merge_attempts(tmp_path / "metrics", tmp_path / "metrics.csv")
    assert merged["train/loss"].tolist() == [1, 1, 9, 9]
    assert (tmp_path / "metrics.csv").read_text().startswith("step,train/loss\n0,1\n1,1\n2,9\n")
    for attempt, text in ((2, "step,train/loss\n"), (3, ""), (4, "step,train/loss\n3,8\n")):
        folder = tmp_path / "metrics" / f"version_{attempt}"  # cut before the first row, and before the header
        folder.mkdir()
        (folder / "metrics.csv").write_text(text)
    assert merge_attempts(tmp_path / "metrics", tmp_path / "m.csv")["train/loss"].tolist() == [1, 1, 9, 8]
    with pytest.raises(FileNotFoundError, match=r"no metrics\.csv"):
        merge_attempts(Path(tmp_path / "none"), tmp_path / "x.csv")
