"""What preparing ScanNet costs: CPU seconds and bytes of a frame, of a generated scan with the sizes of ScanNet's.

    python benchmarks/preparation.py --json benchmarks/results/preparation_cpu.json

Writes a built-in room as a raw scan: 640 x 480 pictures enlarged to 1296 x 968 with the noise of a camera, as JPEG; depth of
a noisy sensor, 640 x 480; a mesh about as fine as ScanNet's. Prepares it as `tools/prepare.py scannet` does, every frame of
it, in this process. Real pictures have other bytes: those of a frame are an estimate. Seconds hang on sizes more than on
content.
"""

from __future__ import annotations

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import argparse  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402

import cv2  # noqa: E402
import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import publish  # noqa: E402
from jrs.datasets.prepare.scannet import prepare_scannet  # noqa: E402
from jrs.io import scannet  # noqa: E402
from jrs.io.png import encode_jpeg  # noqa: E402
from jrs.io.sens import SensHeader, SensReader, write_sens  # noqa: E402
from jrs.synth.presets import PRESETS  # noqa: E402
from jrs.synth.scan import label_table, scan_id, write_scan  # noqa: E402

COLOR_SIZE, DEPTH_SIZE = (968, 1296), (480, 640)
SPACING, OBJECT_VERTICES = 0.015, 8000         # metres between vertices of walls; vertices of a thing
NOISE, JPEG_QUALITY = 4.0, 85                  # of 255


def main() -> None:
    """Measure, print a line of JSON, append it to a list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--frames', type=int, default=20)
    parser.add_argument('--json', type=Path, help='append the measurement to this list')
    args = parser.parse_args()
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder) / 'raw', Path(folder) / 'out'
        scan = write_raw(raw, args.frames)
        start = time.process_time()
        prepare_scannet(raw, out, every=1, progress=print)
        seconds = time.process_time() - start
        scene = out / scan.name
        mesh = (scene / 'mesh.ply').stat().st_size
        written = sum(path.stat().st_size for path in scene.rglob('*') if path.is_file()) - mesh
        sens = scannet.scan_file(scan, scannet.SENS).stat().st_size
        figures = dict(frames=args.frames, seconds_per_frame=seconds / args.frames, raw_bytes_per_frame=sens / args.frames,
                       prepared_bytes_per_frame=written / args.frames, mesh_bytes=mesh, mesh_vertices=vertices(scene))
    publish(figures, args.json)


def write_raw(raw: Path, frames: int) -> Path:
    """Write one room as a raw scan with the label table beside it; return the folder of the scan."""
    raw.mkdir()
    preset = replace(PRESETS['tiny'], frames=frames, size=DEPTH_SIZE, spacing=SPACING, object_vertices=OBJECT_VERTICES,
                     depth='sensor')
    write_scan(raw, 0, preset, preset.seed)
    scannet.write_label_table(raw / scannet.LABEL_TABLE, label_table())
    scan = raw / scan_id(0)
    enlarge_color(scannet.scan_file(scan, scannet.SENS))
    return scan


def enlarge_color(path: Path) -> None:
    """Write a `.sens` again with colour of `COLOR_SIZE`."""
    random = np.random.default_rng(0)
    scale = np.diag([*(np.array(COLOR_SIZE[::-1]) / DEPTH_SIZE[::-1]), 1, 1]).astype(np.float32)
    with SensReader(path) as reader:
        header, frames = reader.header, []
        for index in range(len(reader)):
            picture = cv2.resize(reader.color(index), COLOR_SIZE[::-1], interpolation=cv2.INTER_CUBIC)
            picture = np.clip(picture + random.normal(0, NOISE, picture.shape), 0, 255).astype(np.uint8)
            frames.append(replace(reader.frame(index), color=encode_jpeg(picture, JPEG_QUALITY)))
    write_sens(path, SensHeader(scale @ header.intrinsic_color, header.intrinsic_depth, COLOR_SIZE, DEPTH_SIZE), frames)


def vertices(scene: Path) -> int:
    """Return how many vertices the mesh of a scene has."""
    from jrs.datasets.scene import read_mesh
    return len(read_mesh(scene / 'mesh.ply').vertices)


if __name__ == '__main__':
    main()
