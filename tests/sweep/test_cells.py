"""The cells' graph: read, closed over needs, varied; every fault of a file in one message."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.sweep.cells import Cell, CellError, ordered, read_cells, vary

RAW = {
    "prepare": {"verb": "prepare", "overrides": ["data=phantom"]},
    "sft": {"verb": "train", "overrides": ["experiment=a"]},
    "grpo": {"verb": "train", "overrides": ["experiment=b"], "adapter": "sft"},
    "scored": {"verb": "evaluate", "adapter": "grpo", "checkpoint": "last", "needs": ["sft"]},
    "bare": {"verb": "evaluate"},
    "sure": {"verb": "scores", "of": "scored", "overrides": ["samples=2"]},
}


def test_a_target_brings_what_it_needs_and_nothing_else():
    cells = read_cells(RAW)
    assert [cell.name for cell in ordered(cells, ["scored"])] == ["prepare", "sft", "grpo", "scored"]
    assert [cell.name for cell in ordered(cells, ["bare", "sft", "bare"])] == ["prepare", "bare", "sft"]
    with pytest.raises(CellError, match="scord is no cell: did you mean scored"):
        ordered(cells, ["scord"])


def test_where_a_cell_runs_and_what_it_is_told():
    cell = read_cells(RAW)["scored"]
    assert cell.run_dir(Path("out/x"), 3) == Path("out/x/eval/scored/seed3")
    assert cell.arguments(Path("out/x"), 3) == ["arm=scored", "seed=3", "adapters=['out/x/grpo/seed3/adapter/last']"]
    train = read_cells(RAW)["sft"]
    assert train.run_dir(Path("out/x"), 0) == Path("out/x/sft/seed0")
    assert train.arguments(Path("out/x"), 0) == ["experiment=a", "arm=sft", "seed=0"]
    assert Cell("prepare", "prepare", ("data=phantom",)).arguments(Path("out"), 0) == ["data=phantom"]


def test_a_scores_cell_loads_what_it_scores_as_it_was_evaluated():
    cells = read_cells(RAW | {"scored": RAW["scored"] | {"overrides": ["experiment=c"]}})
    sure = cells["sure"]
    assert set(sure.needs) == {"prepare", "grpo", "scored"}
    assert sure.run_dir(Path("out/x"), 3) == Path("out/x/scores/scored/seed3")
    assert sure.arguments(Path("out/x"), 3) == [
        "experiment=c",
        "samples=2",
        "arm=scored",
        "seed=3",
        "adapters=['out/x/grpo/seed3/adapter/last']",
        "predictions='out/x/eval/scored/seed3/predictions.jsonl'",
        "run_dir='out/x/scores/scored/seed3'",
    ]


def test_every_fault_is_listed_at_once():
    faulty = {
        "a": {"verb": "trian", "override": []},
        "b": {"verb": "evaluate", "adapter": "bare", "checkpoint": "first"},
        "c": {"verb": "train", "needs": ["bar"]},
        "d": {"verb": "scores"},
        "e": {"verb": "scores", "of": "c"},
        "f": {"verb": "evaluate", "of": "bare"},
        "g": {"verb": "scores", "of": "bara"},
        "h": {"verb": "blend", "parents": ["c", "bare"]},
        "i": {"verb": "blend", "parents": ["c"]},
        "bare": {"verb": "evaluate"},
    }
    with pytest.raises(CellError) as raised:
        read_cells(faulty)
    lines = str(raised.value).splitlines()
    assert lines[0] == "11 faults in the sweep's cells:"
    assert lines[1:] == [
        "  a: override: no such key: did you mean overrides?",
        "  a: verb=trian; choose one of: prepare, train, blend, evaluate, scores",
        "  b: checkpoint=first; choose one of: best, last",
        "  b: adapter=bare is not a train cell",
        "  c: needs bar, which is no cell: did you mean bare?",
        "  d: a scores cell, and no other, says of which evaluate cell (of=)",
        "  e: of=c is not an evaluate cell",
        "  f: a scores cell, and no other, says of which evaluate cell (of=)",
        "  g: needs bara, which is no cell: did you mean bare?",
        "  h: parents=bare is not a train cell",
        "  i: a blend cell, and no other, says of which two train cells (parents=)",
    ]


def test_a_cycle_is_named():
    with pytest.raises(CellError, match="a needs b needs a: a cycle"):
        read_cells({"a": {"verb": "train", "adapter": "b"}, "b": {"verb": "train", "adapter": "a"}})


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_needs_come_first_in_any_graph(data):
    n = data.draw(st.integers(1, 12))
    needs = [data.draw(st.sets(st.integers(0, i - 1) if i else st.nothing())) for i in range(n)]
    order = data.draw(st.permutations(range(n)))
    cells = read_cells({f"c{i}": {"verb": "train", "needs": [f"c{j}" for j in needs[i]]} for i in order})
    found = [cell.name for cell in ordered(cells, cells)]
    assert sorted(found) == sorted(cells)
    assert all(found.index(need) < found.index(name) for name in found for need in cells[name].needs)


def test_an_ablation_copies_a_training_and_what_scores_it():
    cells = read_cells(RAW)
    made = vary(cells, "grpo", "scored", {"low": ["lr=1"], "high": ["lr=2"]})
    assert list(made) == ["train_low", "low", "train_high", "high"]
    assert made["train_low"].overrides == ("experiment=b", "lr=1")
    assert made["train_low"].adapter == "sft"
    assert (made["high"].adapter, made["high"].needs) == ("train_high", ("prepare", "sft", "train_high"))
    assert made["high"].run_dir(Path("o"), 0) == Path("o/eval/high/seed0")
    with pytest.raises(CellError, match="names of other cells: sft"):
        vary(cells, "grpo", "scored", {"sft": []})
    with pytest.raises(CellError, match="grop is no cell: did you mean grpo"):
        vary(cells, "grop", "scored", {})
