"""Execute the notebooks of docs/notebooks in an empty folder; a cell that fails stops with its traceback."""

import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]

if __name__ == '__main__':
    os.environ['PYTHONPATH'] = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    os.environ['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    for path in sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb')):
        start, notebook = time.monotonic(), nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        with tempfile.TemporaryDirectory(prefix='notebook_') as folder:
            NotebookClient(notebook, timeout=900, resources=dict(metadata=dict(path=folder))).execute()
        cells = sum(cell.cell_type == 'code' for cell in notebook.cells)
        print(f'{path.relative_to(ROOT)}: {cells} cells executed, {time.monotonic() - start:.0f} s')
