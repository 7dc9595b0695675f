"""Phantom hospitals: procedurally rendered chest radiographs whose every sign, and every shift, is known."""

from chexreason.phantom.source import PhantomSource

__all__ = ["PhantomSource"]
