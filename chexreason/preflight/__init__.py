"""Checks before a run: settings that would do nothing or corrupt it, and the memory it will take."""
