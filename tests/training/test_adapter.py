"""What is said of an adapter that is not there: by the run that made none, and by who asks for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from chexreason.model.adapters import CARD, read_card
from chexreason.training.callbacks.adapter_export import AdapterExport


def test_a_run_that_never_validated_says_that_it_wrote_no_best_adapter(tmp_path, monkeypatch, caplog):
    export = AdapterExport(str(tmp_path), "val/f1", "max", {})
    saved = []
    monkeypatch.setattr(export, "_save", lambda module, which, step, value: saved.append(which))
    trainer = SimpleNamespace(is_global_zero=True, sanity_checking=False, callback_metrics={}, global_step=2)
    export.on_train_end(trainer, None)
    assert saved == ["last"]
    assert f"no validation scored val/f1 before the end: {tmp_path / 'best'} is not written, take last" in caplog.text
    caplog.clear()
    trainer.callback_metrics = {"val/f1": 0.5}
    export.on_validation_end(trainer, None)
    export.on_train_end(trainer, None)
    assert (saved, caplog.text) == (["last", "best", "last"], "")


def test_an_adapter_that_is_not_there_is_told_from_one_of_others_and_its_neighbours_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"adapter {tmp_path}/best is not there$"):
        read_card(tmp_path / "best")
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / CARD).write_text("{}")
    with pytest.raises(FileNotFoundError, match=rf"best is not there; beside it: {tmp_path}/last$"):
        read_card(tmp_path / "best")
    (tmp_path / "best").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"holds no {CARD}: it was not written by chexreason .*; beside it"):
        read_card(tmp_path / "best")
