"""A reader's decision about one trace, and the checks before it is stored."""

from __future__ import annotations

from dataclasses import dataclass

from chexreason.parsing import BLOCKS, AnswerFormat
from chexreason.traces.answer_faults import BROKEN, DISAGREE, EMPTY, ODD, STRAY, answer_faults
from chexreason.traces.trace import Trace, is_unicode

VERDICTS = ("accept", "edit", "reject")
WITHDRAWN = "withdrawn"  # takes an earlier verdict back
OTHER = "other (say what)"
REASONS = (
    "finding that is not there",
    "finding missed",
    "wrong side, place or size",
    "invented history or prior",
    "gives the labels away",
    "labels do not follow from it",
    "study's labels are wrong",
    "image cannot be judged",
    OTHER,
)
TEXT_LIMIT = 20_000  # characters of an edited trace
COMMENT_LIMIT = 2_000


@dataclass(frozen=True, slots=True)
class Decision:
    """One reader's verdict on one trace; ``text`` is the whole edited trace, "" unless the verdict is "edit".

    ``text_sha256`` is that of the trace as it was shown; ``decided_at`` is UTC, ISO 8601.
    """

    reviewer: str
    study_id: str
    prompt: str
    text_sha256: str
    verdict: str
    reason: str = ""
    comment: str = ""
    text: str = ""
    decided_at: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Study and prompt of the trace that the decision is about."""
        return self.study_id, self.prompt


def decision_faults(decision: Decision, trace: Trace, answer_format: AnswerFormat) -> list[str]:
    """Why ``decision`` cannot be kept, in words for the reader; empty where it can."""
    found = []
    if decision.verdict not in (*VERDICTS, WITHDRAWN):
        found.append(f"unknown verdict {decision.verdict!r}; one of: {', '.join(VERDICTS)}")
    if decision.text_sha256 != trace.text_sha256:
        found.append("this trace has changed since the page was loaded: reload it and decide again")
    if decision.verdict in ("edit", "reject") and decision.reason not in REASONS:
        found.append("choose a reason")
    if decision.reason == OTHER and not decision.comment.strip():
        found.append("say in the comment what the other reason is")
    if len(decision.comment) > COMMENT_LIMIT:
        found.append(f"the comment has {len(decision.comment):,} characters, at most {COMMENT_LIMIT:,} are kept")
    if not is_unicode(decision.comment) or not is_unicode(decision.text):
        found.append("the text holds half a Unicode character: type it again")
    elif decision.verdict == "edit":
        found += _edit_faults(decision.text, trace, answer_format)
    return found


def _edit_faults(text: str, trace: Trace, answer_format: AnswerFormat) -> list[str]:
    """Why ``text`` cannot replace the trace: unchanged, too long, not in the answer format, or other labels."""
    if text.strip() == trace.text.strip():
        return ["the text is as it was: accept it, or change something"]
    if len(text) > TEXT_LIMIT:
        return [f"the text has {len(text):,} characters, at most {TEXT_LIMIT:,} are kept"]
    form = "".join(f"<{block}>…</{block}>" for block in BLOCKS[answer_format.grammar])
    found = []
    for kind, detail in answer_faults(text, trace.labels, answer_format):
        rule = kind.removeprefix(BROKEN).strip().replace("_", " ")
        words = {
            EMPTY: "there is no reasoning left",
            STRAY: "there is text outside the tags",
            ODD: f"{ODD}: {detail.strip('[]')}",
            DISAGREE: f"the answer {detail}; if those are wrong, reject the trace and say so",
        }
        found.append(words.get(kind, f"the answer format is broken {rule}: keep exactly {form}"))
    return found
