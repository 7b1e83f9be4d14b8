"""What to do about an OpenCV that a machine cannot load."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from jrs.errors import JrsError

CURE = 'pip install --force-reinstall --no-deps opencv-contrib-python-headless'
PACKAGES = ('opencv-python', 'opencv-contrib-python', 'opencv-python-headless', 'opencv-contrib-python-headless')
SYSTEM_LIBRARY = re.compile(r'lib(GL|gthread|glib|SM|Xext|Xrender|xcb)\b.*cannot open shared object file')


def explained(error: ImportError) -> ImportError | JrsError:
    """Return what to say of an import that failed: of OpenCV for want of a system library, or half overwritten, the cure.

    mmengine and mmcv-lite ask for the package opencv-python, which needs libraries that bare machines lack (libGL). Ours
    asks for opencv-contrib-python-headless, which needs none. Both write the folder ``cv2``: pip, which installs leaves of
    the tree in the reverse order of their names, writes ours last; other installers, and later updates of opencv-python,
    may not.
    """
    text = str(error)
    if not SYSTEM_LIBRARY.search(text) and not (error.name or '').startswith('cv2'):
        return error
    there = ', '.join(f'{name} {found}' for name in PACKAGES if (found := _version(name)))
    return JrsError(f'OpenCV cannot be loaded: {text}. Installed are: {there or "none"}; all write the same folder, and '
                    f'those without "headless" need system libraries. The build without these comes with\n  {CURE}')


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ''
