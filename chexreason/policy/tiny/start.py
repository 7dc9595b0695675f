"""Stage 0 of the tiny models: train the tokenizers and write both folders with random weights.

    python -m chexreason.policy.tiny.start

Later stages keep the tokenizer and the architecture written here and replace the weights alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from chexreason.policy.tiny.configs import MODELS, build_model, build_processor
from chexreason.policy.tiny.package import WEIGHTS, write_package
from chexreason.policy.tiny.tokenizer import build_tokenizer


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, default=Path("conf/prompt"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in MODELS:
        tokenizer = build_tokenizer(name, args.prompts, args.seed)
        model = build_model(name, tokenizer, args.seed)
        write_package(model, build_processor(name, tokenizer), WEIGHTS / name)
        print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")


if __name__ == "__main__":
    main()
