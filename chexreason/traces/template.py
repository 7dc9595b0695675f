"""The template teacher: radiology prose written offline from a study's labels and signs.

It stands in for the paper's teacher model where none can be asked. A text names every positive label, denies some of
the negative ones, says nothing about labels that are not judged, and gives a side or a severity only where the study
knows it. A "No Finding" study is called normal as a whole, which is what that label means.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence

from chexreason.labels.schema import LabelSet
from chexreason.parsing import Grammar, format_answer
from chexreason.prompts import Prompt
from chexreason.traces.ask import Question, Reply, Tariff
from chexreason.traces.sayable import CHECKLIST, FINDINGS, FRAMES, Facts, facts_of, join_words
from chexreason.types import Study

# Words in the reasoning, at least and at most.
FREE_WORDS = (36, 70)
NARRATIVE_WORDS = (62, 110)


class TemplateTeacher:
    """Writes answers; ``seed`` picks one wording of each study's answer."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def can_write(self, study: Study, label_set: LabelSet) -> bool:
        """False where no consistent answer exists: nothing positive, or "No Finding" beside a disease. Skip those."""
        facts = facts_of(study, label_set)
        return bool(facts.positive) and not facts.contradictory

    def write(self, study: Study, prompt: Prompt, label_set: LabelSet) -> str:
        """The whole answer to ``prompt``, always the same for one seed, study and prompt name.

        Raises ValueError where ``can_write`` is False and on a prompt that asks for reasoning in a style this teacher
        does not know.
        """
        facts = facts_of(study, label_set)
        if not facts.positive or facts.contradictory:
            why = "'No Finding' beside a disease" if facts.contradictory else "no positive label"
            raise ValueError(f"study '{study.study_id}' has {why}: no answer fits; ask can_write first")
        labels = [label for label in label_set if label in facts.positive]
        if prompt.grammar == Grammar.SOLUTION_ONLY:
            return format_answer("", labels, prompt.grammar)
        if prompt.name not in STYLES:
            raise ValueError(f"the template teacher has no style for prompt '{prompt.name}'; it has: {sorted(STYLES)}")
        rng = random.Random(f"{self.seed}/{study.study_id}/{prompt.name}")
        return format_answer(STYLES[prompt.name](facts, rng), labels, prompt.grammar)


class OfflineTeacher:
    """The template teacher with the interface of ``Teacher``; each ``seed`` and each attempt gives another wording."""

    model, endpoint, sees_image = "template", "", False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.tariff = Tariff(0.0, 0.0)

    async def ask(self, question: Question) -> str:
        """The answer in a JSON body."""
        template = TemplateTeacher(self.seed + question.attempt)
        return json.dumps({"text": template.write(question.study, question.prompt, question.label_set)})

    def read(self, body: str) -> Reply:
        """The reply in a body."""
        return Reply(json.loads(body)["text"], tokens_in=0, tokens_out=0)

    async def close(self) -> None:
        """Does nothing."""


def _free(facts: Facts, rng: random.Random) -> str:
    """Concise analysis: what is seen, what is absent, and a conclusion where there is room."""
    body = facts.affirmations(rng, n_full=3 if len(facts.positive) <= 5 else 1)
    return _compose(FRAMES["openers"], body, FRAMES["conclusions"], facts, rng, FREE_WORDS)


def _narrative(facts: Facts, rng: random.Random) -> str:
    """Evidence aggregated in full, linked sentences, then the conclusion they support."""
    n_full = 5 if len(facts.positive) <= 7 else 2
    first, *others = facts.affirmations(rng, n_full)
    linked = [_link(s, rng) if i < n_full else s for i, s in enumerate(others, start=1)]
    return _compose(
        FRAMES["narrative_openers"], [first, *linked], FRAMES["narrative_conclusions"], facts, rng, NARRATIVE_WORDS
    )


def _checklist(facts: Facts, rng: random.Random) -> str:
    """The twelve numbered steps of prompt reasoning_a, one short line each."""
    lines = []
    for number, (heading, labels) in enumerate(CHECKLIST.items(), start=1):
        if heading == "Quality":
            clause = rng.choice(FRAMES["quality"]).format(view=facts.view)
        elif heading == "Synthesis":
            clause = join_words([facts.plain_name(label, rng) for label in facts.positive], "and")
        else:
            clause = _step(labels, facts, rng)
        lines.append(f"{number}. {heading}: {clause}.")
    return "\n".join(lines)


def _step(labels: Sequence[str], facts: Facts, rng: random.Random) -> str:
    """One checklist clause: what is present, what is absent, or that the region was looked at."""
    present = [facts.name(label, rng) for label in labels if label in facts.positive]
    absent = [rng.choice(FINDINGS[label].nouns) for label in labels if label in facts.deniable]
    clauses = ([join_words(present, "and")] if present else []) + ([f"no {join_words(absent, 'or')}"] if absent else [])
    return "; ".join(clauses) or rng.choice(FRAMES["unjudged"])


STYLES: dict[str, Callable[[Facts, random.Random], str]] = {
    "free_reasoning": _free,
    "reasoning_narrative": _narrative,
    "reasoning_a": _checklist,
}
# The paper's SFT arms: the prompts this teacher answers.
ARMS = tuple(sorted((*STYLES, "only_label")))


def _compose(
    openers: Sequence[str],
    body: Sequence[str],
    conclusions: Sequence[str],
    facts: Facts,
    rng: random.Random,
    bounds: tuple[int, int],
) -> str:
    """Opener, neutral review, body, denials and conclusion, within ``bounds`` words.

    The conclusion and one denial come in where they fit; more denials, then review, only up to the lower bound.
    """
    low, high = bounds
    core = [rng.choice(openers).format(view=facts.view), *body]
    names = join_words([facts.plain_name(label, rng) for label in facts.positive], "and")
    conclusion = rng.choice(conclusions).format(names=names)
    closing = [conclusion] if _n_words([*core, conclusion]) <= high else []
    denials: list[str] = []
    for sentence in facts.denials(rng):
        n_words = _n_words([*core, *denials, *closing])
        if n_words + _n_words([sentence]) <= high and (not denials or n_words < low):
            denials.append(sentence)
    review: list[str] = []
    for sentence in rng.sample(FRAMES["review"], len(FRAMES["review"])):
        if _n_words([*core, *review, *denials, *closing]) < low:
            review.append(sentence)
    return " ".join([core[0], *review, *core[1:], *denials, *closing])


def _link(sentence: str, rng: random.Random) -> str:
    """The sentence tied to the one before it, half of the time."""
    return rng.choice(FRAMES["connectives"]) + sentence[0].lower() + sentence[1:] if rng.random() < 0.5 else sentence


def _n_words(sentences: Sequence[str]) -> int:
    return sum(len(sentence.split()) for sentence in sentences)
