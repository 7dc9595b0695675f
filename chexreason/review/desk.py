"""The requests of the page: a reader's traces with his own decisions, a picture, and to store a decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chexreason.data.image import grey_file
from chexreason.labels.schema import LabelSet
from chexreason.parsing import AnswerFormat, Grammar
from chexreason.review.decision import OTHER, REASONS, WITHDRAWN, Decision, decision_faults
from chexreason.review.journal import ReviewStore
from chexreason.traces.trace import Trace, check_labels

_SIDE = 2048  # longest side of a picture as shown, in pixels
_TYPED = ("verdict", "reason", "comment", "text", "text_sha256")


class Desk:
    """The review of ``sample``; ``grammars`` maps each prompt to its answer format.

    Readers do not see each other's decisions: agreement is only worth measuring between independent readings. Raises
    ValueError on labels outside ``label_set`` and on a prompt without a grammar.
    """

    def __init__(
        self, sample: Sequence[Trace], store: ReviewStore, label_set: LabelSet, grammars: Mapping[str, Grammar]
    ) -> None:
        check_labels(sample, label_set)
        if unknown := sorted({trace.prompt for trace in sample} - set(grammars)):
            raise ValueError(f"no answer format is known for the prompts {unknown}; known: {sorted(grammars)}")
        self.sample, self.store, self.label_set, self.grammars = list(sample), store, label_set, grammars

    def state(self, reviewer: str) -> dict[str, Any]:
        """All that the page shows to ``reviewer`` except the pictures."""
        own = {decision.key: decision for decision in self.store.decisions(reviewer)}
        cases = [
            {
                "study_id": trace.study_id,
                "dataset": trace.dataset,
                "prompt": trace.prompt,
                "labels": list(trace.labels),
                "text": trace.text,
                "text_sha256": trace.text_sha256,
                "decision": _shown(own.get(trace.key)),
            }
            for trace in self.sample
        ]
        return {"reviewer": reviewer, "reasons": list(REASONS), "other": OTHER, "cases": cases}

    def decide(self, reviewer: str, position: int, said: object) -> tuple[dict[str, str] | None, list[str]]:
        """Stores the decision of ``reviewer`` about the trace at ``position``; returns it, or what prevents it.

        Raises ValueError on a message that no page of ours sends, IndexError on a position outside the sample, OSError
        where it cannot be written.
        """
        trace = self._trace(position)
        if not isinstance(said, dict) or not all(isinstance(said.get(name, ""), str) for name in _TYPED):
            raise ValueError(f"a decision is an object of texts: {', '.join(_TYPED)}")
        decision = Decision(reviewer, *trace.key, **{name: said.get(name, "").replace("\r\n", "\n") for name in _TYPED})
        decision = replace(
            decision,
            comment=decision.comment.strip(),
            text=decision.text.strip() if decision.verdict == "edit" else "",
            reason=decision.reason if decision.verdict in ("edit", "reject") else "",
            decided_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        wrong = decision_faults(decision, trace, AnswerFormat(self.label_set, self.grammars[trace.prompt]))
        if wrong:
            return None, wrong
        self.store.add(decision)
        return _shown(decision), []

    def picture(self, position: int) -> bytes:
        """The radiograph at ``position`` as an 8-bit grey PNG; raises ImageError or IndexError."""
        path = Path(self._trace(position).image_path)
        # Low compression: the connection is local and the reader waits.
        return grey_file(path, _SIDE, "PNG", compress_level=1)

    def _trace(self, position: int) -> Trace:
        if not 0 <= position < len(self.sample):
            raise IndexError(f"no trace at {position}; there are {len(self.sample)}")
        return self.sample[position]


def _shown(decision: Decision | None) -> dict[str, str] | None:
    if decision is None or decision.verdict == WITHDRAWN:
        return None
    return {name: getattr(decision, name) for name in ("verdict", "reason", "comment", "text", "decided_at")}
