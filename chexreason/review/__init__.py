"""The radiologist's review: a sample of traces, a page on the reader's own machine, decisions and agreement."""
