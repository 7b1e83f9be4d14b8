"""Text and JSON files of others: read whole, or refused with the name of the file."""

from __future__ import annotations

import json
import os
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path
from typing import Any

from jrs.errors import DataError


def read_bytes(path: str | os.PathLike) -> bytes:
    """Return the bytes of a file; raises a DataError for one that is not there, or whose name no file can have."""
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise DataError(f'There is no file {path}.') from None
    except (OSError, ValueError) as error:
        raise DataError(f'{path}: cannot be read ({getattr(error, "strerror", None) or error}).') from error


def read_text(path: str | os.PathLike) -> str:
    """Return the text of a UTF-8 file, with or without a byte-order mark; raises a DataError for any other."""
    try:
        return Path(path).read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        hint = ' It begins as UTF-16 does: save it as UTF-8.' if error.object[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else ''
        raise DataError(f'{path}: not UTF-8 text ({error.reason} at byte {error.start}).{hint}') from error
    except (OSError, ValueError) as error:
        raise DataError(f'{path}: cannot be read ({getattr(error, "strerror", None) or error}).') from error


def read_json(path: str | os.PathLike) -> Any:
    """Return what a JSON file holds; raises a DataError for no JSON, for nesting or numbers without end."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f'{path}: not JSON ({str(error)[:200]}); it may be cut off.') from error
