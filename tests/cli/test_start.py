"""The start of every command: help and the printed config come at once, without torch; `chexreason <verb>` is one."""

from __future__ import annotations

import re
import resource
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERBS = sorted(path.stem for path in (ROOT / "chexreason" / "cli").glob("[!_]*.py") if path.stem != "checks")
SCRIPT = """
import atexit, importlib, sys
atexit.register(lambda: print("torch:", "torch" in sys.modules, file=sys.stderr))
importlib.import_module("chexreason.cli." + sys.argv.pop(1)).main()
"""


def started(verb: str, *arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """The command's output, and the seconds of processor time it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    chosen = ["sweep=table2", "name=x"] * (verb == "sweep")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, verb, *arguments, *chosen], capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--help",), ("--cfg", "job")], ids=" ".join)
@pytest.mark.parametrize("verb", VERBS)
def test_a_command_explains_itself_at_once(verb, arguments):
    spent = []
    while len(spent) < 3 and (not spent or spent[-1] > 2.0):
        done, seconds = started(verb, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "torch: False\n"
        spent.append(seconds)
    if arguments == ("--help",):
        assert re.match(
            rf"(?s)# .*python -m chexreason\.cli\.{verb}.*# Every setting, composed: --cfg job\n", done.stdout
        )
    assert min(spent) <= 2.0


@pytest.mark.slow
def test_the_commands_that_load_no_model_import_no_torch(tmp_path, monkeypatch):
    small = ("data.sets.phantom_a.source.n={sft: 4, rl: 0, val: 2, test: 2}", "data.sets.phantom_b.source.n={val: 2}")
    out = f"paths.out={tmp_path}"
    with tarfile.open(ROOT / "tests" / "archive" / "e964570.tar.xz") as tar:
        tar.extractall(tmp_path, [m for m in tar if m.name.startswith(("demo/", "table2/"))], filter="data")
    file = f"file={tmp_path}/phantom/traces/free_reasoning/traces.jsonl"
    for verb, *arguments in (
        ("prepare", out, *small),
        ("traces", out, *small),
        ("review", out, file, "reviewers=[anna]", "serve=false"),
        ("report", "paths.out=out", "name=demo", "data=phantom", "n_resamples=20"),
        ("tables", "paths.out=out", "scale=tiny", "table=table2", "n_resamples=20"),
    ):
        monkeypatch.chdir(tmp_path / {"report": "demo", "tables": "table2"}.get(verb, ""))
        done, _ = started(verb, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == "torch: False"


def chexreason(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chexreason", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_one_program_lists_every_verb_without_hydra():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = chexreason("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert re.findall(r"^  ([a-z]+)  +[A-Z]", done.stdout, re.MULTILINE) == VERBS
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert after.ru_utime - before.ru_utime < 1.0
    assert chexreason().stdout == done.stdout
    imported = "import sys; sys.argv[1:] = ['--help']; import chexreason.__main__ as c; c.main(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, check=True).stdout
    assert not {"hydra", "torch", "pandas"} & set(modules.splitlines()[-1].split())


def test_a_verb_of_the_program_is_its_module():
    one = chexreason("train", "--cfg", "job", "experiment=demo_sft")
    other = [sys.executable, "-m", "chexreason.cli.train", "--cfg", "job", "experiment=demo_sft"]
    assert one.stdout == subprocess.run(other, capture_output=True, text=True, check=True).stdout != ""
    wrong = chexreason("trian", "experiment=demo_sft")
    assert (wrong.returncode, wrong.stderr) == (2, "error: there is no verb 'trian': did you mean train?\n")


@pytest.mark.slow
def test_the_guides_reward_is_found_in_the_folder_where_the_program_starts(tmp_path):
    """As ``python -m`` does; an installed script begins with its own folder on the path (here: -P, no folder)."""
    code, config = re.findall(r"```(?:python|yaml)\n(.*?)```", (ROOT / "docs" / "EXTEND.md").read_text(), re.DOTALL)[:2]
    (tmp_path / "my_rewards.py").write_text(code)
    (tmp_path / "conf" / "reward").mkdir(parents=True)
    (tmp_path / "conf" / "reward" / "mine.yaml").write_text(config)
    program = (sys.executable, "-P", "-c", "from chexreason.__main__ import main; main()")
    chosen = (f"--config-dir={tmp_path}/conf", "+reward@rewards.mine=mine", "only=[mine]")
    done = subprocess.run((*program, "rewards", *chosen), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("chexreason tra", {"traces", "train"}),
        ("chexreason train experiment=demo_", {"experiment=demo_sft", "experiment=demo_grpo"}),
        ("chexreason train seed=1 phase.monit", {"phase.monitor="}),
    ],
)
def test_bash_completes_verbs_choices_and_keys(tmp_path, line, expected):
    program = tmp_path / "chexreason"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m chexreason "$@"\n')
    program.chmod(0o755)
    pressed_tab = f"""
PATH={shlex.quote(str(tmp_path))}:$PATH
source <(chexreason --completion)
COMP_LINE={shlex.quote(line)}; COMP_POINT=${{#COMP_LINE}}
COMP_WORDS=($COMP_LINE); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_chexreason; printf '%s\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", pressed_tab], capture_output=True, text=True, check=False)
    assert expected <= set(done.stdout.split()), done.stderr
    assert all(word.startswith(line.split()[-1]) for word in done.stdout.split())


@pytest.mark.slow
def test_a_run_says_nothing_that_is_not_ours(tmp_path):
    sets = ("data.sets.phantom_a.source.n={sft: 8, rl: 4, val: 2, test: 2}", "data.sets.phantom_b.source.n={val: 2}")
    common = (f"paths.out={tmp_path}", "name=x", "prompt=only_label", "model.max_new_tokens=4", *sets)
    assert chexreason("prepare", *common[:2], *sets).stderr == ""
    short = ("experiment=demo_sft", "phase.max_epochs=1", "phase.batch_size=2", "preflight=false")
    done = chexreason("train", *common, *short)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines), done.stdout
    assert any("sft, batches: " in line and " in " in line for line in lines)
    assert lines[-2].endswith("x/sft/seed0/adapter/best")
    assert "best adapter: step " in lines[-2]
    assert not [line for line in lines if set("{}") & set(line) or "kernels" in line or "deprecated" in line]
