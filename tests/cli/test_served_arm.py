"""A served model as an arm: the same prompts, every answer once, nothing asked twice, nothing private sent away."""

from __future__ import annotations

import base64
import io
import json
import random
import signal
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexreason import runs
from chexreason.build.data import build_labels, build_prompt
from chexreason.cli.evaluate import evaluate
from chexreason.data.credentialed import ExportError
from chexreason.data.manifest import Manifest, write_manifest
from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import format_answer
from chexreason.prompts import render
from chexreason.statistics.predictions import read_predictions
from chexreason.statistics.score_files import aligned, read_scores
from chexreason.traces.store import StoreError, open_store
from tests.support import scripted_server as s
from tests.support.commands import Command
from tests.support.configs import composed
from tests.support.manifests import manifest_rows

pytestmark = pytest.mark.slow
QUICK = "limits={concurrency: 12, seconds: 0.9, retries: 12, pause: 0.001, longest_pause: 0.02, give_up: 20}"
WORDS = ["model=endpoint", "served_model=m", "name=x", "arm=served", "data.test=[phantom_a]", QUICK]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path


def prepared(out: Path, n: int, public: bool = True) -> None:
    """``n`` studies whose films are of the grey that is their number."""
    for i in range(n):
        (out / "films/images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((24, 24), i % 256, dtype=np.uint8)).save(out / f"films/images/{i}.png")
    manifest = Manifest(manifest_rows("phantom_a", n, Edema=1.0), {"source": "table", "public": public}, out / "films")
    write_manifest(manifest, out / "data/phantom/phantom_a/manifest.parquet")


def asked(out: Path, url: str, *words: str):
    return composed("evaluate", f"paths.out={out}", *WORDS, f"endpoint={url}/v1", f"paths.data={out}/data", *words)


def film(request: dict) -> int:
    """The grey of the film that a request holds."""
    url = request["messages"][0]["content"][1]["image_url"]["url"]
    return round(float(np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))).mean()))


def named(grey: int) -> list[str]:
    return [label for k, label in enumerate(CHEXPERT14) if k in (grey % 13, 13)]


def answer(number: int, request: dict) -> s.Act:
    return s.Act(s.completion(format_answer(f"grey {film(request)}", named(film(request)))))


def misbehaving(number: int, request: dict) -> s.Act:
    """Three of ten requests fail, each in a way drawn for it; some of the answers are broken ones."""
    draw = random.Random(f"x/{number}")
    ways = [
        s.error(503), s.error(429, headers={"Retry-After": "0"}), s.Act(b"<html>", 200), s.Act(b'{"choices": []}'),
        s.Act(s.completion("late"), delay=1.0), s.Act(s.completion("half"), cut=True),
    ]  # fmt: skip
    return answer(number, request) if draw.random() < 0.7 else draw.choice(ways)


def test_500_answers_through_a_misbehaving_server_are_all_there_once(out):
    prepared(out, 500)
    with s.ScriptedServer(misbehaving) as server:
        found = evaluate(asked(out, server.url))
        assert len(server.asked) > 600
        again = len(server.asked)
        assert evaluate(asked(out, server.url)) == found == read_predictions(out / "x/eval/served/predictions.jsonl")
        assert len(server.asked) == again
        request = server.asked[0]
    assert [p.study_id for p in found] == [f"phantom_a:{i}" for i in range(500)]
    for i, prediction in enumerate(found):  # the answer of each study is that to its own film, as the server wrote it
        assert prediction.named == tuple(named(i % 256))
        assert (prediction.text, prediction.n_tokens) == (format_answer(f"grey {i % 256}", named(i % 256)), 200)
        assert (prediction.truth, prediction.data_sha256 != "") == (("Edema",), True)
    cfg = asked(out, "x")
    assert s.text_of(request) == render(build_prompt(cfg), build_labels(cfg))  # word for word what a policy is asked
    assert (request["model"], request["temperature"]) == ("m", 0.0)
    metrics = json.loads((out / "x/eval/served/metrics.json").read_text())["phantom_a"]
    share = np.mean(["Edema" in named(i % 256) for i in range(500)])
    assert metrics["f1/Edema"] == pytest.approx(2 * share / (share + 1))


def test_a_cut_run_goes_on_where_it_was_and_asks_no_answered_study_again(out):
    prepared(out, 40)
    answered, closed = Counter(), threading.Event()

    def behave(number: int, request: dict) -> s.Act:
        if len(answered) >= 15 and not closed.is_set():
            return s.error(401, "no more")  # stops the run, with answers in flight
        answered[film(request)] += 1
        return answer(number, request)

    with s.ScriptedServer(behave) as server:
        with pytest.raises(
            StoreError, match=r"\d+ answers are open, e\.g\. phantom_a:\d+ .* run the same command again"
        ):
            evaluate(asked(out, server.url))
        assert not runs.is_done(out / "x/eval/served")
        closed.set()
        found = evaluate(asked(out, server.url, "limits.concurrency=2"))  # how fast it is asked changes no answer
    assert len(found) == 40
    assert answered == Counter(range(40))


def test_what_was_answered_before_kill_9_is_not_asked_again(out):
    prepared(out, 40)
    with s.ScriptedServer(lambda n, request: s.Act(answer(n, request).body, delay=0.05)) as server:
        command = Command(out, "evaluate", *WORDS, "limits.concurrency=4", f"endpoint={server.url}/v1")
        command.until(lambda: len(server.asked) >= 15)
        command.send(signal.SIGKILL)
        command.wait()
        with open_store(out / "x/eval/served/own_answers.db") as store:
            stored = {name for (name,) in store.rows("SELECT study_id FROM request WHERE outcome = 'answered'")}
        assert 5 < len(stored) < 40
        assert len(evaluate(asked(out, server.url, "limits.concurrency=4"))) == 40
        times = Counter(map(film, server.asked))
    assert {times[int(name.partition(":")[2])] for name in stored} == {1}
    assert sum(times.values()) <= 40 + 4  # those in flight


def test_samples_become_label_frequencies_beside_the_own_answers(out):
    prepared(out, 6)
    drawn = Counter()

    def behave(number: int, request: dict) -> s.Act:
        if request["temperature"] == 0.0:
            return answer(number, request)
        drawn[film(request)] += 1
        text = format_answer("x", ["Fracture"]) if drawn[film(request)] <= film(request) % 4 else "broken"
        return s.Act(s.completion(text))

    with s.ScriptedServer(behave) as server:
        found = evaluate(asked(out, server.url, "samples=4", "temperature=0.7", "limits.concurrency=1"))
        assert Counter(request["temperature"] for request in server.asked) == {0.0: 6, 0.7: 24}
    often = aligned(read_scores(out / "x/scores/served/scores.parquet"), found, ["Fracture", "Edema"], "frequency")
    assert often.tolist() == [[i % 4 / 4, 0.0] for i in range(6)]
    assert [p.named for p in found] == [tuple(named(i)) for i in range(6)]


def test_nothing_private_leaves_the_machine_and_nothing_priced_is_asked_without_a_budget(out, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-ours")
    prepared(out, 3, public=False)
    with pytest.raises(ExportError, match="allow_export"):
        evaluate(asked(out, "http://example.org", "teacher.tariff.usd_in=0", "teacher.tariff.usd_out=0"))
    assert not (out / "x/eval/served/own_answers.db").exists()
    with s.ScriptedServer(answer) as server:  # on this machine they may be asked about
        assert len(evaluate(asked(out, server.url))) == 3
        with pytest.raises(StoreError, match=r"the budget is spent.*budget=0"):
            evaluate(asked(out, server.url, "arm=b", "teacher.tariff.usd_in=1", "teacher.tariff.usd_out=1"))
    with pytest.raises(ValueError, match="say which model, and where"):
        evaluate(asked(out, "x", "endpoint=null", "arm=c"))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("adapters=[x]", "serve the adapter there"),
        ("samples=-1", "0 or more"),
        ("image_side=0", "a side 1 or more"),
        ("endpoint=127.0.0.1:9", "begin it with http"),
    ],
)
def test_what_an_endpoint_cannot_take_is_refused_before_it_is_asked(word, said, out):
    prepared(out, 2)
    with s.ScriptedServer(answer) as server, pytest.raises(ValueError, match=said):
        evaluate(asked(out, server.url, word))
    assert not server.asked
