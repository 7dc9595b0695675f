"""Evaluation: from predictions.jsonl alone to figures with intervals, tables and one page to read."""
