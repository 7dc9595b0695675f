"""A logger that stands for every tracking server."""

from __future__ import annotations

from lightning.pytorch.loggers import Logger

MADE: list[Recorder] = []


class Recorder(Logger):
    """A tracking server that keeps what it is sent."""

    name = version = "recorder"

    def __init__(self, run_dir=None, config=None, **settings) -> None:
        super().__init__()
        self.run_dir, self.config, self.settings, self.sent = run_dir, config, settings, []
        MADE.append(self)

    def log_metrics(self, metrics, step=None):
        self.sent.append(metrics)

    def log_hyperparams(self, params, *args, **kwargs):
        self.sent.append(params)
