"""The audit of prepared data sets: every figure one should know before training, as a page and as JSON."""
