"""From a batch to scored answers: the one path that validation during training and final evaluation share."""

from __future__ import annotations

from chexreason.data.batches import Batch
from chexreason.labels.schema import LabelSet
from chexreason.policy.answers import read_completions
from chexreason.policy.generate import Sampling, sample
from chexreason.policy.policy import Policy
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


def predict_batch(
    policy: Policy, batch: Batch, label_set: LabelSet, grammar: str, max_new_tokens: int
) -> list[Prediction]:
    """Greedy answers to a batch, parsed and paired with the truth."""
    studies = [item.study for item in batch.samples]
    sampled = sample(policy, policy.with_features(batch.prompts), Sampling(max_new_tokens, temperature=0.0))
    completions = read_completions(policy, sampled, studies, label_set, grammar)
    return [to_prediction(s, c, label_set) for s, c in zip(studies, completions, strict=True)]
