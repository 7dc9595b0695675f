"""The template teacher in a teacher's place: traces without a model, a network or a bill."""

from __future__ import annotations

import json

from chexreason.traces.ask import Question, Reply, Tariff
from chexreason.traces.template import TemplateTeacher


class OfflineTeacher:
    """Answers from a study's labels and signs; another ``seed``, or another attempt, is another wording."""

    model, endpoint, sees_image = "template", "", False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.tariff = Tariff(0.0, 0.0)

    async def ask(self, question: Question) -> str:
        """The answer in a JSON body, as a model's would come."""
        template = TemplateTeacher(self.seed + question.attempt)
        return json.dumps({"text": template.write(question.study, question.prompt, question.label_set)})

    def read(self, body: str) -> Reply:
        """What a body says."""
        return Reply(json.loads(body)["text"], tokens_in=0, tokens_out=0)

    async def close(self) -> None:
        """There is nothing to let go."""
