"""What runs on the device stays out of float64, which MPS does not have. MPS itself is not here: its refusal is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from chexreason.labels.catalog import CHEXPERT14
from chexreason.model import label_scores, logprobs
from chexreason.model.generate import Sampling, draw_ids, row_uniforms, sample
from chexreason.parsing import AnswerFormat, Grammar
from chexreason.training.callbacks.label_f1 import LabelF1
from chexreason.types import Parsed

MPS = torch.device("mps")
OnMPS = type("OnMPS", (torch.Tensor,), {})  # what FakeMPS takes for a tensor on MPS, with all that is computed from it


class FakeMPS(TorchFunctionMode):
    """Refuses float64 on MPS, and operations on tensors of two devices, as torch does there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func == torch.Tensor.device.__get__:
            return MPS if isinstance(args[0], OnMPS) else func(*args)
        place = next(iter(args[1:2]), None) if func is torch.Tensor.to else None
        asked = (kwargs := dict(kwargs or {})).get("device", place)
        if asked == MPS:
            args, kwargs = args[: 1 if func is torch.Tensor.to else None], {**kwargs, "device": "cpu"}
        if len({isinstance(a, OnMPS) for a in args if isinstance(a, torch.Tensor) and a.dim()}) > 1:
            raise RuntimeError(f"{func.__name__}: expected all tensors on the same device")
        found = func(*args, **kwargs)
        there = asked == MPS or (isinstance(found, OnMPS) and func != torch.Tensor.cpu and str(asked) != "cpu")
        if there and getattr(found, "dtype", None) == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        with torch._C.DisableTorchFunctionSubclass():
            return found.as_subclass(OnMPS if there else torch.Tensor) if isinstance(found, torch.Tensor) else found


@pytest.mark.parametrize("sampling", [Sampling(4), Sampling(4, top_p=0.5), Sampling(4, top_k=3)])
def test_ids_are_drawn_on_the_cpu_and_come_back(sampling):
    logp, uniform = torch.randn(5, 40).log_softmax(-1), row_uniforms([(n,) for n in range(5)], 1)[:, 0]
    expected = draw_ids(logp, uniform, sampling)
    with FakeMPS():
        found = draw_ids(logp.to(MPS), uniform, sampling)
        assert [part.device for part in found] == [MPS, MPS]
    assert all(torch.equal(one.as_subclass(torch.Tensor), other) for one, other in zip(found, expected, strict=True))


def test_what_is_added_in_float64_has_left_the_device(gemma, images, monkeypatch):
    prompts, keys, marks = gemma.encode(images[:1], ["Hi"]), [(0,), (1,)], np.eye(14, dtype=bool)
    expected = sample(gemma, prompts, Sampling(2), group_size=2, keys=keys).ids
    policy = SimpleNamespace(encode_answers=gemma.encode_answers, device=MPS, pad_id=0)
    prefix, states = SimpleNamespace(state=torch.ones(1, 2), head=None), lambda p, f, ids, b: torch.ones(*ids.shape, 2)
    monkeypatch.setattr(logprobs, "prefill", lambda *args: prefix)
    monkeypatch.setattr(logprobs, "advance_branches", lambda *args: states(*args).as_subclass(OnMPS))
    equal = SimpleNamespace(logp=torch.zeros(1, 200).as_subclass(OnMPS))
    monkeypatch.setattr(logprobs, "score_states", lambda head, states, ids, mask: equal)
    monkeypatch.setattr(type(gemma), "device", property(lambda self: MPS))
    answers = [Parsed(think="x", labels=("Edema",), broken=None)], AnswerFormat(CHEXPERT14, Grammar.THINK_SOLUTION)
    with FakeMPS():
        assert torch.equal(sample(gemma, prompts, Sampling(2), group_size=2, keys=keys).ids, expected)
        assert label_scores.label_log_odds(policy, None, *answers).tolist() == [[0.0] * 14]
        metric = LabelF1(CHEXPERT14.labels).to(MPS)
        metric.update(marks, marks, marks | True, marks[0] & False, [f"s{i}" for i in range(14)])
        assert metric.keys[0].device == metric.device == MPS
        assert float(metric.compute()["macro_f1"]) == 1.0
