"""LightningModules that wrap a policy: supervised fine-tuning and GRPO."""
