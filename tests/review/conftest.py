"""Fixtures of the tests of the review."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import Grammar
from chexreason.review.desk import Desk
from chexreason.review.journal import ReviewStore
from chexreason.review.server import ReviewServer
from chexreason.traces.trace import Trace

Serve = Callable[[Path, Sequence[Trace], Mapping[str, Grammar]], ReviewServer]


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """Serves traces to anna and ben from a folder until the module's tests are done."""
    running = []

    def start(folder: Path, traces: Sequence[Trace], grammars: Mapping[str, Grammar]) -> ReviewServer:
        store = ReviewStore(folder / "review.sqlite")
        desk = Desk(traces, store, CHEXPERT14, grammars)
        server = ReviewServer(desk, store.links(["anna", "ben"]), "127.0.0.1", 0)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()
