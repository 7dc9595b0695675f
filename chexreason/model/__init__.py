"""The policy: a vision-language model, its processor, and the few things that differ between architectures."""
