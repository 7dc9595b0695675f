"""Each way out of the machine, and data that nobody declared public: a csv, DICOM films, a set under another's name."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import chexreason
from chexreason.build.data import build_labels, load_manifest, load_studies, public_sets
from chexreason.cli.prepare import prepare
from chexreason.cli.report import report_study
from chexreason.cli.traces import traces
from chexreason.cli.train import train
from chexreason.data.credentialed import ExportError
from chexreason.data.manifest import Manifest, write_manifest
from chexreason.statistics.predictions import write_predictions
from chexreason.types import Prediction
from tests.data.test_dicom import film
from tests.support.configs import composed
from tests.support.recorder import MADE
from tests.support.scripted_server import ScriptedServer, error, good

pytestmark = pytest.mark.slow
AGREEMENT = "allow_export='the DUA of May'"
OWN = ("Jane", "own-0", "films/")  # what of the hospital must be nowhere


def hospital(tmp_path: Path, kind: str) -> list[str]:
    """Overrides that name a prepared data set "own" (or, as a copy, "phantom_a") of 12 films beside phantom_b."""
    root, suffix = tmp_path / "Jane" / "films", "dcm" if kind == "dicom" else "png"
    root.mkdir(parents=True)
    lines = ["path,patient_id,split,Edema,Fracture"]
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64), dtype=np.uint8)
        if kind == "dicom":
            film(root / f"{i}.dcm", pixels, bits=8, PatientName="Jane^Doe")
        else:
            Image.fromarray(pixels).save(root / f"{i}.png")
        lines.append(f"films/{i}.{suffix},own-0{i},{('sft', 'val', 'test')[i % 3]},1,{i % 2}")
    (root.parent / "Jane.csv").write_text("\n".join(lines))
    source = f"_target_: chexreason.data.sources.table.TableSource, name: own, csv: {root.parent / 'Jane.csv'}"
    node = f"+data.sets.own={{policy: positives_only, source: {{{source}, split_column: split}}}}"
    small = "data.sets.phantom_b.source.n={val: 2, test: 2}"
    words = [f"paths.out={tmp_path}/out", "~data.sets.phantom_a", "data.size=64", small, node, "data.home=own"]
    words += ["data.val=[own,phantom_b]", "data.test=[own,phantom_b]"]
    prepare(composed("prepare", *words))
    if kind != "copy":
        return words
    data, prepared = tmp_path / "out/data/phantom", load_manifest(composed("prepare", *words), "own")
    shutil.rmtree(data / "own")
    frame = prepared.frame.assign(dataset="phantom_a")
    write_manifest(Manifest(frame, prepared.provenance, prepared.root), data / "phantom_a" / "manifest.parquet")
    return [f"paths.out={tmp_path}/out"]


@pytest.mark.parametrize("kind", ["csv", "dicom", "copy"])
def test_what_nobody_declared_public_reaches_no_endpoint_and_no_page(kind, tmp_path, monkeypatch) -> None:
    words, own = hospital(tmp_path, kind), "phantom_a" if kind == "copy" else "own"
    monkeypatch.setenv("OPENAI_API_KEY", "the-key")
    with ScriptedServer() as server:
        remote = server.url.replace("127.0.0.1", "0.0.0.0") + "/v1"  # reaches this server, and is no loopback address
        asked = ["teacher=openai", "teacher.model=m", "teacher.tariff.usd_in=0", "teacher.tariff.usd_out=0"]
        cfg = composed("traces", *words, *asked, f"teacher.endpoint={remote}")
        with pytest.raises(ExportError, match=f"studies of {own} are not declared public and may not go to {remote}"):
            traces(cfg)
        assert (server.asked, Path(cfg.folder).exists()) == ([], False)
        traces(composed("traces", *words, *asked, f"teacher.endpoint={remote}", f"data.{AGREEMENT}"))
        assert len(server.asked) == 4
        assert not [word for word in OWN if word in json.dumps(server.asked)]
    evaluated = composed("report", *words, "name=s", "arms=[base]", "n_resamples=10")
    assert public_sets(evaluated) == {"phantom_b"}
    studies = [s for n in (own, "phantom_b") for s in load_studies(evaluated, n, ("test",), build_labels(evaluated))]
    said = "t", ("Edema",), ("Edema",), ("Edema",)
    rows = [Prediction(s.study_id, s.patient_id, s.dataset, *said, image=str(s.image)) for s in studies]
    write_predictions(tmp_path / "out/s/eval/base/predictions.jsonl", rows)
    report_study(evaluated)
    page = (tmp_path / "out/s/report.html").read_text()
    assert page.count("<img") == 2  # phantom_b's
    if kind != "copy":
        page += (tmp_path / "out/phantom/audit.html").read_text()
        report_study(composed("report", *words, "name=s", "arms=[base]", "n_resamples=10", AGREEMENT))
        shown = (tmp_path / "out/s/report.html").read_text()
        assert shown.count("<img") == 6
        assert "shown under" in shown
    assert not [word for word in OWN[1:] if word in page]


def test_a_trackers_record_of_a_run_holds_figures_of_enough_patients_and_nothing_of_them(tmp_path, monkeypatch) -> None:
    words = hospital(tmp_path, "csv")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    MADE.clear()
    words += ["prompt=only_label", "logger=wandb", "+logger.mine._target_=tests.support.recorder.Recorder"]
    words += ["phase.limit=4", "phase.max_epochs=1", "phase.holdout=0", "phase.batch_size=2", "preflight=false"]
    words += ["callbacks.progress=false", "model.max_new_tokens=4", "logger.min_patients=5"]
    words += [f"+data.note=from {tmp_path}/x", "+data.login=https://a:bcd@host/x", "+data.told=${oc.env:THE_KEY}"]
    monkeypatch.setenv("THE_KEY", "s3cr3t-of-env")
    words += ["phase.monitor=val/phantom_b/macro_f1"]
    cfg = composed("train", *words)
    with pytest.raises(ExportError, match=r"studies of own .* may not go to Weights & Biases with logger.wandb.media"):
        train(composed("train", *words, "logger.wandb.media=true", "run_dir=" + str(tmp_path / "asked")))
    train(cfg)
    recorded = [found for made in MADE for found in made.sent]
    figures = {name for found in recorded for name in found}
    assert not [value for found in recorded for value in found.values() if not isinstance(value, (int, float))]
    assert "train/loss" in figures
    assert "val/phantom_b/macro_f1" in figures  # public: two films are enough
    assert not [name for name in figures if name.startswith(("val/own/", "val/worst/", "val/loss"))]  # 4 patients of 5
    run = Path(cfg.run_dir)
    (record,) = run.glob("wandb/offline-run-*/*.wandb")
    kept = b"".join(path.read_bytes() for path in (record, *record.parent.glob("files/**/*")) if path.is_file())
    assert b"val/phantom_b/macro_f1" in kept
    private = [*OWN, str(tmp_path), "bcd", "s3cr3t", socket.gethostname(), str(Path.cwd()), sys.argv[0]]
    assert not [word for word in private if word.encode() in kept]
    assert not [word for word in ("bcd", "s3cr3t") if word in (run / "config.yaml").read_text()]
    assert "val/own/macro_f1" in (run / "metrics.csv").read_text()  # stays here


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("traces", "+teacher.endpoint=https://user:s3cr3t@example.com/v1"),
        ("traces", "+teacher.options.api_key=s3cr3t"),
        ("train", "+logger.mine={_target_: x, headers: {Authorization: Bearer s3cr3t}}"),
    ],
)
def test_a_key_on_the_command_line_is_refused_before_hydra_stores_it(command, word, tmp_path) -> None:
    words = [sys.executable, "-m", f"chexreason.cli.{command}", word, f"paths.out={tmp_path}"]
    environment = {**os.environ, "KEY": "s3cr3t"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "write ${oc.env:VARIABLE} in place of the password or key" in done.stderr
    assert "s3cr3t" not in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
    key, _, value = word.replace("s3cr3t", "${oc.env:KEY}").partition("=")
    words[3] = f"{key}={value}" if value.startswith("{") else f'{key}="{value}"'
    done = subprocess.run([*words, "--cfg", "job"], capture_output=True, text=True, env=environment)  # as it says
    assert (done.returncode, "s3cr3t" in done.stdout) == (0, False), done.stderr


def test_an_address_with_a_login_or_a_query_works_and_is_written_nowhere(tmp_path, caplog) -> None:
    words = [f"paths.out={tmp_path}", "data.sets.phantom_a.source.n={sft: 3}", "data.size=64"]
    alone = ("~data.sets.phantom_b", "~data.shift", "data.val=[phantom_a]", "data.test=[phantom_a]")
    prepare(composed("prepare", *words, "audit=false", *alone))

    def echo(number, asked):
        return error(400, "bad: Bearer s3cr3t-key of pa:ssw0rd ssw0rd") if number == 0 else good(number, asked)

    with ScriptedServer(echo) as server, caplog.at_level(logging.DEBUG):
        place = server.url.replace("http://", "http://pa:ssw0rd@") + "/v1?api_key=s3cr3t-key"
        cfg = composed("traces", *words, "teacher=openai", "teacher.model=m", "limit=2")
        cfg.teacher.endpoint = place
        traces(cfg)
        assert server.headers[0]["authorization"].startswith("Basic ")
        assert server.paths[0] == "/v1/chat/completions?api_key=s3cr3t-key"
    written = b"".join(path.read_bytes() for path in Path(cfg.folder).rglob("*") if path.is_file())
    assert b"127.0.0.1" in written
    for secret in ("s3cr3t", "ssw0rd"):
        assert secret.encode() not in written
        assert secret not in caplog.text


def test_nothing_else_in_the_package_sends() -> None:
    senders = {"wandb", "openai", "httpx", "httpx2", "requests", "aiohttp", "urllib.request", "http.client", "smtplib"}
    found = set()
    imported = r"(?m)^ *(?:import|from) ([\w.]+)|import_module\(f?\"([\w.]+)|_client\(\"(\w+)"
    for path in Path(chexreason.__file__).parent.rglob("*.py"):
        words = map("".join, re.findall(imported, path.read_text()))
        found |= {(path.name, name) for name in words if {name, name.partition(".")[0]} & senders}
        hub = re.search(r"push_to_hub|upload_f(?:ile|older)|create_repo", path.read_text())
        assert not hub or path.name == "export.py", path  # which asks what the adapter learned from (test_export.py)
    assert found == {("wandb_run.py", "wandb"), ("openai_teacher.py", "openai"), ("openai_teacher.py", "httpx2")}
