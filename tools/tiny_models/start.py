"""Stage 0 of the tiny models: train the tokenizers and write both folders with random weights.

    python -m tools.tiny_models.start

Later stages keep the tokenizer and the architecture written here and replace the weights alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.tiny_models.configs import MODELS, build_model, build_processor
from tools.tiny_models.package import WEIGHTS, write_package
from tools.tiny_models.tokenizer import build_tokenizer


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
