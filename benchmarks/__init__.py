"""Benchmarks, run by `make bench-*`; each writes out/bench/<name>.json."""
