"""Scripts that complete `maxsearch` in a shell: tyro's, and the first words that it does not know, such as presets."""

import contextlib
import io
from collections.abc import Mapping
from typing import Literal

SHELLS = ("bash", "zsh", "fish")

BASH = """
_maxsearch() {
  local -a words
  if (( COMP_CWORD == 2 )); then
    case "${COMP_WORDS[1]}" in
CASES
    esac
  fi
  COMPREPLY=($(compgen -W "${words[*]}" -- "${COMP_WORDS[COMP_CWORD]}"))
  (( ${#COMPREPLY[@]} )) && return
  _tyro_maxsearch
  # An empty answer leaves room for the names of files.
  [[ "${COMPREPLY[*]}" ]] || COMPREPLY=()
  [[ -e "${COMPREPLY[0]}" ]] && compopt -o filenames
  return 0
}
complete -o default -F _maxsearch maxsearch
"""
ZSH = """
if (( CURRENT == 3 )) && [[ "$PREFIX" != -* ]]; then
  case "${words[2]}" in
CASES
  esac
fi
"""
CASES = {
    "bash": "      {name}) words=({words}) ;;",
    "zsh": "    {name}) compadd -- {words}; _files; return ;;",
    "fish": "complete --command maxsearch --condition 'test (count (commandline -opc)) -eq 2; "
    "and __fish_seen_subcommand_from {name}' --arguments '{words}'",
}


def script(shell: Literal["bash", "zsh", "fish"]) -> str:
    """The script for a shell; it starts no maxsearch, so that it answers at once."""
    told = _by_tyro(shell)
    cases = "\n".join(CASES[shell].format(name=name, words=" ".join(words)) for name, words in first_words().items())
    if shell == "bash":
        return told + BASH.replace("CASES", cases)
    if shell == "zsh":
        head, rest = told.split("\n", 1)  # #compdef must come first
        return head + ZSH.replace("CASES", cases) + rest
    return f"{told}\n{cases}\n"


def first_words() -> Mapping[str, list[str]]:
    """What may follow a sub-command whose first word is one of a few."""
    from maxsearch.ablation.ladder import ladder_names
    from maxsearch.presets import preset_names

    presets = preset_names()
    return {"train": presets, "plan": presets, "ablate": ladder_names(), "completion": list(SHELLS)}


def _by_tyro(shell: str) -> str:
    from maxsearch.cli import parse

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        parse(["--tyro-print-completion", shell])
    return said.getvalue()
