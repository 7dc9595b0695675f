"""Models that cannot be had, settings that would do nothing: the message names the source and the way out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from chexreason.model.load import load_policy, resolve_source

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


def test_an_unsupported_architecture_is_refused_before_anything_is_fetched(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(ValueError, match="'llava' is not supported; supported: gemma3, idefics3, qwen2_5_vl"):
        load_policy(str(tmp_path))


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
