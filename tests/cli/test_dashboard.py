"""The dashboard without a server: whose runs each view shows, which figures, and that the library takes it."""

from __future__ import annotations

import json

import pytest

from chexreason.cli.dashboard import ALL_ARMS, arms_of, dashboard
from chexreason.sweep.cells import CellError
from tests.support.configs import composed


def test_a_view_shows_the_runs_its_table_rests_on():
    assert arms_of("table3") == [
        "sft_qwen_only_label", "sft_qwen_free_reasoning", "sft_qwen_reasoning_narrative", "sft_qwen_reasoning_a",
    ]  # fmt: skip
    assert arms_of("table4") == ["sft_medgemma_free_reasoning", "grpo_nuanced", "grpo_hard"]
    assert arms_of("table5") == ["sft_medgemma_free_reasoning", "grpo_hard"]
    assert {arm.removeprefix("train_") for arm in arms_of("beta")} > {"sft_medgemma_free_reasoning"}
    with pytest.raises(CellError, match="sweep=table1 trains nothing"):
        arms_of("table1")
    with pytest.raises(CellError, match=r"there is no sweep=tabel4: did you mean table4\?"):
        arms_of("tabel4")


def test_what_cannot_be_pushed_is_said_before_anything_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"push=true needs a user or team: logger.wandb.entity="):
        dashboard(composed("dashboard", f"paths.out={tmp_path}", "push=true"))
    with pytest.raises(ValueError, match=r"logger.wandb is null"):
        dashboard(composed("dashboard", f"paths.out={tmp_path}", "logger=csv"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_dry_run_writes_the_same_views_and_page_each_time(tmp_path):
    pytest.importorskip("wandb_workspaces", reason="pip install wandb-workspaces")
    cfg = composed("dashboard", f"paths.out={tmp_path}", "name=demo", "views=[table4, beta]")
    written = dashboard(cfg)
    path = tmp_path / "demo" / "dashboard" / "dashboard.json"
    first = path.read_bytes()
    assert json.loads(first) == written
    assert [view["name"] for view in written["views"]] == [f"demo: {title}" for title in (ALL_ARMS, "table4", "beta")]
    filters = written["views"][1]["runset_settings"]["filters"]
    assert (
        filters == "Metric(\"Group\") in ['demo/sft_medgemma_free_reasoning', 'demo/grpo_nuanced', 'demo/grpo_hard']"
    )  # as conf/logger/wandb.yaml groups them
    home = written["views"][1]["sections"][0]["panels"]
    metrics = [panel["y"] for panel in home if "y" in panel]
    assert ["val/phantom_b/macro_f1"] in metrics
    assert ["val/constrained/macro_f1"] in metrics
    assert written["views"][1]["sections"][1]["panels"][0]["metrics"] == ["test/phantom_a/macro_f1"]
    assert "completions" in json.dumps(written["views"][1]["sections"][3])
    assert json.dumps(written["page"]).count('"text": "beta"') == 1
    dashboard(cfg)
    assert path.read_bytes() == first


@pytest.mark.slow
def test_push_saves_what_the_library_takes(tmp_path, monkeypatch):
    ws = pytest.importorskip("wandb_workspaces.workspaces", reason="pip install wandb-workspaces")
    wr = pytest.importorskip("wandb_workspaces.reports.v2", reason="pip install wandb-workspaces")
    sent = []
    monkeypatch.setattr(ws.Workspace, "save", lambda self: sent.append(self._to_model()))
    monkeypatch.setattr(wr.Report, "save", lambda self: sent.append(self))  # its runs are looked up on the server
    pushed = ("name=demo", "arms=[sft,grpo]", "push=true", "logger.wandb.entity=e")
    dashboard(composed("dashboard", f"paths.out={tmp_path}", *pushed))
    demo, page = sent
    runs = demo.spec.section.run_sets[0]
    assert runs.filters["filters"][0]["key"] == {"section": "run", "name": "group"}
    assert "summary:val/phantom_b/macro_f1.max" in runs.run_feed.column_pinned
    assert (demo.entity, demo.project, page.entity) == ("e", "chexreason", "e")
