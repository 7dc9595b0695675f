"""From a batch to parsed answers: the one path of validation during training and of the final evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from chexreason.data.batches import Batch
from chexreason.labels.schema import LabelSet
from chexreason.model.generate import Sampled, Sampling, sample
from chexreason.model.policy import Policy
from chexreason.parsing import AnswerFormat
from chexreason.types import Completion, Prediction, Study


def to_prediction(study: Study, completion: Completion, label_set: LabelSet) -> Prediction:
    """A completion beside the truth of its study; labels the study's source does not judge are dropped."""
    labelled = label_set.decode(study.mask)
    return Prediction(
        study_id=study.study_id,
        patient_id=study.patient_id,
        dataset=study.dataset,
        text=completion.text,
        predicted=tuple(label for label in completion.parsed.labels if label in labelled),
        truth=tuple(label for label in label_set.decode(study.target) if label in labelled),
        labelled=labelled,
        broken=completion.parsed.broken,
        n_tokens=completion.n_tokens,
        image=str(study.image),
    )


def predict_batch(policy: Policy, batch: Batch, answer_format: AnswerFormat, max_new_tokens: int) -> list[Prediction]:
    """Greedy answers to a batch, parsed and paired with the truth."""
    studies = [item.study for item in batch.samples]
    sampled = sample(policy, policy.with_features(batch.prompts), Sampling(max_new_tokens, temperature=0.0))
    completions = read_completions(policy, sampled, studies, answer_format)
    return [to_prediction(s, c, answer_format.label_set) for s, c in zip(studies, completions, strict=True)]


def read_completions(
    policy: Policy, sampled: Sampled, studies: Sequence[Study], answer_format: AnswerFormat
) -> list[Completion]:
    """Decode and parse sampled rows; row ``b * G + g`` belongs to ``studies[b]``."""
    group = sampled.ids.shape[0] // len(studies)
    texts = policy.decode(sampled.ids, sampled.mask)
    lengths = sampled.mask.sum(1).tolist()
    return [
        Completion(studies[n // group].study_id, text, answer_format.parse(text), int(lengths[n]), bool(done))
        for n, (text, done) in enumerate(zip(texts, sampled.finished.tolist(), strict=True))
    ]
