"""`spatialt2i completion bash | zsh | fish`: a script that completes verbs, actions, presets, runs and settings.

The script holds all words, so that completing starts no Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from conf import Settings, presets
from conf.catalog import REWARDS, Setting, catalog, settings_of
from pipelines.common.run_lookup import RUNS
from pipelines.verbs import VERBS

_BASH = """# Completion of spatialt2i for bash. Use it with: source <(spatialt2i completion bash)
_spatialt2i() {
  local line=${COMP_LINE:0:COMP_POINT} words cur verb action given=""
  read -ra words <<< "$line"
  [[ $line == *" " ]] && words+=("")
  cur=${words[${#words[@]}-1]} verb=${words[1]} action=${words[2]}
  COMPREPLY=()
  if (( ${#words[@]} == 2 )); then
    COMPREPLY=($(compgen -W "@VERBS@" -- "$cur"))
    return
  fi
  if (( ${#words[@]} == 3 )); then
    case $verb in
@ACTIONS@
    esac
    [[ -n $given ]] && COMPREPLY=($(compgen -W "$given" -- "$cur")) && return
  fi
  if [[ $cur == *=* ]]; then
    case ${cur%%=*} in
      run_dir) [[ -d @RUNS@ ]] && given=$(printf '%s ' @RUNS@/*/) ;;
@CHOICES@
    esac
    COMPREPLY=($(compgen -W "$given" -- "${cur#*=}"))
    [[ $COMP_WORDBREAKS == *=* ]] || COMPREPLY=("${COMPREPLY[@]/#/${cur%%=*}=}")
    return
  fi
  if [[ $cur == *.* ]]; then
    COMPREPLY=($(compgen -W "@KEYS@" -- "$cur"))
    (( ${#COMPREPLY[@]} )) && compopt -o nospace 2>/dev/null
    return
  fi
  case "$verb $action" in
@SECTIONS@
  esac
  COMPREPLY=($(compgen -W "$given" -- "$cur"))
  [[ ${COMPREPLY[*]} == *[.=] ]] && compopt -o nospace 2>/dev/null
  COMPREPLY+=($(compgen -W "@PRESETS@" -- "$cur") $(compgen -d -- "$cur"))
}
complete -o default -F _spatialt2i spatialt2i
"""

_ZSH = """# Completion of spatialt2i for zsh. Use it with: source <(spatialt2i completion zsh)
autoload -U +X compinit && compinit -i
autoload -U +X bashcompinit && bashcompinit
"""


def bash(settings: Settings) -> None:
    """Prints the script for bash."""
    print(bash_script(), end="")


def zsh(settings: Settings) -> None:
    """Prints the script for zsh, which uses that for bash."""
    script = bash_script().replace('read -ra words <<< "$line"', "setopt local_options ksh_arrays; words=(${=line})")
    print(_ZSH + script, end="")


def fish(settings: Settings) -> None:
    """Prints the script for fish."""
    print("\n".join(_fish_lines()))


def bash_script() -> str:
    """The completion script for bash."""
    parts = {
        "VERBS": " ".join([*VERBS, "--help", "--version"]),
        "ACTIONS": _cases(6, {verb: " ".join(actions) for verb, actions in VERBS.items() if len(actions) > 1}),
        "CHOICES": _cases(6, {setting.key: " ".join(values) for setting, values in _choices()}),
        "KEYS": " ".join(f"{REWARDS}." if key == REWARDS else f"{key}=" for key in catalog()),
        "SECTIONS": _cases(4, dict(_first_words())),
        "PRESETS": " ".join(presets()),
        "RUNS": RUNS,
    }
    script = _BASH
    for name, text in parts.items():
        script = script.replace(f"@{name}@", text)
    return script


def _cases(indent: int, given: Mapping[str, str]) -> str:
    """The branches of a `case` that set the variable `given`."""
    return "\n".join(f'{" " * indent}{pattern}) given="{words}" ;;' for pattern, words in given.items())


def _choices() -> Iterator[tuple[Setting, list[str]]]:
    """Each setting with few possible values, and those values."""
    for setting in catalog().values():
        values = ["true", "false"] if setting.type is bool else [str(choice) for choice in setting.choices]
        if values:
            yield setting, values


def _first_words() -> Iterator[tuple[str, str]]:
    """A pattern of "verb action" -> the sections and general settings that its help describes."""
    general = [f"{setting.key}=" for setting in settings_of("") if setting.key != "preset"]
    for verb, actions in VERBS.items():
        for name, action in actions.items():
            sections = [f"{section}." for section in action.sections]
            pattern = f'"{verb} {name}"' if len(actions) > 1 else f'"{verb} "*'
            yield pattern, " ".join([*sections, *general])


def _fish_lines() -> Iterator[str]:
    yield "# Completion of spatialt2i for fish. Use it with: spatialt2i completion fish | source"
    yield "complete -c spatialt2i -e"
    for verb, actions in VERBS.items():
        first = next(iter(actions.values()))
        about = first.help if len(actions) == 1 else ", ".join(actions)
        yield f"complete -c spatialt2i -f -n __fish_use_subcommand -a {verb} -d {_fish_text(about)}"
        if len(actions) > 1:
            alone = f"__fish_seen_subcommand_from {verb}; and not __fish_seen_subcommand_from {' '.join(actions)}"
            for name, action in actions.items():
                yield f'complete -c spatialt2i -f -n "{alone}" -a {name} -d {_fish_text(action.help)}'
    known = "not __fish_use_subcommand"
    for preset in presets():
        yield f'complete -c spatialt2i -n "{known}" -a {preset} -d preset'
    yield f'complete -c spatialt2i -n "{known}" -a "run_dir="(printf "%s " {RUNS}/*/) -d "run directory"'
    with_choices = {setting.key: values for setting, values in _choices()}
    for key, setting in catalog().items():
        words = [f"{key}={value}" for value in with_choices.get(key, [""])]
        yield f'complete -c spatialt2i -n "{known}" -a "{" ".join(words)}" -d {_fish_text(setting.meaning)}'


def _fish_text(text: str) -> str:
    """A description as a quoted word of fish, cut at the end of its first sentence."""
    sentence = text.partition(". ")[0][:80]
    return "'" + sentence.replace("\\", "\\\\").replace("'", "\\'") + "'"
