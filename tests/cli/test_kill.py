"""`kill -9` on the real command, at chosen points: the same command then ends with the adapters of an unbroken run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.deep import all_deep_but

pytestmark = pytest.mark.slow
OVERRIDES = [
    "experiment=demo_sft",
    "name=killed",
    "phase.dropout=0.1",
    "phase.batch_size=2",
    "phase.accumulate=2",
    "phase.max_epochs=2",
    "model.max_new_tokens=4",
    "preflight=false",  # which would refuse to cut answers at 4 tokens
    "callbacks.checkpoint_every=1",
    "callbacks.progress=false",
    "data.sets.phantom_a.source.n={sft: 12, rl: 4, val: 2, test: 2}",
    "data.sets.phantom_b.source.n={val: 2, test: 2}",
]
# Each point patches the library, in a process of its own, so that it kills that process there.
POINTS = {
    "between accumulation steps": """
        from chexreason.training.sft import SFTModule
        step = SFTModule.training_step
        def patched(self, batch, batch_idx):
            if self.trainer.fit_loop.epoch_loop.total_batch_idx == 3: die()
            return step(self, batch, batch_idx)
        SFTModule.training_step = patched
    """,
    "in the middle of writing a checkpoint": """
        import io, torch
        save, calls = torch.save, []
        def patched(value, file, *args, **kwargs):
            calls.append(1)
            if len(calls) < 2: return save(value, file, *args, **kwargs)
            whole = io.BytesIO()
            save(value, whole, *args, **kwargs)
            half = whole.getvalue()[: whole.tell() // 2]
            folder = OUT / "killed" / "sft" / "seed0" / "checkpoints"
            (folder / ".last.ckpt.unfinished").write_bytes(half)
            die()
        torch.save = patched
    """,
    "before a checkpoint takes its name": """
        replace, calls = os.replace, []
        def patched(source, target):
            calls.append(1) if str(target).endswith("last.ckpt") else None
            if len(calls) == 2: die()
            return replace(source, target)
        os.replace = patched
    """,
    "between an epoch's last step and its validation": """
        from chexreason.training.sft import SFTModule
        SFTModule.on_validation_start = lambda self: die()
    """,
}
DRIVER = """
    import os, pathlib, signal, sys
    OUT = pathlib.Path(sys.argv[1])
    def die(): os.kill(os.getpid(), signal.SIGKILL)
"""
CALL = """
    from chexreason.cli.train import main
    sys.argv = ["train", f"paths.out={sys.argv[1]}", *sys.argv[2:]]
    main()
"""


def train(out: Path, data: Path, point: str | None = None) -> int:
    """The command, to its end or to the point where it is killed; returns its exit status."""
    script = "".join(textwrap.dedent(part) for part in (DRIVER, POINTS[point] if point else "", CALL))
    command = [sys.executable, "-c", script, str(out), f"paths.data={data}", *OVERRIDES]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def adapters(out: Path) -> dict[str, bytes]:
    folder = out / "killed" / "sft" / "seed0" / "adapter"
    return {which: (folder / which / "adapter_model.safetensors").read_bytes() for which in ("best", "last")}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data")
    paths = [f"paths.out={out}", f"paths.data={out}"]
    command = [sys.executable, "-m", "chexreason.cli.prepare", *paths, "audit=false", *OVERRIDES[-2:]]
    subprocess.run(command, capture_output=True, check=True)
    return out


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole")
    assert train(out, data) == 0
    return adapters(out)


@pytest.mark.parametrize("point", all_deep_but("between accumulation steps", POINTS))
def test_the_same_command_ends_with_the_same_adapters(whole, data, tmp_path, point):
    assert train(tmp_path, data, point) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "sft" / "seed0" / "DONE").exists()
    assert train(tmp_path, data) == 0
    assert adapters(tmp_path) == whole
