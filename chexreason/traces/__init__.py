"""Reasoning traces: what supervised fine-tuning learns from."""
