"""Figures 3 and 4: where the query of an instance looks, with and without FADA; over classes, over layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jrs.engine.attention import ShownInstance
from jrs.report.figures.sheet import Cell, Row
from jrs.visualization.attention import brightest_of, heat_overlay, outlined
from jrs.visualization.pictures import Picture, scale_to, to_numpy, to_picture

CELL_PIXELS = 480                               # width of a picture before print
Shown = Mapping[str, ShownInstance]             # label of a checkpoint -> the same instance


def telling_views(visibility: np.ndarray, count: int) -> np.ndarray:
    """Return `count` of the views in order: half of them where most of the instance is seen, the others spread evenly.

    Args:
        visibility: (V,) share of the instance's pixels in each view.
        count: at least 1; V where there are fewer.
    """
    views = len(visibility)
    seen = int((visibility > 0).sum())
    best = np.argsort(-visibility, kind='stable')[:min(seen, -(-count // 2))]
    rest = np.setdiff1d(np.arange(views), best)
    more = min(count - len(best), len(rest))
    spread = rest[np.unique(np.linspace(0, len(rest) - 1, more).round().astype(int))] if more > 0 else rest[:0]
    return np.sort(np.concatenate([best, spread]))


def class_rows(items: Sequence[tuple[str, Shown]], layers: Mapping[str, int], views: int) -> list[Row]:
    """Return the rows of Figure 3: per class the photos with the true mask, then a row of maps per checkpoint.

    Args:
        items: name of a class and its instance, by checkpoint.
        layers: label of a checkpoint -> the layer that is shown.
        views: cells in a row.
    """
    rows = []
    for name, shown in items:
        chosen = telling_views(to_numpy(next(iter(shown.values())).visibility), views)
        rows.append(photo_row(next(iter(shown.values())), chosen, name))
        rows += [map_row(item, layers[label], chosen, label) for label, item in shown.items()]
    return rows


def layer_rows(name: str, shown: Shown, layers: Mapping[str, Sequence[int]], views: int) -> list[Row]:
    """Return the rows of Figure 4: the photos with the true mask of one instance, then per checkpoint a row per layer."""
    chosen = telling_views(to_numpy(next(iter(shown.values())).visibility), views)
    rows = [photo_row(next(iter(shown.values())), chosen, name)]
    return rows + [map_row(item, layer, chosen, f'{label}, {layer}') for label, item in shown.items()
                   for layer in layers[label]]


def photo_row(item: ShownInstance, views: np.ndarray, name: str) -> Row:
    """Return the row of some views (n,) with the true mask outlined; above stands the view, in it how much it shows."""
    shares, mask = to_numpy(item.visibility), to_numpy(item.mask)
    cells = [Cell(outlined(_large(item, view), mask[view]), f'shows {shares[view]:.0%}' if shares[view] else 'not seen')
             for view in views]
    return Row(cells, name, [f'view {item.view_names[view]}' for view in views])


def map_row(item: ShownInstance, layer: int, views: np.ndarray, name: str) -> Row:
    """Return the row of maps of one layer in some views (n,); colours mean the same in all, notes say their shares."""
    maps, shares = to_numpy(item.maps[layer]).mean(0), to_numpy(item.view_attention[layer])         # (V, h_p, w_p), (V,)
    brightest, mask = brightest_of(maps), to_numpy(item.mask)
    return Row([Cell(outlined(heat_overlay(_large(item, view), maps[view] / brightest), mask[view]), f'{shares[view]:.1%}')
                for view in views], name)


def _large(item: ShownInstance, view: int) -> Picture:
    photo = to_picture(item.images[view])
    return scale_to(photo, round(CELL_PIXELS * photo.shape[0] / photo.shape[1]), CELL_PIXELS)


def query_numbers(items: Sequence[tuple[str, Shown]], layers: Mapping[str, Sequence[int]]) -> list[dict]:
    """Return a row per instance, checkpoint, layer and view: where the instance is, where its query looks."""
    return [dict(scene=item.scene, instance=item.instance, label=name, checkpoint=label, query=item.query, layer=layer,
                 view=view_name, visibility=float(item.visibility[view]),
                 view_attention=float(item.view_attention[layer][view]),
                 patch_attention=float(to_numpy(item.maps[layer]).mean(0)[view].sum()))
            for name, shown in items for label, item in shown.items() for layer in layers[label]
            for view, view_name in enumerate(item.view_names)]
