"""Sources of radiographs: one vendor (or renderer) a file; each yields the rows of a manifest."""
