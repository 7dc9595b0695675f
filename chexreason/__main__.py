"""``chexreason <verb> ...``: the commands of ``chexreason/cli``, one a file, each read by ``conf/<verb>.yaml``.

``chexreason train ...`` is ``python -m chexreason.cli.train ...`` and imports nothing else before it.
"""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path

from chexreason.confdir import confdir

# Hydra completes keys and choices; its own script knows programs without verbs only, so the verb leaves the line.
_COMPLETION = """\
_chexreason() {{
  local verb=${{COMP_WORDS[1]}} words
  if ((COMP_CWORD == 1)); then words="{verbs}"
  else words=$(COMP_LINE="chexreason ${{COMP_LINE#*"$verb" }}" "${{COMP_WORDS[0]}}" "$verb" -sc query=bash 2>/dev/null)
  fi
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
COMP_WORDBREAKS=${{COMP_WORDBREAKS//=}}
complete -o nospace -o default -F _chexreason chexreason
"""
_USAGE = """\
usage: chexreason <verb> [key=value ...]  (or: python -m chexreason.cli.<verb>)

{verbs}

chexreason <verb> --help    the settings of a verb, each where it is described
Tab completes verbs, keys and choices in bash, and in zsh after bashcompinit:
  source <(chexreason --completion)
"""


def verbs() -> dict[str, str]:
    """The commands and the first sentence of their configs, in alphabetical order."""
    files = sorted((Path(__file__).parent / "cli").glob("[a-z]*.py"))
    found = {}
    for config in (Path(confdir()) / f"{file.stem}.yaml" for file in files):
        if config.is_file():
            text = " ".join(re.findall(r"^# (.*)$", config.read_text(encoding="utf-8"), re.MULTILINE)[:3])
            found[config.stem] = re.split(r"[.:;,] | \(|\.$", text)[0]
    return found


def main() -> None:
    """Run the verb of the command line as if its module had been started; without one, list them."""
    verb, known = next(iter(sys.argv[1:]), "--help"), verbs()
    if verb in ("--help", "-h", "help"):
        print(_USAGE.format(verbs="\n".join(f"  {name:11s}{text}" for name, text in known.items())), end="")
    elif verb == "--completion":
        print(_COMPLETION.format(verbs=" ".join(known)), end="")
    elif verb in known:
        del sys.argv[1]
        sys.path[:0] = [os.getcwd()]  # as python -m does: a config may name a class that lies here
        runpy.run_module(f"chexreason.cli.{verb}", run_name="__main__", alter_sys=True)
    else:
        from chexreason.errors import did_you_mean

        near = did_you_mean(verb, known) or f"; choose one of: {', '.join(known)}"
        print(f"error: there is no verb {verb!r}{near}", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    main()
