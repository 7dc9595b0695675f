"""Mix two adapters in their weights: ``python -m chexreason.cli.blend 'adapters=[SFT, GRPO]' alpha=0.5``."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from chexreason import runs
from chexreason.cli import command
from chexreason.owners import wall_off

log = logging.getLogger(__name__)


def blend(cfg: DictConfig) -> Path:
    """Write the blend to ``<run_dir>/adapter/best``, where a training leaves its own; returns that folder.

    Raises ValueError where the two adapters or alpha do not fit.
    """
    from chexreason.model.adapters import trained_on
    from chexreason.model.blend import write_blend

    run_dir = Path(cfg.run_dir)
    folder = run_dir / "adapter" / "best"
    with runs.open_run(run_dir, cfg):
        if runs.is_done(run_dir):
            runs.read_done(run_dir)
            log.info("%s is DONE: nothing to blend", run_dir)
            return folder
        if not all(row.get("public") is True for adapter in cfg.adapters for row in trained_on(adapter)):
            wall_off(run_dir)
        write_blend(list(cfg.adapters), cfg.alpha, folder)
        runs.mark_done(run_dir, {"alpha": cfg.alpha})
        return folder


@command(runs.RunError)
def main(cfg: DictConfig) -> None:
    """Blend, and say where the adapter lies."""
    folder = blend(cfg)
    log.info("alpha=%g of %s: %s", cfg.alpha, " and ".join(cfg.adapters), folder)


if __name__ == "__main__":
    main()
