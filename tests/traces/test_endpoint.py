"""Loopback is what is written so, requests take no detour, and status codes mean what is documented."""

from __future__ import annotations

import time
from email.utils import formatdate
from pathlib import Path

import pytest

from chexreason.labels.catalog import CHEXPERT14
from chexreason.prompts import Prompt
from chexreason.traces.ask import Tariff, Then
from chexreason.traces.budget import Budget, estimate
from chexreason.traces.endpoint import api_key, failure, is_loopback
from chexreason.traces.instruction import Instruction
from chexreason.traces.task import Limits, Task
from chexreason.traces.template import OfflineTeacher
from chexreason.types import Study

REMOTE, LOCAL = "https://api.example.com/v1", "http://127.0.0.1:8000/v1"


def study(dataset: str, patient_id: str) -> Study:
    return Study(f"{dataset}:1", patient_id, dataset, Path("x.png"), CHEXPERT14.encode(["Edema"]), (True,) * 14)


PUBLIC = study("nih", "nih14:1")


INSIDE = [LOCAL, "http://localhost:11434/v1", "http://[::1]:8000/v1", "http://127.8.8.8/v1"]
OUTSIDE = [REMOTE, "http://0.0.0.0:8000/v1", "http://10.0.0.7:8000/v1", ""]
DISGUISED = ["127.0.0.1.example.com", "localhost.example.com", "user@example.com/127.0.0.1", "127.0.0.1@example.com"]
DISGUISED += [
    "example.com\\@127.0.0.1",
    "127.0.0.1\n.example.com",
    "localhost.",
    "2130706433",
    "127.1",
    "[::ffff:10.0.0.7]",
]


@pytest.mark.parametrize("endpoint", [*INSIDE, *OUTSIDE, *(f"http://{place}/v1" for place in DISGUISED)])
def test_loopback_is_a_literal_address(endpoint: str) -> None:
    assert is_loopback(endpoint) == (endpoint in INSIDE)


@pytest.mark.parametrize(
    ("status", "body", "then"),
    [
        (401, "", Then.STOP),
        (404, "no such model", Then.STOP),
        (302, "", Then.STOP),
        (429, "slow down", Then.AGAIN),
        (429, '{"code": "insufficient_quota"}', Then.STOP),
        (500, "", Then.AGAIN),
        (529, "overloaded", Then.AGAIN),
        (413, "", Then.SMALLER),
        (400, "Image dimensions exceed the limit", Then.SMALLER),
        (400, "unknown parameter", Then.LEAVE),
    ],
)
def test_what_a_status_means(status: int, body: str, then: Then) -> None:
    assert failure(status, body, {}).then == then


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    assert failure(429, "", {"retry-after": "2.5"}).wait == 2.5
    soon = failure(429, "", {"retry-after": formatdate(time.time() + 100, usegmt=True)}).wait
    assert soon is not None
    assert 95 < soon <= 100
    assert failure(429, "", {"retry-after": "soon"}).wait is None


def test_a_remote_endpoint_needs_a_key_and_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    assert api_key("A_KEY", LOCAL) == "none"
    with pytest.raises(ValueError, match=r"put it in the environment variable A_KEY"):
        api_key("A_KEY", REMOTE)
    with pytest.raises(ValueError, match=r"teacher\.tariff\.usd_in="):
        Budget(5.0, 0.0, Tariff(), REMOTE)
    assert Budget(0.0, 0.0, Tariff(), LOCAL).reserve(0.0)


def test_the_budget_counts_what_is_held_and_what_was_spent() -> None:
    budget = Budget(1.0, 0.5, Tariff(1.0, 1.0), REMOTE)
    assert budget.reserve(0.3)
    assert not budget.reserve(0.3)
    budget.settle(0.3, 0.1)
    assert budget.reserve(0.3)
    assert (budget.spent, round(budget.held, 9)) == (0.6, 0.3)


def test_the_estimate_is_the_closed_form() -> None:
    teacher = OfflineTeacher()
    teacher.tariff, teacher.sees_image = Tariff(2.0, 10.0, image_tokens=700, max_tokens=1000), True
    words = Instruction("arm", "{findings}" + "{prompt}", "{labels}", "{reasons}", 100, 300)
    prompt = Prompt("arm", "", "x" * (900 - len("Edema")), "think_solution", names_labels=False)
    task = Task(teacher, words, prompt, CHEXPERT14)
    limits, studies = Limits(attempts=3, concurrency=4), [PUBLIC] * 100
    forecast = estimate(task, limits, studies, None)
    assert (forecast.tokens_in, forecast.tokens_out) == (100 * (300 + 700), 100 * 200 * 1.5)
    assert forecast.usd == pytest.approx(100 * (1000 * 2 + 300 * 10) / 1e6)
    assert forecast.usd_most == pytest.approx(3 * 100 * (1000 * 2 + 1000 * 10) / 1e6)
    measured = estimate(task, limits, studies, (10.0, 20.0, 6.0))
    assert (measured.tokens_in, measured.seconds) == (1000, 150)
    assert estimate(task, Limits(per_minute=10), studies, None).seconds == 600
