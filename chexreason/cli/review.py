"""Let radiologists review traces: ``python -m chexreason.cli.review file=traces.jsonl 'reviewers=[anna,ben]'``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from chexreason.cli import command
from chexreason.confdir import confdir

if TYPE_CHECKING:
    from chexreason.review.server import ReviewServer
    from chexreason.traces.trace import Trace

log = logging.getLogger(__name__)
_STORE = "review.sqlite"


def review(cfg: DictConfig) -> dict[str, Any]:
    """Serve the review until Ctrl-C (unless ``serve=false``), then write its results; returns its figures.

    Raises ValueError on a host that the traces must not be shown to, and what reading and storing raise.
    """
    from chexreason.labels.catalog import label_set
    from chexreason.parsing import Grammar
    from chexreason.prompts import load_prompt
    from chexreason.review.desk import Desk
    from chexreason.review.journal import ReviewStore
    from chexreason.review.reviewed_traces import export_review
    from chexreason.review.server import ReviewServer
    from chexreason.traces.trace import read_traces

    traces, folder = read_traces(Path(cfg.file)), Path(cfg.paths.out) / cfg.name
    readers = _readers(cfg)
    _check_host(cfg, traces)
    store = ReviewStore(folder / _STORE)
    sample = store.sample(traces, cfg.n, cfg.seed)
    prompts = Path(confdir()) / "prompt"
    grammars = {trace.prompt: Grammar(load_prompt(trace.prompt, prompts).grammar) for trace in sample}
    desk = Desk(sample, store, label_set(cfg.labels.name), grammars)
    if absent := [trace.image_path for trace in sample if not Path(trace.image_path).is_file()]:
        log.warning("%d of %d images are missing, e.g. %s: such traces cannot be accepted", len(absent), len(sample),
                    absent[0])  # fmt: skip
    if cfg.serve:
        _serve(ReviewServer(desk, store.links(readers, cfg.renew_links), cfg.host, cfg.port))
    rank = {name: i for i, name in enumerate(readers)}
    decisions = sorted(store.decisions(), key=lambda d: (rank.get(d.reviewer, len(rank)), d.reviewer))
    return export_review(folder, traces, sample, decisions, desk.label_set.labels, cfg.n_resamples, cfg.seed)


def _serve(server: ReviewServer) -> None:
    for reviewer in server.links:
        log.info("%s: %s", reviewer, server.address(reviewer))
    log.info("each link is one reader's own; Ctrl-C stops the server and writes the results")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        log.info("stopped; the same command goes on")
    finally:
        server.server_close()


def _readers(cfg: DictConfig) -> list[str]:
    """The names of the readers; raises ValueError where they cannot be told apart."""
    names = [str(name).strip() for name in cfg.reviewers]
    if not names or "" in names or len({name.casefold() for name in names}) != len(names):
        raise ValueError(f"reviewers={list(cfg.reviewers)}: give each reader a name of his own, e.g. [anna,ben]")
    return names


def _check_host(cfg: DictConfig, traces: Sequence[Trace]) -> None:
    """Refuses (ValueError) a host that the traces must not be shown to; warns of any but this machine."""
    from chexreason.data.credentialed import agreement_for
    from chexreason.traces.endpoint import is_loopback_host

    if not cfg.serve or is_loopback_host(cfg.host):
        return
    if cfg.host in {"", "0.0.0.0", "::"}:
        raise ValueError(f"host={cfg.host!r} is every network at once: name the one address to serve on")
    way = f"to readers at host={cfg.host}: let them come through `ssh -L {cfg.port}:127.0.0.1:{cfg.port}`"
    allowed = agreement_for(traces, (), cfg.allow_export, way)  # a file of traces does not say what is public
    log.warning("host=%s: radiographs and traces travel this network unencrypted, to anyone who has a link; allowed "
                "by: %s", cfg.host, allowed)  # fmt: skip


@command()
def main(cfg: DictConfig) -> None:
    """Serve the review, then say what it found and where the results are."""
    from chexreason.review.summary import headlines

    for sentence in headlines(review(cfg)):
        log.info("%s", sentence)
    log.info("results: %s", Path(cfg.paths.out) / cfg.name)


if __name__ == "__main__":
    main()
