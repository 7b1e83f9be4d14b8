"""The documentation site: `make docs` builds it from the pages of docs/ and from the docstrings as they are."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

from reference import as_rst, write_pages  # noqa: E402

from jrs import __version__  # noqa: E402

project, author, copyright, release = 'jrs', 'the authors of jrs', 'Apache-2.0', __version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.viewcode']
html_theme, html_title, html_show_sphinx = 'alabaster', f'jrs {__version__}', False
html_theme_options = dict(page_width='1100px', sidebar_width='250px', fixed_sidebar=True, description='photos → 3D objects')
html_sidebars = {'**': ['about.html', 'searchbox.html', 'navigation.html']}
include_patterns = ['index.md', '*.md', 'reference/*.md']
exclude_patterns = ['site/**', '_build/**', 'notebooks/**', 'rooms/**']
source_suffix = {'.md': 'markdown'}
myst_heading_anchors = 3
myst_enable_extensions = ['html_image']
autodoc_default_options = {'members': True, 'member-order': 'bysource', 'show-inheritance': True,
                           'ignore-module-all': True}
autodoc_typehints, autodoc_preserve_defaults = 'signature', True
nitpicky = False
# Pygments has no names for what stands in blocks without one; `...` in Python examples is right.
# Two classes of one name in two rooms are told apart by their modules, not in every signature.
suppress_warnings = ['misc.highlighting_failure', 'ref.python']
OUTSIDE = re.compile(r'\]\((\.\./[^)#\s]*|(?:notebooks|rooms_[^)]*\.json)[^)#\s]*)\)')


def setup(app):
    """Write the pages of the reference, and read docstrings in the style of the house."""
    write_pages(ROOT, Path(app.srcdir) / 'reference')
    app.connect('autodoc-process-docstring', lambda app, what, name, thing, options, lines: as_rst(lines))
    app.connect('source-read', _links_to_the_repository)
    return dict(parallel_read_safe=False)


def _links_to_the_repository(app, name, source):
    """Show links to files that are no pages of the site as their paths; tests/test_readme.py checks that they are there."""
    def shown(found):
        path = (Path(app.srcdir) / found[1]).resolve()
        if not path.exists():
            raise FileNotFoundError(f'{name}: {found[1]}')
        return f'] (`{path.relative_to(ROOT)}`)'
    source[0] = re.sub(r'\[([^]]*)' + OUTSIDE.pattern, lambda found: f'[{found[1]}' + shown([None, found[2]]), source[0])
