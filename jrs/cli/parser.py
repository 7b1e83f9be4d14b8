"""The parser of all commands."""

from __future__ import annotations

import argparse

from jrs.places import config_named, typed


class Parser(argparse.ArgumentParser):
    """A command's options; its help writes commands as they are typed here (`jrs.places.typed`)."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.prog = typed(self.prog)

    def format_help(self) -> str:
        """Return the help."""
        return typed(super().format_help())


def config_argument(text: str) -> str:
    """Return the path of a config that a command line names, for argparse; what there is not stays for its own error."""
    return config_named(text)
