"""Models that cannot be had, settings that would do nothing: the message names the source and the way out."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from pkgutil import resolve_name

import pytest
from huggingface_hub import constants

from chexreason.build.model import build_policy
from chexreason.confdir import confdir
from chexreason.model.family import Gemma3, family_of
from chexreason.model.load import load_policy, resolve_source
from chexreason.preflight.meta_model import blank_policy, read_config
from tests.support.configs import composed

HUB_ID = "google/medgemma-4b-it-of-no-one"


@contextmanager
def hub(status: int, code: str) -> Iterator[str]:
    """A hub on this machine that answers everything with one refusal; yields its address."""

    class Refuse(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "GatedRepo", r"the model is gated: accept its terms .*HF_TOKEN"),
        (403, "GatedRepo", r"the model is gated: accept its terms .*HF_TOKEN"),
        (401, "RepoNotFound", r"the hub has no such model, or it is private"),
    ],
)
@pytest.mark.slow
def test_a_gated_or_missing_model_says_so_and_how_to_give_a_folder(monkeypatch, status, code, words):
    with hub(status, code) as address:
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        with pytest.raises(OSError, match=rf"model.source={HUB_ID}: {words}.*model.source=FOLDER"):
            load_policy(HUB_ID)


def test_a_hub_that_cannot_be_reached_says_so_and_how_to_give_a_folder(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        OSError, match=rf"{HUB_ID}: the hub cannot be reached .*--local-dir FOLDER.*model.source=FOLDER"
    ):
        load_policy(HUB_ID)


def test_a_folder_without_weights_is_named(tmp_path):
    source = tmp_path / "empty"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "gemma3"}')
    with pytest.raises(OSError, match=f"model.source={source}: "):
        load_policy(str(source))


class Mine(Gemma3):
    """A family of a user's own: what it encodes says so."""

    def encode(self, batch):
        return replace(super().encode(batch), images=("mine",) * len(batch["input_ids"]))


MODELS = Path(confdir(), "model")
OWN, PACKAGE = f"{__name__}.Mine", "chexreason.model.family"


@pytest.mark.parametrize(
    ("model_type", "family", "words"),
    [
        (
            "llava",
            None,
            r"'llava' is not supported; supported: gemma3, qwen2_5_vl, qwen3_vl: set model.family=",
        ),
        ("llava", OWN, rf"{OWN} reads gemma3 models, this one is llava: set model.family=the path of a class for it"),
        (
            "qwen3_vl",
            f"{PACKAGE}.Gemma3",
            rf"reads gemma3 models, this one is qwen3_vl: set model.family={PACKAGE}.Qwen3VL",
        ),
        ("qwen3_vl", f"{PACKAGE}.Qwen2_5VL", "reads qwen2_5_vl models, this one is qwen3_vl"),
        ("gemma3", f"{PACKAGE}.Gemma4", rf"Gemma4 leads to no subclass of .* set model.family={PACKAGE}.Gemma3"),
    ],
)
def test_a_family_that_is_not_the_models_is_refused_before_anything_is_fetched(tmp_path, model_type, family, words):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ValueError, match=words):
        load_policy(str(tmp_path), family=family)
    with pytest.raises(ValueError, match=words):
        blank_policy(str(tmp_path), family=family, dtype="float32")


@pytest.mark.slow
def test_a_family_of_ones_own_is_named_in_the_config_and_goes_to_the_loaders_workers(images):
    own = composed("train", f"model.family={OWN}", "paths.image_cache=null", "paths.feature_cache=null")
    for cfg, name in ((own, OWN), (composed("train"), f"{PACKAGE}.Gemma3")):
        policy = build_policy(cfg)
        for encoder in (policy.encoder, pickle.loads(pickle.dumps(policy.encoder))):
            assert resolve_name(name) is type(encoder.family)
            assert encoder.encode(images, ["Hi"] * 3).images == (("mine",) * 3 if name == OWN else None)


def test_every_shipped_model_names_its_family():
    known = {"medgemma_4b": "Gemma3", "medgemma_1_5_4b": "Gemma3", "tiny_gemma3": "Gemma3", "qwen3_vl_4b": "Qwen3VL"}
    known |= dict.fromkeys(("qwen2_5_vl_3b", "nv_reason_cxr_3b", "tiny_qwen2_5_vl"), "Qwen2_5VL")
    shipped = [path.stem for path in MODELS.glob("*.yaml") if path.stem != "endpoint"]  # which has no weights here
    models = {name: composed("train", f"model={name}").model for name in shipped}
    assert {name: model.family for name, model in models.items()} == {n: f"{PACKAGE}.{f}" for n, f in known.items()}
    for name in set(known) - {"medgemma_1_5_4b", "nv_reason_cxr_3b"}:  # whose configs are not at hand
        assert family_of(read_config(models[name].source).model_type, models[name].family)


def test_pixel_bounds_reach_the_processor_that_has_them_and_are_refused_by_the_other():
    qwen = load_policy("tiny:tiny_qwen2_5_vl", min_pixels=4096, max_pixels=9216)
    size = qwen.processor.image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (4096, 9216)
    with pytest.raises(ValueError, match=r"model.min_pixels=20000 exceeds model.max_pixels=16384"):
        load_policy("tiny:tiny_qwen2_5_vl", min_pixels=20_000)
    with pytest.raises(ValueError, match=r"brings every image to .*take model.min_pixels and model.max_pixels away"):
        load_policy("tiny:tiny_gemma3", max_pixels=9216)


def test_unknown_sources_name_the_way_out(tmp_path):
    with pytest.raises(FileNotFoundError, match="tiny:tiny_gemma3"):
        resolve_source("tiny:nothing")
    with pytest.raises(FileNotFoundError, match=r"no config.json there"):
        resolve_source(str(tmp_path))
    assert resolve_source("google/medgemma-4b-it") == "google/medgemma-4b-it"
