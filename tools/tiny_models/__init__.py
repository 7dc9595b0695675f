"""The programs that train the shipped models; `make tiny-models` runs them all."""
