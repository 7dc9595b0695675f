"""Strategies scored by the rewards without a model, to see what a reward pays for."""
