"""What each command says before Hydra does: the closest choice, the new name of a group, its settings."""

from __future__ import annotations

import importlib
import inspect
import sys

import lightning
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from chexreason.cli import LIGHTNING, as_meant, check_types
from chexreason.confdir import choices, command_help, confdir
from chexreason.errors import RENAMED_ARGUMENTS, unknown_choices

COMMANDS = ["prepare", "preflight", "train", "evaluate", "scores", "report", "rewards", "tables", "traces"]


def test_an_old_name_is_answered_with_words_that_compose():
    for old, new in RENAMED_ARGUMENTS.items():
        old, new = (words if "=" in words else f"{words}=x" for words in (old, new))
        assert [fault.rpartition("say ")[2] for fault in unknown_choices([old])] == [new]
        assert not choices(old.partition("=")[0]) or unknown_choices(new.split()) == []
    said = "answers is now sft_answers: say sft_answers@phase.teacher=traces"
    key = "traces is now teacher_instruction: say teacher_instruction.min_words=3"
    assert unknown_choices(["answers@phase.teacher=traces", "+traces.min_words=3", "name=traces"]) == [said, key]
    assert unknown_choices(["sft_answers@phase.teacher=traces", "+reward@rewards.mine=mix"]) == []
    assert unknown_choices(["sft_answers@phase.teacher=trace"]) == [
        "there is no sft_answers=trace: did you mean traces?"
    ]


def test_help_shows_the_settings_a_command_takes_from_another_and_its_choices():
    page = command_help("scores")
    assert "samples: 8 # " in page
    assert "# As evaluate:" in page
    assert "# labels=chexpert14 | nih9" in page
    assert "# size=tiny_grpo | tiny_sft" in command_help("train")


def test_an_unknown_name_gets_the_closest_one():
    for given, said in {
        "experiment=table2/only_labl": "there is no experiment=table2/only_labl: did you mean table2/only_label?",
        "sweep=tabel2": "did you mean table2?",
        "experiment=free_reasonin": "did you mean table2/free_reasoning?",
        "scale=enormous": "; choose one of: paper, tiny",
    }.items():
        assert said in unknown_choices([given])[0]
    fine = ["reward=hard,nuanced", "~debug", "name=x", "phase.lr=1", "-m", "+scale=tiny", "prompt=${x}", "seed=0"]
    assert unknown_choices(fine) == []
    assert unknown_choices(["--config-dir=mine", "experiment=mine"]) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_the_closest_choice(command, monkeypatch, capsys):
    said = "error: there is no data=phantm: did you mean phantom?\n       there is no hydra=quit: did you mean quiet?\n"
    assert refused(monkeypatch, capsys, "data=phantm", "hydra=quit", verb=command) == said


def refused(monkeypatch, capsys, *words: str, verb: str = "preflight") -> str:
    """What a command prints for these arguments, before it does anything."""
    monkeypatch.setattr(sys, "argv", [verb, *words])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"chexreason.cli.{verb}").main()
    assert stopped.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("phase.learning_rate=1", "there is no setting phase.learning_rate: did you mean phase.lr?"),
        ("trainer.max_epochs=3", "there is no setting trainer.max_epochs: did you mean phase.max_epochs?"),
        ("model.dtyp=bfloat16", "there is no setting model.dtyp: did you mean model.dtype?"),
        ("nmae=x", "there is no setting nmae: did you mean name?"),
        ("foo.bar=1", "there is no setting foo.bar; +foo.bar= adds one that a library takes"),
        ("phase.lr=abc", "phase.lr=abc: a number is meant, as in phase.lr=5e-05"),
        ("phase.lr=true", "phase.lr=true: a number is meant, as in phase.lr=5e-05"),
        ("seed=", "seed=: a number is meant, as in seed=0"),
        ("preflight=maybe", "preflight=maybe: true or false is meant, as in preflight=true"),
        ("~phase.lrr", "Could not delete from config. 'phase.lrr' does not exist."),
        ("phase.lr=[", "no viable alternative at input '['"),
    ],
)
def test_a_wrong_setting_is_a_line_with_what_was_meant(monkeypatch, capsys, word, said):
    assert refused(monkeypatch, capsys, word).startswith(f"error: {said}")


@pytest.mark.parametrize("word", ["trainer.devices=auto", "trainer.deterministic=true", "trainer.devices='0,1'"])
def test_what_lightning_takes_in_several_kinds_is_its_own_to_refuse(word, monkeypatch):
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # and as it was, afterwards
    with initialize_config_dir(confdir(), version_base="1.3"):
        cfg = compose("preflight", [word], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        check_types(cfg, "preflight")


def test_the_options_of_lightnings_trainer_need_no_plus():
    parameters = inspect.signature(lightning.Trainer).parameters
    assert set(LIGHTNING) <= set(parameters)
    assert [as_meant(word) for word in ("trainer.profiler=simple", "trainer.devices=2", "+trainer.benchmark=true")] == [
        "++trainer.profiler=simple",
        "trainer.devices=2",
        "+trainer.benchmark=true",
    ]
    with initialize_config_dir(confdir(), version_base="1.3"):
        assert compose("train", [as_meant("trainer.limit_train_batches=2")]).trainer.limit_train_batches == 2
