"""Figures of predictions: pure functions of answers and truth, each with its source."""
