"""What the tests of the two modules share: a small policy, its data, a fit, a comparison."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning as L
import torch
from omegaconf import OmegaConf

from chexreason.confdir import confdir
from chexreason.grpo.module import GRPOModule
from chexreason.grpo.objective import ObjectiveSpec
from chexreason.labels.catalog import CHEXPERT14
from chexreason.model.adapters import attach_lora
from chexreason.model.generate import Sampling
from chexreason.model.load import load_policy
from chexreason.model.policy import Policy
from chexreason.parsing import AnswerFormat, Grammar
from chexreason.training.callbacks.collapse_watch import CollapseWatch
from chexreason.training.datamodule import StudyData
from chexreason.types import Completion, Sample, Study
from tests.support.families import source_of

ANSWERS = ("a b", "the heart is large", "c", "no finding at all here", "d e f", "g")
SPEC = ObjectiveSpec("test", "constant", "none", 0.2, 0.2, 0.1, "k3", "token", False, 2)


class ManyEs:
    """A reward every completion can differ in: how often it has the letter e."""

    weights = {"es": 1.0}  # noqa: RUF012

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def __call__(self, completions: Sequence[Completion], studies, label_set):
        self.seen.append([c.text for c in completions])
        return {"es": torch.tensor([float(c.text.count("e")) for c in completions])}


@functools.cache
def loaded(model: str = "tiny_gemma3") -> Policy:
    return load_policy(source_of(model), dtype="float32")


def policy_with_lora(dropout: float = 0.0, model: str = "tiny_gemma3", **options) -> Policy:
    policy = copy.deepcopy(loaded(model))  # a third of the cost of loading
    torch.manual_seed(0)
    attach_lora(policy, r=4, alpha=8, dropout=dropout, **options)
    return policy


def common(max_new_tokens: int = 6):
    return {
        "answer_format": AnswerFormat(CHEXPERT14, Grammar.THINK_SOLUTION),
        "max_new_tokens": max_new_tokens,
        "make_optimizer": lambda p: torch.optim.AdamW(p, lr=1e-2),
        "make_scheduler": lambda o, n: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 - step / (2 * n)),
    }


def sft_data(policy: Policy, studies: list[Study], batch_size: int, accumulate: int, n_val: int = 0) -> StudyData:
    samples = [Sample(s, "Describe.", a) for s, a in zip(studies, ANSWERS, strict=True)]
    val_sets = {"set": samples[:n_val]} if n_val else {}
    sizes = {"batch_size": batch_size, "eval_batch_size": 2, "accumulate": accumulate}
    return StudyData(policy.collate(), samples, val_sets, **sizes)


def grpo(policy: Policy, reward=None, **kwargs) -> GRPOModule:
    arguments = {"group_size": 3, "micro_studies": 2, "max_grad_norm": 1.0, "seed": 3} | kwargs
    arguments = {"sampling": Sampling(6, temperature=0.8), "objective": SPEC} | arguments
    return GRPOModule(policy, reward=reward or ManyEs(), **arguments, **common())


def grpo_data(policy: Policy, studies: list[Study]) -> StudyData:
    samples = [Sample(s, "Describe.") for s in studies]
    return StudyData(policy.collate(), samples, {}, batch_size=2, eval_batch_size=2, drop_last=True)


def fit(module, data, tmp_path: Path, *, ckpt_path=None, callbacks=(), **kwargs) -> L.Trainer:
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    options |= {"num_sanity_val_steps": 0, "limit_val_batches": 0, "inference_mode": False, "devices": 1}
    options |= {"use_distributed_sampler": False, "default_root_dir": tmp_path, "enable_checkpointing": bool(callbacks)}
    trainer = L.Trainer(**(options | kwargs), callbacks=list(callbacks))
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def watching(path: str | Path, **settings: object) -> CollapseWatch:
    """The collapse watch as ``conf/callbacks`` sets it, and otherwise."""
    node = OmegaConf.load(f"{confdir()}/callbacks/default.yaml")["collapse"]
    return CollapseWatch(path, **OmegaConf.to_container(node) | settings)


def weights(module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in module.trainable().items()}


def assert_same(left, right, atol: float = 0.0) -> None:
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


class OneWeight(L.LightningModule):
    """The smallest module that a trainer takes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Zeros(L.LightningDataModule):
    """For ``OneWeight``: ``train`` batches of one zero, and so many of each validation set."""

    def __init__(self, train: int, **val: int) -> None:
        super().__init__()
        self.train, self.val, self.val_names = train, val, tuple(val)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.zeros(self.train, 1))

    def val_dataloader(self):
        return [torch.utils.data.DataLoader(torch.zeros(n, 1)) for n in self.val.values()]


class SaveAt(L.Callback):
    """Saves a checkpoint after a given batch, the way a killed run leaves one."""

    def __init__(self, batch: int, path: Path) -> None:
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if at_batch(self.batch)(trainer):
            trainer.save_checkpoint(self.path)


class Killed(BaseException):
    """Stands for a kill: no hook of Lightning's that saves or cleans up may see an ordinary exception."""


class KillAt(L.Callback):
    """Ends the process's work at a hook, the first time ``when`` holds there."""

    def __init__(self, hook: str, when: Callable[[L.Trainer], bool]) -> None:
        setattr(self, hook, lambda trainer, *args, **kwargs: self._kill(trainer, when))

    def _kill(self, trainer: L.Trainer, when: Callable[[L.Trainer], bool]) -> None:
        if when(trainer):
            raise Killed


def at_batch(n: int) -> Callable[[L.Trainer], bool]:
    return lambda trainer: trainer.fit_loop.epoch_loop.total_batch_idx == n
