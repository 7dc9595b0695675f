"""Few stops on a path: how many files of the package one GRPO step and one whole run pass, counted by tracing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest
from hydra import compose, initialize_config_dir

import chexreason
from chexreason.confdir import confdir

pytestmark = pytest.mark.slow
PACKAGE = str(Path(chexreason.__file__).parent)
STEP, RUN = 20, 50  # files of the package
SETS = (
    "data.sets.phantom_a.source.n={sft: 1, rl: 4, val: 2, test: 1}",
    "data.sets.phantom_b.source.n={val: 1, test: 1}",
)
RUN_OF_ONE = (
    "phase=grpo",
    "prompt=only_label",
    "reward=nuanced",
    "phase.rollouts=1",
    "phase.batch_size=4",
    "phase.module.micro_studies=2",
    "phase.val_check_interval=1",
    "model.max_new_tokens=8",
    "preflight=false",
    "callbacks.progress=false",
)


@contextmanager
def passed(calls: dict[tuple[str, str], int]) -> Iterator[None]:
    """Counts, by file and name, the functions of the package that are called while the block runs."""
    before = sys.getprofile()

    def count(frame, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            key = (frame.f_code.co_filename[len(PACKAGE) + 1 :], frame.f_code.co_name)
            calls[key] = calls.get(key, 0) + 1

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


def files(calls: dict[tuple[str, str], int]) -> list[str]:
    return sorted({file for file, _ in calls})


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """The calls of one ``training_step``, and those of ``train(cfg)`` from the manifest to the logged figure."""
    from chexreason.build.data import build_manifests
    from chexreason.cli.train import train
    from chexreason.grpo.module import GRPOModule

    for module in walk_packages(chexreason.__path__, "chexreason."):  # an import is no stop
        import_module(module.name)
    step: dict[tuple[str, str], int] = {}
    whole: dict[tuple[str, str], int] = {}
    out = tmp_path_factory.mktemp("out")
    original: Callable = GRPOModule.training_step

    def training_step(self, batch, batch_idx):
        with passed(step):
            return original(self, batch, batch_idx)

    with initialize_config_dir(confdir(), version_base="1.3"), pytest.MonkeyPatch.context() as patch:
        cfg = compose("train", [f"paths.out={out}", *SETS, *RUN_OF_ONE])
        build_manifests(cfg, on_error="stop", workers=1)
        patch.setattr(GRPOModule, "training_step", training_step)
        with passed(whole):
            train(cfg)
    for key, n in step.items():  # the inner block had the profiler
        whole[key] = whole.get(key, 0) + n
    return step, whole


@pytest.mark.parametrize(("which", "most"), [(0, STEP), (1, RUN)], ids=["training_step", "train"])
def test_a_path_passes_few_files(traced, record_property, which: int, most: int) -> None:
    found = files(traced[which])
    path = ("one training_step", "manifest to logged figure")[which]
    record_property("said", f"{path}: {len(found)} files of the package, at most {most}")
    assert len(found) <= most, "\n".join(found)


def test_the_manifest_of_a_set_is_read_once_a_start(traced) -> None:
    _, whole = traced
    reads = {name: n for (file, name), n in whole.items() if file == "data/manifest.py" and name.startswith("read")}
    assert sum(reads.values()) == 2, reads  # two sets
