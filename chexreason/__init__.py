"""Train a chest X-ray vision-language model in R1 style, and measure whether it transfers to another hospital."""

__version__ = "0.1.0"
