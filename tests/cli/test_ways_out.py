"""Each printed way out, followed: a table of how an error is provoked, its advice, and the command that then works."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from chexreason.cli import LISTS, PAIRS, as_meant, folder_name, read_lists
from chexreason.confdir import confdir
from chexreason.renames import flat
from tests.support.configs import composed

SMALL = (
    "'data.sets.phantom_a.source.n={sft: 4, rl: 4, val: 2, test: 2}' 'data.sets.phantom_b.source.n={val: 2, test: 2}'"
)
TRAIN = "prompt=only_label preflight=false model.max_new_tokens=8 callbacks.progress=false phase.batch_size=2 "
TRAIN += f"phase.max_epochs=1 {SMALL}"
ASK = f"prompt=only_label max_new_tokens=8 {SMALL}"
SFT = "adapters=out/run/sft/seed0/adapter/best"
FEW = "n_resamples=20 n_permutations=20"
GRPO = "preflight phase=grpo text_tokens=20 model.max_new_tokens=24"
# How it is provoked (commands; `rm` and `spoil` are of a file) and what is said, with the advice as groups. What
# follows from it: more words for the last of these commands, or commands and then that one again, which must work.
ALWAYS = {
    "choice": ("tables table=paper scale=tinny", r"did you mean (\w+)\?", "scale={1}"),
    "null": ("tables table=paper scale=null", r"take it away with (~\w+)", "!scale {1}"),
    "setting": ("tables tabel=paper", r"no setting tabel: did you mean (\w+)\?", "!tabel {1}=paper"),
    "equals": ("tables table=paper paths.out=a=b", r"as in (.+)", "!paths.out {1}"),
    "chdir": ("tables table=paper hydra.job.chdir=true", r"set (hydra\S+)", "{1}"),
    "mapping": ("tables table=paper sets=nih", r"as in (\+sets\.)NAME(=nih)", "!sets {1}table2{2}"),
    "folder": ("train --cfg job answers@phase.teacher=template", r"say (\S+)", "!answers@phase.teacher {1}"),
    "moved": ("train --cfg job phase=tiny/grpo", r"say (.+)", "!phase {1}"),
    "table": ("tables table=papper", r"did you mean (\w+)\?", "table={1}"),
    "sweep": ("sweep sweep=fgi2 plan=true", r"did you mean (\w+)\?", "sweep={1}"),
    "ablation": (f"tables table=transfer ablation=betta {FEW}", r"did you mean (\w+)\?", "ablation={1}"),
    "on_error": (f"prepare {SMALL} on_error=stops audit=false", r"choose one of: (\w+)", "on_error={1}"),
    "no traces": (
        "review serve=false file=out/phantom/traces/free_reasoning/traces.jsonl reviewers=anna",
        r"with `python -m chexreason\.cli\.(traces)` first",
        f"prepare {SMALL} audit=false; {{1}} {SMALL}; again",
    ),
}
AFTER_RUNS = {
    "reward": ("rewards only=hrad", r"there are (\w+)", "only={1}"),
    "studies": ("rewards only=hard studies=phantoms", r"choose (\w+)", "studies={1}"),
    "no data": (
        f"train {TRAIN} seed=1 paths.data=new",
        r"; prepare the data",
        f"prepare {SMALL} paths.data=new; again",
    ),
    "split": (f"evaluate {ASK} split=rl arm=new", r"with '(data\.test=.+)'", "{1}"),
    "prompt": (f"evaluate {SMALL} {SFT} arm=new max_new_tokens=8", r"set (prompt=\w+)", "{1}"),
    "labels": (f"evaluate {ASK} {SFT} arm=new labels=nih9", r"set (labels=\w+)", "{1}"),
    "model": (f"evaluate {ASK} {SFT} arm=new model=tiny_qwen2_5_vl", r"made for tiny:(\w+): choose its", "model={1}"),
    "precision": (f"evaluate {ASK} {SFT} arm=new model.quantise=nf4", r"set (model\.\S+)", "{1}"),
    "neighbour": (f"evaluate {ASK} {SFT}st arm=new", r"beside it: (\S+),", "adapters={1}"),
    "untrained": (
        f"evaluate {ASK} adapters=out/run/sft/seed1/adapter/best arm=new",
        r"not there|train it",
        f"train {TRAIN} seed=1; again",
    ),
    "another config": (f"evaluate {ASK} arm=base limit=1", r"with (restart=true)", "{1}"),
    "answers gone": ("rm out/run/eval/base/predictions.jsonl; " + f"evaluate {ASK}", r"with (restart=true)", "{1}"),
    "done spoilt": (
        "spoil out/run/eval/base/DONE; " + f"evaluate {ASK}",
        r"(out/\S+DONE) .*delete it",
        "rm {1}; again",
    ),
    "no answers": (f"scores {ASK} samples=1 arm=new", r"run the evaluation", f"evaluate {ASK} arm=new; again"),
    "other answers": (
        f"scores {ASK} samples=1; evaluate {ASK} restart=true max_new_tokens=9; scores {ASK} samples=1",
        r"with (restart=true)",
        "{1}",
    ),
    "no arm": (
        f"report arms=[base,new] images=none {FEW.split()[0]}",
        r"`python -m chexreason\.cli\.(.+)` first",
        f"{{1}} {ASK} {SFT}; again",
    ),
    "fewer arms": (f"report arms=[base,new] images=none {FEW.split()[0]}", r"with arms=\[", "arms=[base]"),
    "sets": (
        f"tables name=run arms=[base,new] table=transfer {FEW}",
        r"evaluate these",
        f"evaluate {ASK} arm=new; again",
    ),
    "manifest": (
        "spoil out/data/phantom/phantom_a/manifest.parquet; " + f"evaluate {ASK} arm=new",
        r"prepare the data set again",
        f"prepare {SMALL}; again",
    ),
    "card": (
        f"rm out/run/sft/seed0/adapter/best/chexreason.json; evaluate {ASK} {SFT} arm=new",
        r"anew with (restart=true)",
        f"train {TRAIN} {{1}}; again",
    ),
    "monitor": (f"train {TRAIN} seed=1 phase.monitor=val/x", r"set (phase\.mode=min)", "{1} phase.monitor=val/loss"),
    "mode": (f"train {TRAIN} seed=1 phase.mode=max", r"leave (phase\.mode) out", "!{1}"),
    "teacher": (f"traces {SMALL}; traces {SMALL} teacher_instruction.min_words=3", r"choose another (name=)", "{1}new"),
    "store": (
        f"traces {SMALL}; traces {SMALL} teacher_instruction.min_words=3",
        r"(out/\S+db) .*remove it",
        "rm {1}; again",
    ),
    "source": (f"evaluate {ASK} arm=new model.source=tiny:gemma", r"packaged: (\S+),", "model.source={1}"),
    "readers": (
        "traces; review serve=false file=out/phantom/traces/free_reasoning/traces.jsonl reviewers=[a,A]",
        r"e\.g\. (\[.*\])",
        "reviewers={1}",
    ),
    "memory": (f"{GRPO} device_gib=0.09", r"it fits with (.+)", "{1}"),
    "memory of one": (f"{GRPO} device_gib=0.045", r"it fits with (.+)", "{1}"),
    "memory of qlora": (f"{GRPO} adapter=qlora device_gib=0.04", r"it fits with (.+)", "{1}"),
    "memory of SFT": ("preflight model.max_new_tokens=60 device_gib=0.03", r"it fits with (.+)", "{1}"),
    "memory after SFT": (f"{GRPO} {SFT} device_gib=0.04", r"it fits with (.+)", "{1}"),
    "no memory": (f"{GRPO} device_gib=0.001", r"needs a device of (\S+) GiB", "device_gib={1}"),
}


@pytest.fixture
def give(tmp_path, monkeypatch, capsys):
    """``give(line)``: what a command says on stderr in the folder of the test, and its status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["chexreason"])

    def run(line: str) -> tuple[str, object]:
        verb, *words = shlex.split(line)
        if verb in ("rm", "spoil"):
            data = Path(words[0]).read_bytes()
            Path(words[0]).unlink()
            if verb == "spoil":
                Path(words[0]).write_bytes(data[: len(data) // 2])
            return "", 0
        sys.argv = [verb, *words, "hydra/job_logging=none", "hydra/hydra_logging=none"]
        capsys.readouterr()
        try:
            importlib.import_module(f"chexreason.cli.{verb}").main()
        except SystemExit as end:
            return capsys.readouterr().err, end.code
        return capsys.readouterr().err, 0

    return run


def followed(line: str, then: str) -> list[str]:
    """The commands that the advice leads to; ``!KEY`` takes a setting out of the first one."""
    if "again" in then:
        return [part.strip().replace("again", line) for part in then.split(";")]
    (verb, *given), words = shlex.split(line), shlex.split(then)
    settled = {word.lstrip("!").partition("=")[0] for word in words}
    kept = [word for word in given if word.partition("=")[0] not in settled]
    return [shlex.join([verb, *kept, *(word for word in words if word[0] != "!")])]


def provoke_and_follow(give, row: tuple[str, str, str]) -> None:
    provoked, said, then = row
    *before, line = [part.strip() for part in provoked.split(";")]
    for part in before:
        assert give(part)[1] == 0, part
    text, status = give(line)
    assert status == 1
    assert "error: " in text
    advice = re.search(said, text)
    assert advice, text
    for number, group in enumerate(advice.groups(), 1):
        then = then.replace(f"{{{number}}}", group)
    for part in followed(line, then):
        text, status = give(part)
        assert not status, f"{part}: {text}"


@pytest.mark.parametrize("name", ALWAYS)
def test_what_the_error_advises_works(give, name):
    provoke_and_follow(give, ALWAYS[name])


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A study of an SFT run and the answers of its base."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in (f"prepare {SMALL}", f"train {TRAIN}", f"evaluate {ASK}"):
            verb, *words = shlex.split(line)
            patch.setattr(sys, "argv", [verb, *words, "hydra/job_logging=none", "hydra/hydra_logging=none"])
            importlib.import_module(f"chexreason.cli.{verb}").main()
    return folder


# Of each kind at least one stays: a choice, a folder, a command before this one, a run begun anew, a device.
DEEP = {name for name in AFTER_RUNS if "memory" in name} - {"memory of one"}
DEEP |= {"card", "fewer arms", "labels", "mode", "model", "neighbour", "no arm", "no data", "other answers"}
DEEP |= {"precision", "readers", "reward", "sets", "source", "store", "untrained"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.deep) if name in DEEP else name for name in AFTER_RUNS]
)
def test_what_the_error_of_a_run_advises_works(give, study, tmp_path, name):
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)
    provoke_and_follow(give, AFTER_RUNS[name])


def test_one_value_where_a_list_is_meant_is_a_list_of_one():
    """Every setting of the commands and data configs that holds a list is one of those that are read so."""
    cfg = composed("evaluate", "adapters=out/a", "data.test=phantom_a", "+data.allow_overlap=[a,b]")
    read_lists(cfg)
    assert (cfg.adapters, cfg.data.test, cfg.data.allow_overlap) == (["out/a"], ["phantom_a"], [["a", "b"]])
    assert cfg.data.sets.phantom_b.source.n.test == 300
    for given, there in {
        "tables": "arms",
        "calibrate": "few_labels",
        "sweep": "seeds",
        "rewards": "only",
        "review": "reviewers",
    }.items():
        cfg = composed(given, f"{there}=7", *["sweep=fig2"] * (given == "sweep"), *["file=x"] * (given == "review"))
        read_lists(cfg)
        assert cfg[there] == [7]
    for path in (*Path(confdir()).glob("*.yaml"), *Path(confdir()).glob("data/*.yaml")):
        within = "data." * (path.parent.name == "data")
        for key, value in flat(OmegaConf.to_container(OmegaConf.load(path))).items():
            known = {f"{within}{key}", key.rpartition(".")[2]} & (LISTS | PAIRS | {"defaults"})
            assert known or not isinstance(value, list), f"{path}: {key}"


def test_a_multirun_has_a_folder_for_any_overrides():
    short, long = "phase.lr-1_prompt-only_label", "_".join(f"data.sets.phantom_a.source.n.part{i}-4" for i in range(13))
    assert folder_name(short) == short
    made = [folder_name(name) for name in (long, f"{long}1", "prompt-a/b", "prompt-a-b", "é" * 200)]
    assert len(set(made)) == len(made)
    assert all("/" not in name and len(name.encode()) <= 255 for name in made)


def test_home_is_written_with_a_tilde_in_any_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_meant("paths.out=~/out") == f"paths.out={tmp_path}/out"
    assert as_meant("adapters=[~/a,'~/b']") == f"adapters=[{tmp_path}/a,'{tmp_path}/b']"
    assert as_meant("name=a~b") == "name=a~b"
    assert as_meant("~scale") == "~scale"
    assert as_meant("reasoning=sampled(4)") == "reasoning=sampled:4"  # which Hydra takes for a function


@pytest.mark.slow
@pytest.mark.deep
def test_the_multirun_of_the_readme_works_at_any_seed(give, study, tmp_path):
    """At seed 1, the second line from the first one's adapter, with more overrides than a folder's name holds."""
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)
    text = re.sub(r"\s+", " ", (Path(confdir()).parent / "README.md").read_text())
    lines = re.findall(r"`python -m chexreason\.cli\.(train -m [^`]+)`", text)
    assert len(lines) == 2
    few = ("phase.max_epochs=1 'hydra.sweep.subdir=sft/seed${seed}'", "phase.rollouts=1 phase.module.group_size=2")
    for line, small in zip(lines, few, strict=True):
        words = TRAIN.replace("phase.max_epochs=1", small)
        said, status = give(f"{line.replace('seed=0,1,2', 'seed=1')} {words}")
        assert not status, said
    assert len(list(Path("out/demo/grpo").glob("*/seed1/DONE"))) == 2


@pytest.mark.slow
def test_two_underscores_in_the_name_of_an_arm_are_a_name(give, study, tmp_path):
    shutil.copytree(study, tmp_path, dirs_exist_ok=True)
    for line in (f"evaluate {ASK} {SFT} arm=a__b", "report arms=[base,a__b] images=none n_resamples=20"):
        said, status = give(line)
        assert not status, said
    assert "Base → a__b" in Path("out/run/report.html").read_text()
