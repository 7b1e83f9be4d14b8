"""Predictions on the benchmark's mesh as the files that its program reads (`jrs.io.submission`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jrs.benchmarks import Benchmark
from jrs.errors import DataError
from jrs.evaluation.instance_ap import SceneMatches
from jrs.io.atomic import writing_to
from jrs.io.names import MAX_SCENE_NAME, is_text
from jrs.io.submission import SceneSubmission, submission_format, write_submission
from jrs.structures import SceneGroundTruth

ONCE = 'class_agnostic'                        # folder of the lists with each query once


def check_names(scene_names: Sequence[str]) -> None:
    """Raise a DataError for the first scene whose name cannot stand in a list of masks."""
    for name in scene_names:
        if not name or name.split() != [name] or len(os.fsencode(name)) > MAX_SCENE_NAME or not is_text(name):
            raise DataError(f'predictions of scene {name!r} cannot be saved: files of masks are called by the scene, which '
                            f'must be one word of text of at most {MAX_SCENE_NAME} bytes. Rename the folder of the scene, '
                            'and the scene in its scene.json and split list.')


def save_predictions(folder: Path, benchmark: Benchmark, truth: SceneGroundTruth, masks: np.ndarray, labels: np.ndarray,
                     scores: np.ndarray, counted: SceneMatches) -> None:
    """Write those predictions of a scene that count: masks smaller than the minimum region are dropped by every evaluation.

    Args:
        folder: gets `<scene>.txt` and a folder of masks.
        benchmark: whose format it is.
        truth: of the scene.
        masks: (M, ceil(N / 8)) uint8, bits of the N vertices.
        labels: (M,) class ids of the data set.
        scores: (M,).
        counted: what was counted of these predictions; its rows are written.

    Raises:
        DataError: the scene has no mesh, to whose vertices files could refer.
    """
    if truth.source != 'mesh':
        raise DataError(f'{truth.scene_name}: predictions are saved for the vertices of a mesh, and this scene has none: it '
                        f'is scored on {truth.source}.')
    rows = counted.row
    found = SceneSubmission(masks[rows], labels[rows], scores[rows].astype(np.float64), len(truth.vertices))
    with writing_to(folder):
        write_submission(folder, truth.scene_name, submission_format(benchmark.submission_format), found)
