"""`kill -9` anywhere in two rollouts of a GRPO run whose reward remembers: the same command ends as an unbroken run."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir

from chexreason.build.data import build_manifests
from chexreason.cli.train import train
from chexreason.confdir import confdir
from chexreason.grpo.module import GRPOModule
from chexreason.training.callbacks.run_files import RewardLog
from tests.support.deep import all_deep_but

pytestmark = pytest.mark.slow
SETS = [
    "data.sets.phantom_a.source.n={sft: 1, rl: 8, val: 2, test: 1}",
    "data.sets.phantom_b.source.n={val: 1, test: 1}",
]
# Seven rollouts of two updates in epochs of three, a validation behind every second one, and a window of few answers.
OVERRIDES = [
    "phase=grpo",
    "prompt=only_label",
    "reward=nuanced",
    "reward.collapse.size=8",
    "reward.collapse.dominance=0.2",
    "phase.limit=6",
    "phase.rollouts=7",
    "phase.batch_size=2",
    "phase.module.group_size=3",
    "phase.val_check_interval=2",
    "phase.lr=3e-4",
    "model.max_new_tokens=16",
    "preflight=false",
    "callbacks.checkpoint_every=1",
    "callbacks.progress=false",
]
RUN = Path("run") / "grpo" / "seed0"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def counted(function: Callable, n: int, at: Callable) -> Callable:
    """``function``, replaced by ``at(function, *args)`` at its n-th call."""
    calls = []

    def patched(*args, **kwargs):
        calls.append(1)
        return at(function, *args, **kwargs) if len(calls) == n else function(*args, **kwargs)

    return patched


def then_die(function: Callable, *args, **kwargs) -> None:
    function(*args, **kwargs)
    die()


def after_update(n: int) -> Callable[[Path], None]:
    def plant(out: Path) -> None:
        GRPOModule._update = counted(GRPOModule._update, n, then_die)

    return plant


def between_micro_batches(out: Path) -> None:
    GRPOModule.manual_backward = counted(GRPOModule.manual_backward, 7, then_die)


def writing_a_checkpoint(out: Path) -> None:
    def half(save, value, file, *args, **kwargs) -> None:
        whole = io.BytesIO()
        save(value, whole, *args, **kwargs)
        (out / RUN / "checkpoints" / ".last.ckpt.unfinished").write_bytes(whole.getvalue()[: whole.tell() // 2])
        die()

    torch.save = counted(torch.save, 2, half)


def naming_a_checkpoint(n: int, *, before: bool) -> Callable[[Path], None]:
    def plant(out: Path) -> None:
        replace, calls = os.replace, []

        def patched(source, target) -> None:
            calls.extend([1] if str(target).endswith("last.ckpt") else [])
            if len(calls) == n and before:
                die()
            replace(source, target)
            if len(calls) == n:
                die()

        os.replace = patched

    return plant


# Rollouts 2 and 3 make the updates 3 to 6. A validation follows every second rollout, every third ends an epoch.
POINTS = {
    "after the 3rd update, the first of rollout 2": after_update(3),
    "after the 4th update, the second of rollout 2": after_update(4),
    "after the 5th update, the first of rollout 3": after_update(5),
    "after the 6th update, the second of rollout 3": after_update(6),
    "between the micro-batches of an update": between_micro_batches,
    "in the middle of writing a checkpoint": writing_a_checkpoint,
    "before a checkpoint takes its name": naming_a_checkpoint(3, before=True),
    "at the end of an epoch, before its last rollout is logged": naming_a_checkpoint(3, before=False),
    "at the end of an epoch, after its validation": naming_a_checkpoint(6, before=False),
}


def process(out: Path, data: Path, point: str | None) -> None:
    """The command, killed at the point of that name."""
    with initialize_config_dir(confdir(), version_base="1.3"):
        cfg = compose("train", [*SETS, *OVERRIDES, f"paths.out={out}", f"paths.data={data}"])
    torch.set_num_threads(1)  # two threads add in another order than one
    if point:
        POINTS[point](out)
    train(cfg)


# Processes start from one that has imported everything and computed nothing: torch's threads do not survive a fork.
START = multiprocessing.get_context("forkserver")
START.set_forkserver_preload(["chexreason.build.training", "chexreason.cli.train", "transformers"])


def run(out: Path, data: Path, point: str | None = None) -> int:
    """The command in a process of its own; returns the signal that ended it, 0 where it ended by itself."""
    child = START.Process(target=process, args=(out, data, point))
    child.start()
    child.join()
    assert child.exitcode is not None
    assert child.exitcode <= 0, "the run failed: see its traceback"
    return -child.exitcode


def what_is_left(out: Path) -> dict[str, object]:
    """Adapters, reward log and curves of a finished run, and what its reward remembered at the last checkpoint."""
    folder = out / RUN
    assert (folder / "DONE").is_file()
    files = ("adapter/best/adapter_model.safetensors", "adapter/last/adapter_model.safetensors", "rewards-rank0.csv")
    curves = pd.read_csv(folder / "metrics.csv").sort_index(axis=1)
    point = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    rate = point["optimizer_states"][0]["param_groups"][0]["lr"]
    left = {"curves": curves.to_csv(), "reward": point["reward"], "learning rate": rate}
    return {name: (folder / name).read_bytes() for name in files} | left


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data")
    with initialize_config_dir(confdir(), version_base="1.3"):
        cfg = compose("prepare", [*SETS, f"paths.out={out}", f"paths.data={out}"])
    build_manifests(cfg, on_error="stop", workers=1)
    return out


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> dict[str, object]:
    out = tmp_path_factory.mktemp("whole")
    assert run(out, data) == 0
    curves = pd.read_csv(out / RUN / "metrics.csv")
    rollouts = curves[curves["train/reward"].notna()]
    assert rollouts["step"].tolist() == list(range(7))
    assert (rollouts["train/reward/collapse"] < 0).any()  # the window was active
    return what_is_left(out)


@pytest.mark.parametrize("point", all_deep_but("in the middle of writing a checkpoint", POINTS))
def test_the_same_command_ends_as_if_it_had_never_been_killed(whole, data, tmp_path, point):
    assert run(tmp_path, data, point) == signal.SIGKILL
    assert (tmp_path / RUN / "checkpoints" / "last.ckpt").is_file()
    assert not (tmp_path / RUN / "DONE").exists()
    assert run(tmp_path, data) == 0
    left = what_is_left(tmp_path)
    for name, value in whole.items():
        assert left[name] == value, name


def test_the_learning_rate_ends_with_the_run(whole):
    assert 0 < whole["learning rate"] < 0.1 * 3e-4  # one rollout is left


@pytest.mark.parametrize("torn", ["2,s1,p1,0.2", "2,s1", "1", ""])
def test_a_resumed_reward_log_forgets_what_is_done_again(tmp_path, torn):
    path = tmp_path / "rewards-rank1.csv"
    kept = "step,study_id,patient_id,reward\r\n0,s1,p1,0.5\r\n1,s2,p2,0.25\r\n"
    path.write_text(kept + "2,s3,p3,0.125\r\n" + torn, newline="")
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=1))
    RewardLog(tmp_path).on_train_start(SimpleNamespace(global_rank=1, fit_loop=loop), None)
    assert path.read_bytes().decode() == kept
