"""Old names: stored configs are read in today's, and a user's own config is refused with the new one."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from chexreason import renames
from chexreason.build.data import make
from chexreason.confdir import confdir
from chexreason.runs import as_begun

OLD, NEW = "chexreason.policy.generate.Sampling", "chexreason.model.generate.Sampling"


def test_every_moved_target_is_where_the_table_says() -> None:
    assert not set(renames.MOVED) & set(renames.MOVED.values())  # no name moves twice: one look-up is enough
    for target in set(renames.MOVED.values()) - {"chexreason.model.vllm_engine.VllmEngine"}:
        assert get_object(target)


def test_stored_settings_are_read_in_todays_names(monkeypatch) -> None:
    monkeypatch.setattr(renames, "RENAMED", {"phase.old": "phase.new"})
    monkeypatch.setattr(renames, "ADDED", {"phase.later": 3})
    monkeypatch.setattr(renames, "REMOVED", {"phase.gone": "leave it out"})
    stored = {"phase.old": 1, "phase.gone": 2, "a._target_": OLD, "name": "x"}
    assert renames.current(stored) == {"phase.new": 1, "phase.later": 3, "a._target_": NEW, "name": "x"}
    assert renames.current({"phase.later": 4}) == {"phase.later": 4}
    assert list(renames.old_names(stored)) == [
        "phase.old is now called phase.new: write phase.new=1",
        "phase.gone was removed: leave it out",
        f"a._target_={OLD} has moved: write {NEW}",
    ]


def test_a_run_on_phantoms_of_before_doses_and_of_an_old_shift_is_the_same_run() -> None:
    data = OmegaConf.load(Path(confdir(), "data", "phantom.yaml"))
    data.folder, data.shift = "d", "annotation"
    now = {
        "phase": {"name": "sft"},
        "data": OmegaConf.to_container(OmegaConf.create({"data": data}).data, resolve=True),
    }
    before = deepcopy(now)
    before["data"]["shift"] = before["data"]["sets"]["phantom_b"]["source"]["shift"] = "labels"
    for added in (before["data"], *before["data"]["sets"].values()):
        del added["label_list"]
    del before["data"]["sets"]["phantom_b"]["source"]["dose"]
    assert renames.changes(before, now) == []
    now["data"]["sets"]["phantom_b"]["source"]["dose"] = 2.0
    assert renames.changes(before, now) == ["data.sets.phantom_b.source.dose: 1.0 -> 2.0"]


def test_where_the_data_may_go_is_no_other_run() -> None:
    before, now = ({"data": {"sets": {"a": {"policy": "ignore", **said}}}} for said in ({}, {"public": True}))
    assert renames.settings(before) == renames.settings(now)


def test_a_run_begun_before_families_had_names_is_the_run_of_the_packages_own_alone(tmp_path, caplog) -> None:
    before = {"paths": {"out": "o"}, "phase": {"name": "sft"}, "model": {"source": "tiny:tiny_gemma3"}}
    OmegaConf.save(OmegaConf.create(before), tmp_path / "config.yaml")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    for family, differs in (("chexreason.model.family.Gemma3", []), ("mine.Family", ["model.family: None -> 'mine.F"])):
        now = before | {"model": before["model"] | {"family": family}}
        assert [line[:29] for line in renames.changes(before, now)] == differs
        assert "model.family" in as_begun(tmp_path, config := OmegaConf.create(now))
        assert config.model.family == (None if differs else family)
        assert len(caplog.messages) == len(differs)  # it goes on as begun, and says so


def test_a_config_that_names_what_moved_is_refused_with_the_new_name() -> None:
    with pytest.raises(ValueError, match=rf"{OLD} is now {NEW}: write that after _target_"):
        make({"_target_": OLD, "max_new_tokens": 3})


@pytest.mark.slow
def test_a_users_own_config_with_an_old_name_is_refused_at_the_door(tmp_path: Path) -> None:
    (tmp_path / "rollout").mkdir()
    engine = "# Mine.\n_target_: chexreason.policy.engine.SharedPrefixEngine\n"
    (tmp_path / "rollout" / "mine.yaml").write_text(engine)
    words = [f"--config-dir={tmp_path}", "phase=grpo", "rollout=mine", f"paths.out={tmp_path}/out"]
    command = [sys.executable, "-m", "chexreason.cli.train", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("error: ")
    assert said.endswith(
        "rollout._target_=chexreason.policy.engine.SharedPrefixEngine has moved: "
        "write chexreason.model.generate.SharedPrefixEngine"
    )
    assert not (tmp_path / "out" / "run" / "grpo" / "seed0" / "config.yaml").exists()
