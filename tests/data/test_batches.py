"""Order and batches: a function of seed and epoch, shared out over ranks, resumable in the middle."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chexreason.data.batches import Collate, EpochOrder, SampleDataset
from chexreason.data.image import ImageError
from chexreason.training.datamodule import StudyData
from chexreason.types import Sample


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
    resumed.skip = 5
    assert list(resumed) == whole[5:]
    assert list(resumed) == whole  # the next pass is a full one


def test_too_few_samples_are_refused(gemma, studies):
    with pytest.raises(ValueError, match="2 training samples cannot be shared by 3 ranks"):
        order(2, world=3)
    samples = [Sample(s, "x") for s in studies[:2]]
    with pytest.raises(ValueError, match=r"fewer than data.batch_size=4"):
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
