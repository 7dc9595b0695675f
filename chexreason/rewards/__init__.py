"""Rewards: one idea a file, each a callable that returns its named parts."""
