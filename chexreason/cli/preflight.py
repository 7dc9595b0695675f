"""Before a run: ``python -m chexreason.cli.preflight model=medgemma_4b trainer=gpu`` plans its memory."""

from __future__ import annotations

from omegaconf import DictConfig

from chexreason.cli import command
from chexreason.errors import printable


@command(ModuleNotFoundError)
def main(cfg: DictConfig) -> None:
    """Print the plan; with ``settings=true`` check the settings, with ``measure=true`` run the worst batch as well."""
    from chexreason.build.model import quiet
    from chexreason.cli.checks import check_data, check_fit, measure_run, plan  # torch: not for --help
    from chexreason.preflight.memory import GIB

    quiet()
    planned = plan(cfg)
    print(planned.table())
    if cfg.settings:
        warnings = check_data(cfg)
        print("settings:" if warnings else "settings: no fault found")
        for text in warnings:
            print(f"  (warning) {printable(text)}")
    check_fit(cfg, planned)
    if cfg.measure:
        for name, peak in measure_run(cfg).items():
            print(f"measured {name:<12}{peak / GIB:>8.2f} GiB")


if __name__ == "__main__":
    main()
