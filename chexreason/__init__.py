"""Train a chest X-ray vision-language model in R1 style, and measure whether it transfers to another hospital."""

from importlib.util import find_spec

if None in map(find_spec, ("fcntl", "resource")):
    raise ImportError("chexreason needs Linux or macOS (no fcntl or resource here): on Windows run it in WSL2")

__version__ = "0.1.0"
