"""What runs on the device stays out of float64, which MPS does not have. MPS itself is not here: its refusal is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from chexreason.labels.catalog import CHEXPERT14
from chexreason.model import label_scores
from chexreason.model.generate import Sampling, draw_ids, row_uniforms, sample
from chexreason.parsing import AnswerFormat, Grammar
from chexreason.training.callbacks.label_f1 import LabelF1
from chexreason.types import Parsed

MPS = torch.device("mps")


class OnMPS(torch.Tensor):
    """A tensor that FakeMPS takes for one on MPS; what is computed from it is one too."""


class FakeMPS(TorchFunctionMode):
    """Refuses float64 on MPS, and operations on tensors of two devices, as torch does there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:
            return MPS if isinstance(args[0], OnMPS) else func(*args)
        asked = kwargs.get("device", next((a for a in args[1:] if isinstance(a, torch.device | str)), None))
        to_cpu, to_mps = func is torch.Tensor.cpu or str(asked) == "cpu", asked == MPS
        if to_mps:
            args, kwargs = args[: 1 if func is torch.Tensor.to else None], {**kwargs, "device": "cpu"}
        tensors = [a for a in args if isinstance(a, torch.Tensor) and a.dim()]
        if len({isinstance(a, OnMPS) for a in tensors}) > 1:
            raise RuntimeError(f"{func.__name__}: expected all tensors on the same device")
        found = func(*args, **kwargs)
        there = not to_cpu and (to_mps or isinstance(found, OnMPS))
        if there and getattr(found, "dtype", None) == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        with torch._C.DisableTorchFunctionSubclass():
            return found.as_subclass(OnMPS if there else torch.Tensor) if isinstance(found, torch.Tensor) else found


@pytest.mark.parametrize("sampling", [Sampling(4), Sampling(4, top_p=0.5), Sampling(4, top_k=3)])
def test_ids_are_drawn_on_the_cpu_and_come_back(sampling):
    logp, uniform = torch.randn(5, 40).log_softmax(-1), row_uniforms([(n,) for n in range(5)], 1)[:, 0]
    expected = draw_ids(logp, uniform, sampling)
    with FakeMPS():
        with pytest.raises(TypeError, match="float64"):
            logp.to(MPS).double()
        found = draw_ids(logp.to(MPS), uniform, sampling)
        assert [part.device for part in found] == [MPS, MPS]
    assert all(torch.equal(one.as_subclass(torch.Tensor), other) for one, other in zip(found, expected, strict=True))


@pytest.mark.slow
def test_the_uniforms_of_a_policy_on_mps_stay_on_the_cpu(gemma, images, monkeypatch):
    prompts, sampling, keys = gemma.encode(images[:1], ["Hi"]), Sampling(3), [(0,), (1,)]
    expected = sample(gemma, prompts, sampling, group_size=2, keys=keys)
    monkeypatch.setattr(type(gemma), "device", property(lambda self: MPS))
    with FakeMPS():
        assert torch.equal(sample(gemma, prompts, sampling, group_size=2, keys=keys).ids, expected.ids)


def test_scores_leave_the_device_before_they_are_added_in_float64(monkeypatch):
    ids = torch.ones(28, 2, dtype=torch.long)
    policy = SimpleNamespace(encode_answers=lambda texts: (ids[: len(texts)], ids[: len(texts)]), device=MPS)
    scores = lambda policy, prompts, ids, mask, group_size: SimpleNamespace(logp=torch.ones(len(ids), 2).to(MPS))  # noqa: E731
    monkeypatch.setattr(label_scores, "completion_scores", scores)
    answer = Parsed(think="x", labels=("Edema",), broken=None)
    with FakeMPS():
        odds = label_scores.label_log_odds(policy, None, [answer], AnswerFormat(CHEXPERT14, Grammar.THINK_SOLUTION))
    assert odds.tolist() == [[0.0] * 14]


def test_the_metric_has_its_float64_on_the_cpu():
    marks = np.eye(14, dtype=bool)
    with FakeMPS():
        metric = LabelF1(CHEXPERT14.labels).to(MPS)
        metric.update(marks, marks, np.ones_like(marks), np.zeros(14, dtype=bool), [f"s{i}" for i in range(14)])
        assert metric.keys[0].device == metric.device == MPS
        assert float(metric.compute()["macro_f1"]) == 1.0
