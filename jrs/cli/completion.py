"""``tools/completion.py``: a script by which a shell completes commands, options and names of experiments."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator

from jrs.cli.parser import Parser, config_argument
from jrs.places import experiments

EXAMPLES = """examples:
  jrs completion bash > ~/.local/share/bash-completion/completions/jrs       read by the next shell
  jrs completion zsh > ~/.jrs_completion                                     and in ~/.zshrc: source ~/.jrs_completion
  jrs completion fish > ~/.config/fish/completions/jrs.fish

Experiments are those that can be named in this moment and folder. Write the script again after an update.
"""
BASH = '''# Completion of jrs, written by `jrs completion {kind}`.
_jrs() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" words files=
    case "${{COMP_WORDS[1]}}" in
{cases}
    *) words= ;;
    esac
    [ "$COMP_CWORD" -eq 1 ] && words="{commands}" && files=
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    [ -n "$files" ] && [ "${{word:0:1}}" != "-" ] && COMPREPLY+=($(compgen -f -- "$word"))
}}
complete -o filenames -F _jrs jrs
'''
CASE = '    {name}) words="{words}" files=1 ;;'
ZSH = 'autoload -U +X bashcompinit && bashcompinit\n'


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/completion.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('shell', choices=('bash', 'zsh', 'fish'))
    return options


def main(argv: list[str] | None = None) -> None:
    """Print the script."""
    print(script(parser().parse_args(argv).shell), end='')


def script(shell: str) -> str:
    """Return the completion script of a shell."""
    from jrs.cli import COMMANDS
    names = sorted(experiments())
    words = {name: sorted(words_of(_parser_of(name), names)) for name in COMMANDS}
    if shell == 'fish':
        return '\n'.join(['# Completion of jrs, written by `jrs completion fish`.', *_fish_lines(COMMANDS, words), ''])
    cases = '\n'.join(CASE.format(name=name, words=' '.join(found)) for name, found in words.items())
    body = BASH.format(kind=shell, cases=cases, commands=' '.join(COMMANDS))
    return ZSH + body if shell == 'zsh' else body


def words_of(parser: argparse.ArgumentParser, names: list[str]) -> set[str]:
    """Return what can stand behind a command: options, words of subcommands and choices, and where it takes one `names`."""
    found: set[str] = set()
    for action in parser._actions:
        if action.help != argparse.SUPPRESS:
            found.update(action.option_strings)
            found.update(str(choice) for choice in action.choices or ())
            found.update(names if action.type is config_argument else ())
        if isinstance(action, argparse._SubParsersAction):
            found.update(word for one in action.choices.values() for word in words_of(one, names))
    return found


def _parser_of(name: str) -> argparse.ArgumentParser:
    module = importlib.import_module(f'jrs.cli.{name}')
    return (getattr(module, 'parser', None) or module._parser)()


def _fish_lines(commands: dict[str, str], words: dict[str, list[str]]) -> Iterator[str]:
    for name, text in commands.items():
        about = text.replace("'", '’')
        yield f"complete -c jrs -n __fish_use_subcommand -f -a {name} -d '{about}'"
        options = [word[2:] for word in words[name] if word.startswith('--')]
        yield from (f"complete -c jrs -n '__fish_seen_subcommand_from {name}' -l {option}" for option in options)
        plain = ' '.join(word for word in words[name] if not word.startswith('-'))
        if plain:
            yield f"complete -c jrs -n '__fish_seen_subcommand_from {name}' -a '{plain}'"
