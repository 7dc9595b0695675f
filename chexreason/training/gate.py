"""The gate in front of every logger beyond a run's own csv: figures pass, all else only by the rule of the data."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from lightning.pytorch.loggers import Logger

from chexreason.data.credentialed import ExportError, Record, agreement_for
from chexreason.files import MASK, without_secrets

_FIGURE = re.compile(r"(?:train|val|test|sft|rl)/.{1,200}|epoch|step|trainer/global_step")
_ROOT = r"(?:file:/|~\w*/|/|[A-Za-z]:\\|\\\\)"  # how an absolute path begins, here or on another machine
_PATH = re.compile(rf"^{_ROOT}.*|(?<=[\s=:,'\"(\[]){_ROOT}[^\s,'\")\]]+", re.DOTALL)


class Gate(Logger):
    """``logger``, reached by what may leave this machine.

    Figures pass, except those below a prefix in ``small``: they are of too few patients. A table passes where every
    study that it was made of is of a ``public`` set, or ``allow_export`` names the agreement. Settings pass as
    ``shareable`` leaves them. Nothing else does: the gate has no ``experiment`` and takes no graph and no checkpoint.
    """

    def __init__(
        self, logger: Logger, public: Collection[str], small: Collection[str], allow_export: str | None = None
    ) -> None:
        super().__init__()
        self.logger, self.public, self.small, self.allow_export = logger, public, tuple(small), allow_export

    name = property(lambda self: self.logger.name)
    version = property(lambda self: self.logger.version)
    save_dir = property(lambda self: self.logger.save_dir)

    def finalize(self, status: str) -> None:
        self.logger.finalize(status)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Passes figures on; raises ExportError on what is none, or has another name than a figure's."""
        if odd := [k for k, value in metrics.items() if not _FIGURE.fullmatch(k) or not isinstance(value, Real)]:
            raise ExportError(f"'{odd[0]}' is no figure called train/..., val/... or test/...: no logger gets it")
        if passed := {k: value for k, value in metrics.items() if not k.startswith(self.small)}:
            self.logger.log_metrics(passed, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.logger.log_hyperparams(shareable(dict(params) if isinstance(params, Mapping) else vars(params)))

    def log_table(
        self, key: str, columns: Sequence[str], rows: list[list[Any]], of: Iterable[Record], step: int
    ) -> None:
        """Passes on a table made of the studies ``of``; raises ExportError where it may not leave."""
        agreement_for(of, self.public, self.allow_export, f"into the table '{key}'")
        self.logger.log_table(key, list(columns), rows, step=step)  # type: ignore[attr-defined]


def shareable(config: Any) -> Any:
    """A config as it may leave this machine: its paths, logins and keys are masked."""
    if isinstance(config, Mapping):
        return {key: shareable(value) for key, value in without_secrets(dict(config)).items()}
    if isinstance(config, list | tuple):
        return [shareable(value) for value in config]
    return config if config is None or isinstance(config, Real) else _PATH.sub(MASK, without_secrets(str(config)))
