"""``tools/vocabulary.py``: names -> a vocabulary file with their text embeddings."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from jrs.benchmarks import BENCHMARKS
from jrs.cli.parser import Parser
from jrs.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from jrs.io.vocabulary import Vocabulary

PROMPT = 'a photo of a {}.'
EXAMPLES = """examples:
  python tools/vocabulary.py words/clip.yaml --encoder clip-vit-base-patch32 --names scannet200 scannetpp
  python tools/vocabulary.py words/mine.yaml --encoder clip-vit-base-patch32 --names scannet200 "guitar, fire extinguisher"
  python tools/vocabulary.py words/siglip.yaml --encoder siglip-base-patch16-224 --names words.txt --prompt "a picture of {}"
  python tools/vocabulary.py words/rooms.yaml --encoder attributes           the stand-in of the built-in rooms; no model

--encoder is the folder of any CLIP or SigLIP that you have, as transformers saves it (config.json, weights, tokenizer):
nothing is downloaded. It needs the extra `text`: pip install "jrs[text]". What is encoded is --prompt with the name in it;
weights of a TextClassHead go with the encoder that they were trained with, and refuse the words of another. A configuration
names the file in model.class_head.vocabulary; `infer.py --classes` takes words of it. WORDS.yaml is text (names, encoder,
source), WORDS.safetensors beside it has the embeddings.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = Parser(prog='tools/vocabulary.py', description=__doc__, epilog=EXAMPLES,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('out', type=Path, metavar='WORDS.yaml', help='the file to write; a .safetensors goes beside it')
    options.add_argument('--encoder', required=True, metavar='FOLDER', help="a CLIP or SigLIP, or the word 'attributes'")
    options.add_argument('--names', nargs='+', metavar='WHAT', help='the names of a benchmark '
                         f'({", ".join(BENCHMARKS)}), a file with a name on each line, another vocabulary, or words with '
                         "commas between; together, each once. With 'attributes': default all that it has")
    options.add_argument('--prompt', default=PROMPT, help=f'what is encoded, {{}} is the name (default "{PROMPT}")')
    options.add_argument('--encoder-name', metavar='NAME', help='how the file calls the encoder; default: its folder')
    return options


def main(argv: list[str] | None = None) -> None:
    """Encode and write; one line per file."""
    args = parser().parse_args(argv)
    from jrs.io.vocabulary import ATTRIBUTES, write_vocabulary
    made = stand_in(args.names) if args.encoder == ATTRIBUTES else encoded(args)
    written = write_vocabulary(args.out, made)
    print(f'{len(made.names)} words, width {made.width}, by {made.encoder}')
    print('written: ' + ', '.join(map(str, written)))


def stand_in(asked: Sequence[str] | None) -> Vocabulary:
    """Return the words of the built-in rooms, those that are asked for."""
    from dataclasses import replace

    from jrs.io.vocabulary import ATTRIBUTES, read_vocabulary
    words = read_vocabulary(ATTRIBUTES)
    if asked is None:
        return words
    names = names_of(asked)
    return replace(words, names=tuple(names), embeddings=words.rows(names))


def encoded(args: argparse.Namespace) -> Vocabulary:
    """Return the names with what a language model makes of them."""
    from jrs.io.text_encoder import TextEncoder
    from jrs.io.vocabulary import Vocabulary, check_names
    if args.names is None:
        raise DataError('--names: say which words, for example --names scannet200 "guitar, fire extinguisher".')
    if '{}' not in args.prompt:
        raise DataError(f'--prompt {args.prompt!r} has no {{}}, the place of the name.')
    names = names_of(args.names)
    check_names(names, '--names')
    embeddings = TextEncoder(args.encoder)([args.prompt.replace('{}', name) for name in names])
    encoder = args.encoder_name or Path(args.encoder).resolve().name
    return Vocabulary(tuple(names), embeddings, encoder, ' and '.join(args.names), args.prompt)


def names_of(asked: Sequence[str]) -> list[str]:
    """Return the names that benchmarks, files and lists give together, each once, in that order.

    Raises:
        DataError: a file that is not there, or is no text.
    """
    from jrs.io.text import read_text
    from jrs.io.vocabulary import read_vocabulary, split_names
    found: list[str] = []
    for what in asked:
        if what in BENCHMARKS:
            found += BENCHMARKS[what].class_names
        elif Path(what).suffix in ('.yaml', '.yml'):
            found += read_vocabulary(what).names
        elif Path(what).suffix == '.txt' or Path(what).is_file():
            found += [line.strip() for line in read_text(what).splitlines() if line.strip()]
        else:
            _refuse_near_benchmarks(what)
            found += split_names(what)
    return list(dict.fromkeys(found))


def _refuse_near_benchmarks(what: str) -> None:
    """Raise a DataError for a misspelt benchmark, which would be one strange word."""
    if re.search(r'[\d_]', what) and get_close_matches(what, BENCHMARKS):
        raise DataError(f'--names {what}: there is no such benchmark.{did_you_mean(what, BENCHMARKS)} A word needs a '
                        f'comma: "{what},".')
