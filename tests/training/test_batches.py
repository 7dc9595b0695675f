"""Order and batches: a function of seed and epoch, shared out over ranks, resumable; like lengths together."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import signal
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chexreason.data.batches import Collate, EpochOrder, SampleDataset, length_grouped
from chexreason.data.image import ImageError
from chexreason.model.features import cache_films
from chexreason.training.datamodule import StudyData
from chexreason.types import Sample

LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=40)


def order(n: int = 12, **kwargs) -> EpochOrder:
    return EpochOrder([10 * (i + 1) for i in range(n)], **({"window": 4, "seed": 1} | kwargs))


def test_each_epoch_is_another_permutation_and_the_same_one_again():
    first = order()
    epoch0 = list(first)
    assert sorted(i for i, _ in epoch0) == list(range(12))
    assert list(order()) == epoch0
    first.set_epoch(1)
    assert [i for i, _ in first] != [i for i, _ in epoch0]


def test_ranks_share_the_samples_and_one_divisor():
    ranks = [list(order(13, rank=r, world=3)) for r in range(3)]
    assert [len(r) for r in ranks] == [4, 4, 4]  # equal shares: no rank waits for another
    seen = [i for r in ranks for i, _ in r]
    assert len(seen) == len(set(seen))
    assert {t for r in ranks for _, t in r} == {sum(10 * (i + 1) for i in seen) / 3}  # one update of all 12 samples


def test_update_tokens_are_those_of_the_accumulation_window():
    picks = list(order(10, window=4))
    for start in (0, 4, 8):  # the last window is short
        window = picks[start : start + 4]
        assert {tokens for _, tokens in window} == {float(sum(10 * (i + 1) for i, _ in window))}


def test_a_resumed_epoch_yields_the_rest_once():
    whole = list(order())
    resumed = order()
    resumed.resume_at(0, 5)
    assert list(resumed) == list(resumed) == whole[5:]  # begun twice: workers read ahead
    resumed.set_epoch(1)
    assert sorted(i for i, _ in resumed) == sorted(i for i, _ in whole)  # the next epoch is a full one


def test_a_checkpoint_of_other_samples_is_refused(gemma, studies):
    """``paths`` is free to change, so that data may move; what lies there must be what the run began with."""

    def data(*answers: str) -> StudyData:
        samples = [Sample(s, "Describe.", a) for s, a in zip(studies[:2], answers, strict=True)]
        return StudyData(gemma.collate(), samples, {}, batch_size=2, eval_batch_size=2)

    state = data("a", "b").state_dict()
    data("a", "b").load_state_dict(state)
    data("a", "c").load_state_dict({k: v for k, v in state.items() if k != "samples"})  # an earlier version's
    with pytest.raises(ValueError, match=r"begun with other training samples .*: undo .* restart=true"):
        data("a", "c").load_state_dict(state)


def test_too_few_samples_are_refused(gemma, studies):
    with pytest.raises(ValueError, match="2 training samples cannot be shared by 3 ranks"):
        order(2, world=3)
    samples = [Sample(s, "x") for s in studies[:2]]
    with pytest.raises(ValueError, match=r"fewer than phase.batch_size=4"):
        StudyData(gemma.collate(), samples, {}, batch_size=4, eval_batch_size=1)


def test_a_batch_holds_prompts_answers_and_the_divisor(gemma, studies):
    items = [(Sample(s, "Describe.", "a b c" if i else "a"), 7.0) for i, s in enumerate(studies[:2])]
    batch = gemma.collate()(items)
    assert len(batch) == len(batch.prompts) == 2
    assert batch.update_tokens == 7.0
    assert batch.answer_mask.sum(1).tolist()[0] < batch.answer_mask.sum(1).tolist()[1]
    assert gemma.collate()([(Sample(studies[0], "x"), 0.0)]).answer_ids is None


def test_a_missing_image_names_itself(gemma, studies, tmp_path):
    gone = replace(studies[1], image=tmp_path / "gone.png")
    loader = SampleDataset([Sample(s, "x") for s in (studies[0], gone)])
    with pytest.raises(ImageError, match=r"gone\.png"):
        gemma.collate()([loader[0], loader[1]])


def test_a_sample_that_cannot_be_encoded_names_its_study_and_file(gemma, studies):
    items = [(Sample(studies[0], "fine"), 0.0), (Sample(studies[1], "a <start_of_image> in it"), 0.0)]
    with pytest.raises(ValueError, match=r"^study s1 \(.*1\.png\): the prompt holds <start_of_image>"):
        gemma.collate()(items)


def test_an_error_of_the_batch_alone_is_its_own(gemma, studies):
    def encode(films, texts):
        if len(films) > 1:
            raise ValueError("too many")
        return gemma.encode(films, texts)

    with pytest.raises(ValueError, match=r"^too many$"):
        Collate(encode, gemma.encode_answers)([(Sample(study, "x"), 0.0) for study in studies[:2]])


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.deep)])
def test_workers_however_started_get_no_weights_and_make_equal_batches(gemma, studies, tmp_path, start):
    """Python 3.14 starts them by forkserver, macOS by spawn. The features of two of three films are known."""
    films = [replace(s, image_sha256=hashlib.sha256(s.image.read_bytes()).hexdigest()) for s in studies]
    cache_films(gemma, str(tmp_path / "films"), str(tmp_path / "features"))
    gemma.with_features(gemma.collate()([(Sample(s, "Describe."), 0.0) for s in films[:2]]).prompts)
    samples = [Sample(s, "Describe.", "a b") for s in films]
    assert len(pickle.dumps(gemma.collate())) < sum(p.nbytes for p in gemma.parameters()) / 20

    def batches(workers: int) -> list[Tensor]:
        sizes, found = {"batch_size": 2, "eval_batch_size": 2, "num_workers": workers}, []
        for batch in StudyData(gemma.collate(), samples, {"set": samples}, **sizes).val_dataloader()[0]:
            seen = batch.prompts
            found += [seen.input_ids, seen.attention_mask, seen.type_ids, batch.answer_ids]
            found += seen.features or [seen.pixel_values]
            for worker in multiprocessing.active_children() if len(found) > 9 else ():  # both gave a batch
                os.kill(worker.pid, signal.SIGUSR1)  # as SLURM sends it to every process of a job
        return found

    expected, before = batches(0), multiprocessing.get_start_method()
    multiprocessing.set_start_method(start, force=True)
    try:
        assert all(torch.equal(one, other) for one, other in zip(batches(2), expected, strict=True))
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert len(expected) == 3 * 4 + 2 + 1 + 1


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(1, 16), st.integers(0, 5))
def test_each_update_keeps_its_samples_shortest_first_and_equal_ones_in_order(values, window, seed):
    lengths = torch.tensor(values)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    before = order.tolist()
    expected = [sorted(before[i : i + window], key=values.__getitem__) for i in range(0, len(values), window)]
    assert length_grouped(order, lengths, window).tolist() == [i for update in expected for i in update]
    assert order.tolist() == before


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="window=0"):
        length_grouped(torch.arange(3), torch.ones(3), 0)
