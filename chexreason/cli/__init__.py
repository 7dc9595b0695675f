"""The commands: prepare, train, evaluate, report."""
