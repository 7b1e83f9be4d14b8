"""The reference of the site: a page per package, and docstrings of the house's style as reStructuredText."""

from __future__ import annotations

import re
from pathlib import Path

PROSE = ('Returns', 'Yields')                   # sections that are no lists
SECTIONS = ('Args', 'Attributes', 'Returns', 'Yields', 'Raises')
ENTRY = re.compile(r' {4}([\w, .*]+): (.*)')
PAGE = '''# {title}

{about}

```{{eval-rst}}
{modules}
```
'''
INDEX = '''# Reference

Every public part, from its docstring.

```{{toctree}}
:maxdepth: 1

{pages}
```
'''


def write_pages(root: Path, folder: Path) -> None:
    """Write a page for every package of `jrs`, and an index of them, into `folder`; pages of what is gone are removed."""
    package = root / 'jrs'
    groups = {'jrs': sorted(path for path in package.glob('*.py') if path.name not in ('__init__.py', '__main__.py'))}
    for place in sorted(package.iterdir()):
        if (place / '__init__.py').is_file():
            groups[f'jrs.{place.name}'] = [place / '__init__.py', *sorted(
                path for path in place.rglob('*.py') if path != place / '__init__.py')]
    folder.mkdir(exist_ok=True)
    for old in folder.glob('*.md'):
        if old.stem not in (*groups, 'index'):
            old.unlink()
    for name, files in groups.items():
        modules = [module_name(path, root) for path in files]
        text = '\n\n'.join(f'{module}\n{"-" * len(module)}\n\n.. automodule:: {module}' for module in modules)
        about = 'What other rooms stand on.' if name == 'jrs' else ''
        _write(folder / f'{name}.md', PAGE.format(title=f'Package {name}', about=about, modules=text))
    pages = '\n'.join(groups)
    _write(folder / 'index.md', INDEX.format(pages=pages))


def module_name(path: Path, root: Path) -> str:
    """Return ``jrs.heads.camera`` for a file below `root`."""
    parts = path.relative_to(root).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def as_rst(lines: list[str]) -> None:
    """Turn a docstring into reStructuredText, in place: sections become lists, backticks code, indented blocks stay."""
    found: list[str] = []
    section, verbatim = '', False
    for line in lines:
        heading = re.fullmatch(rf'({"|".join(SECTIONS)}):', line)
        entry = ENTRY.fullmatch(line) if section else None
        if heading:
            section, verbatim = heading[1], False
            found += ['', f'**{"Arguments" if section == "Args" else section}**', '']
        elif entry:
            names = ', '.join(f'``{name.strip()}``' for name in entry[1].split(','))
            found.append(f'- {names}: {marked(entry[2])}')
        elif section and line.startswith('    '):
            begins = '- ' if section not in PROSE and not line.startswith('     ') else '' if section in PROSE else '  '
            found.append(begins + marked(line.strip()))
        elif section and not line:
            found.append('')
        elif line.startswith('    ') and not section:
            if not verbatim:
                found += ['', '::', '']
            verbatim = True
            found.append(line)
        elif not line:
            found.append('')
        else:
            if verbatim or section:
                found.append('')
            section, verbatim = '', False
            found.append(marked(line))
    lines[:] = [*found, '']


def marked(text: str) -> str:
    """Return a line with what stands between backticks as code, and all else free of meaning."""
    parts = re.split(r'(``[^`]+``|`[^`]+`)', text)
    return ''.join(f'``{part.strip("`")}``' + _apart(parts, index) if index % 2 else re.sub(r'([\\*|`_])', r'\\\1', part)
                   for index, part in enumerate(parts))


def _apart(parts: list[str], index: int) -> str:
    """Return what must stand between code and a letter that follows it."""
    return '\\ ' if re.match(r'\w', parts[index + 1]) else ''


def _write(path: Path, text: str) -> None:
    """Write a page where it is another: an unchanged one is not read again."""
    if not path.is_file() or path.read_text(encoding='utf-8') != text:
        path.write_text(text, encoding='utf-8')
