"""Lightning side of training: the base module, supervised fine-tuning, the data module."""
