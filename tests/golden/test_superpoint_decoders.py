"""Methods on superpoints against the published definitions: decoders, criteria, post-processing, end to end."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from jrs.plugins import load_plugins
from jrs.postprocess.distinct import unlike_masks
from jrs.registry import LOSSES, MATCHERS, MODELS, POSTPROCESSORS, build
from jrs.structures import Match, Predictions, SceneContext
from tests.golden._golden import golden_files, load_npz
from tests.golden._points import assert_close, load_published

load_plugins(['point_clouds'])
decoder = sys.modules['jrs_plugins.point_clouds.decoder']
losses = sys.modules['jrs_plugins.point_clouds.losses']
suppression = sys.modules['jrs_plugins.point_clouds.suppression']
panoptic = importlib.import_module('jrs_plugins.point_clouds.panoptic')
batches = sys.modules['jrs_plugins.point_clouds.batch']
weights = sys.modules['jrs_plugins.point_clouds.weights']
inputs = sys.modules['jrs_plugins.point_clouds.inputs']
scene_voxels = sys.modules['jrs_plugins.point_clouds.scene_voxels']
pooling = sys.modules['jrs_plugins.point_clouds.pooling']
UNUSED = (r'decoder\.cross_attn_layers\.\d+\.norm\..*',)                # of SPFormer: there, and not used


def decoder_of(meta: dict):
    """Return the decoder that a file's `config` describes, filled."""
    config, spformer = meta['config'], 'decoder.query.weight' in meta['keys']
    queries = dict(type='LearnedQueries', num_queries=config['num_query']) if spformer else dict(type='SuperpointQueries')
    part = build(MODELS, dict(
        type='SuperpointDecoder', dim_in=config['in_channel' if spformer else 'in_channels'], start=queries,
        num_classes=config['num_class' if spformer else 'num_instance_classes'],
        layers=config['num_layer' if spformer else 'num_layers'], width=config['d_model'],
        num_heads=config['nhead' if spformer else 'num_heads'], hidden=config['hidden_dim'],
        cross_norm=not spformer and config['fix_attention'], score_head=spformer or config['objectness_flag'],
        semantic_classes=None if spformer else config['num_semantic_classes'],
        semantic_layers=1 if spformer else config['num_semantic_linears']), 'model.decoder')
    unused = () if not spformer and config['fix_attention'] else UNUSED

    def name(key: str) -> str | None:
        ours = weights.our_key(key, unused)
        return ours and ours.removeprefix('decoder.')
    return load_published(part, meta, name)


def scene_of(arrays: dict, meta: dict, index: int):
    """Return the superpoints of one scene of a file."""
    first, last = meta['offsets'][index:index + 2]
    features = torch.from_numpy(arrays['sp_feats'][first:last])
    return decoder.Superpoints(features, torch.zeros(len(features), 3), torch.ones(len(features), dtype=torch.int64))


@torch.no_grad()
@pytest.mark.parametrize('path', golden_files('baseline_decoder_spformer*.npz', 'baseline_decoder_oneformer3d*.npz'))
def test_the_decoder_of_superpoints(path):
    arrays, meta = load_npz(path)
    part = decoder_of(meta).train()                              # no dropout: only so are all levels kept
    for index in range(len(meta['offsets']) - 1):
        if f'query_ids{index}' in arrays:
            elements = torch.from_numpy(arrays[f'query_ids{index}'])
            part.start.forward = lambda scene, rows=elements: (part.start.projection(scene.features[rows]), rows)
        found = part(scene_of(arrays, meta, index)).levels
        assert_close(torch.stack([level.class_logits for level in found]), arrays[f'labels{index}'], 'classes')
        assert_close(torch.stack([level.mask_logits.flatten(1) for level in found]), arrays[f'masks{index}'], 'masks')
        if f'scores{index}' in arrays:
            assert_close(torch.stack([level.scores[:, None] for level in found]), arrays[f'scores{index}'], 'scores')
        if f'sem{index}' in arrays:
            assert_close(found[-1].semantic_logits, arrays[f'sem{index}'], 'semantic')
        blocked = [decoder.blocked_elements(level.mask_logits, part.mask_threshold) for level in found]
        np.testing.assert_array_equal(torch.stack(blocked), arrays[f'attn{index}'])


@torch.no_grad()
@pytest.mark.parametrize('path', golden_files('baseline_decoder_maft*.npz', 'baseline_decoder_relation3d*.npz'))
def test_the_decoder_of_queries_with_a_place(path):
    arrays, meta = load_npz(path)
    config, relation3d = meta['config'], meta['kind'] == 'decoder_relation3d'
    options = dict(masks_of='keys', update_after=[layer for layer in (0, 3) if layer < config['num_layer']],
                   relations=True) if relation3d else {}
    part = build(MODELS, dict(
        type='PlacedDecoder', dim_in=config['in_channel'], num_classes=config['num_class'], num_queries=config['num_query'],
        layers=config['num_layer'], width=config['d_model'], num_heads=config['nhead'], hidden=config['hidden_dim'],
        mask_threshold=config['attn_mask_thresh'], reach=config['quant_grid_length'], cell_m=config['grid_size'],
        **options), 'decoder')
    unused = weights.UNUSED_OF_RELATION3D if relation3d else ()
    load_published(part, meta, lambda key: (ours := weights.our_key(key, unused)) and ours.removeprefix('decoder.')).train()
    for index in range(len(meta['offsets']) - 1):
        first, last = meta['offsets'][index:index + 2]
        scene = replace(scene_of(arrays, meta, index), positions=torch.from_numpy(arrays['sp_pos'][first:last]))
        started = []
        found = part(scene, started.append).levels
        for name, values in (('labels', [level.class_logits for level in found]), ('centres', started),
                             ('masks', [level.mask_logits.flatten(1) for level in found]),
                             ('scores', [level.scores[:, None] for level in found]),
                             ('bboxes', [level.centres for level in found])):
            assert_close(torch.stack(values), arrays[f'{name}{index}'], f'{name}{index}')
        blocked = [decoder.blocked_elements(level.mask_logits, part.mask_threshold) for level in found[:-1]]
        np.testing.assert_array_equal(torch.stack(blocked), arrays[f'attn{index}'])
        if relation3d:
            assert_close(found[-1].element_features, arrays['mask_feats'][:, first:last], 'superpoints')
            given = [part.relations(level.mask_logits, scene.positions) for level in found[:-1]]
            assert_close(torch.stack(given), arrays[f'self_bias{index}'], f'self_bias{index}', 3e-5)   # README: sines


@pytest.mark.parametrize('path', golden_files('baseline_criterion_relation3d*.npz'))
def test_superpoints_of_one_instance_are_taught_to_look_alike(path):
    arrays, meta = load_npz(path)
    features = torch.from_numpy(arrays['mask_feats']).requires_grad_()
    part, values = losses.SuperpointContrastLoss(), []
    for step in features:                                        # one set of features at a time, as the file has them
        scenes = []
        for index, (first, last) in enumerate(zip(meta['offsets'][:-1], meta['offsets'][1:], strict=True)):
            target = losses.PointTargets(torch.zeros(0), torch.zeros(0, 1, 1, last - first), torch.ones(0, 1),
                                         superpoint_ids=torch.from_numpy(arrays[f'sp_instance{index}']))
            pred = decoder.PointPredictions(step, element_features=step[None, first:last])
            scenes.append(part(pred, target, None))
        values.append(torch.stack(scenes).mean())
    assert_close(torch.stack(values), arrays['contrast'], 'contrast')
    sum(values).backward()
    assert_close(features.grad, arrays['grad_mask_feats'], 'gradient')


VOXELS = dict(voxel_logits='vx_seg', voxel_offsets='vx_bias')


@torch.no_grad()
@pytest.mark.parametrize('path', golden_files('baseline_decoder_sgiformer*.npz'))
def test_the_decoder_of_queries_and_superpoints_in_turn(path):
    arrays, meta = load_npz(path)
    config, keys = meta['config'], meta['keys']
    part = build(MODELS, dict(
        type='GuidedDecoder', dim_in=config['in_channel'], num_classes=config['num_class'],
        num_guided=config['num_sample_query'], num_learned=config['num_learn_query'], voxel_share=config['alpha'],
        layers=config['dec_num_layer'], width=config['d_model'], num_heads=config['nhead'], hidden=config['hidden_dim'],
        superpoint_attention=any('feat_self_attn' in key for key in keys), score_head=config['use_score']), 'model.decoder')
    unused = weights.unused_keys(keys)
    load_published(part, meta, lambda key: (ours := weights.our_key(key, unused)) and ours.removeprefix('decoder.')).eval()
    features = torch.from_numpy(arrays['vx_feats'])
    said = part.of_voxels(features)                              # the norms of these heads know training; their means do not
    part.train()                                                 # no dropout: only so are all levels kept
    assert_close(said['class_logits'], arrays['vx_seg'], 'classes of voxels')
    assert_close(said['offsets'], arrays['vx_bias'], 'offsets of voxels')
    first = np.cumsum([0, *meta['voxels']])
    for index, count in enumerate(meta['superpoints']):
        own = slice(first[index], first[index + 1])
        voxel, superpoints = torch.from_numpy(arrays[f'inverse{index}']), torch.from_numpy(arrays[f'superpoint{index}'])
        positions = torch.from_numpy(arrays['vx_coord'][own])
        voxels = scene_voxels.SceneVoxels(features[own], positions, positions.long(), voxel, voxel, superpoints,
                                          **{name: values[own] for name, values in said.items()})
        pooled = pooling.superpoint_mean(features[own][voxel], superpoints, count)
        assert_close(part.starts(voxels), arrays[f'start_queries{index}'], 'starts')
        found = part(decoder.Superpoints(pooled, positions, torch.bincount(superpoints, minlength=count), voxels)).levels
        for name, values in (('labels', [level.class_logits for level in found]),
                             ('masks', [level.mask_logits.flatten(1) for level in found]),
                             ('scores', [level.scores[:, None] for level in found if level.scores is not None])):
            if values:
                assert_close(torch.stack(values), arrays[f'{name}{index}'], f'{name}{index}')
        blocked = [decoder.blocked_elements(level.mask_logits, part.mask_threshold) for level in found]
        np.testing.assert_array_equal(torch.stack(blocked), arrays[f'attn{index}'])


def leaves_of(arrays: dict, names: tuple[str, ...], scenes: int) -> dict[str, list[torch.Tensor]]:
    """Return the inputs that gradients are stored for, by kind: one tensor per scene."""
    return {name: [torch.from_numpy(arrays[f'{name}{index}']).requires_grad_() for index in range(scenes)]
            for name in names if f'{name}0' in arrays} | {
        name: [torch.from_numpy(arrays[f'{name}0']).requires_grad_()] for name in VOXELS.values() if f'{name}0' in arrays}


def predictions_of(arrays: dict, leaves: dict, level: int, last: bool):
    """Return one level of the predictions of all scenes."""
    scenes = range(len(leaves['labels']))
    elements = [torch.from_numpy(arrays[f'query_ids{index}']) for index in scenes] if 'query_ids0' in arrays else None
    return decoder.PointPredictions(
        embedding=[leaves['labels'][index][level] for index in scenes],
        class_logits=[value[level] for value in leaves['labels']],
        mask_logits=[value[level][:, None, None] for value in leaves['masks']],
        scores=[value[level][:, 0] for value in leaves['scores']] if 'scores' in leaves else None, elements=elements,
        centres=[value[level] for value in leaves['bboxes']] if 'bboxes' in leaves else None,
        semantic_logits=[value[0] for value in leaves['sem']] if last and 'sem' in leaves else None,
        **{name: in_first_scene(leaves[kind][0], len(scenes)) for name, kind in VOXELS.items() if last and kind in leaves})


def in_first_scene(values: torch.Tensor, scenes: int) -> list[torch.Tensor]:
    """Return the voxels of all scenes, which files do not tell apart, as those of the first."""
    return [values, *[values[:0]] * (scenes - 1)]


def targets_of(arrays: dict, scenes: int) -> list:
    targets = []
    for index in range(scenes):
        masks = torch.from_numpy(arrays[f'gt_masks{index}'])[:, None, None]
        semantic = None
        if f'gt_semantic{index}' in arrays:
            semantic = torch.from_numpy(arrays[f'gt_semantic{index}'])
            semantic = torch.where(semantic == arrays[f'sem{index}'].shape[2] - 1, -1, semantic)     # the last: not labelled
        targets.append(losses.PointTargets(torch.from_numpy(arrays[f'gt_labels{index}']), masks,
                                           torch.ones(len(masks), 1), semantic=semantic,
                                           centres=torch.from_numpy(arrays[f'gt_centres{index}'])
                                           if f'gt_centres{index}' in arrays else None))
    if 'gt_voxel_class' in arrays:
        for name, kind in dict(voxel_labels='class', voxel_offsets='offset', voxel_inside='in_instance').items():
            values = in_first_scene(torch.from_numpy(arrays[f'gt_voxel_{kind}']), scenes)
            targets = [replace(target, **{name: value}) for target, value in zip(targets, values, strict=True)]
    return targets


def weights_of(meta: dict) -> dict[str, float]:
    """Return the weight of each loss, in the order in which the method lists them."""
    names = {3: ('cls', 'bce', 'dice'), 4: ('cls', 'bce', 'dice', 'score'), 5: ('cls', 'bce', 'dice', 'centre', 'score'),
             6: ('cls', 'bce', 'dice', 'score', 'voxel_cls', 'voxel_offset')}
    return dict(zip(names[len(meta['loss_weight'])], meta['loss_weight'], strict=True))


def criterion_of(meta: dict, scenes: int):
    """Return the criterion of a file: how scenes and levels add up is a table of baselines.md section 2.2."""
    reduction, last, aux, classes = 'mean_all', scenes, 1.0, 'pooled'
    if meta['kind'] in ('criterion_oneformer3d', 'criterion_sgiformer'):
        classes = 'mean_all'
        reduction = 'mean_present' if meta['fix_mean_loss'] else 'mean_all'
        last, aux = (4.0, 4.0 / scenes) if meta['fix_dice_loss_weight'] else (scenes, 1.0)
    elif meta['kind'] == 'criterion_mask3d':
        reduction, last = 'sum', 1.0
    parts = dict(
        cls=dict(type='ClassLoss', no_object_weight=meta['no_object_weight'], scene_reduction=classes, **ignored(meta)),
        bce=dict(type='MaskBCELoss', scene_reduction=reduction),
        dice=dict(type='MaskDiceLoss', scene_reduction=reduction, last_scale=last, aux_scale=aux),
        centre=dict(type='CentreLoss', scene_reduction='pooled'),
        score=dict(type='ScoreLoss', scene_reduction='mean_all'),
        voxel_cls=dict(type='VoxelClassLoss', no_object_weight=meta['no_object_weight']),
        voxel_offset=dict(type='VoxelOffsetLoss'))
    named = weights_of(meta)
    parts = {name: part for name, part in parts.items() if name in meta['terms']}
    if meta.get('semantic_weight'):
        parts['semantic'] = dict(type='SuperpointSemanticLoss')
        named['semantic'] = meta['semantic_weight']
    return build(LOSSES, dict(type='Criterion', losses=parts), 'model', weights=named)


def ignored(meta: dict) -> dict:
    return dict(ignored_label=meta['ignore_label']) if 'ignore_label' in meta else {}


def matcher_of(meta: dict):
    costs = dict(zip(('ClassCost', 'MaskBCECost', 'MaskDiceCost', 'CentreCost'), meta['cost_weight'], strict=False))
    costs = {name: dict(type=name, weight=weight) for name, weight in costs.items()}
    costs['ClassCost'] |= ignored(meta)
    sparse = meta.get('matcher') == 'SparseMatcher'
    return build(MATCHERS, dict(type='SparseMatcher', k=meta['topk'], costs=costs) if sparse
                 else dict(type='HungarianMatcher', costs=costs), 'model.matcher')


@pytest.mark.parametrize('path', golden_files(
    'baseline_criterion_spformer*.npz', 'baseline_criterion_oneformer3d*.npz', 'baseline_criterion_maft*.npz',
    'baseline_criterion_mask3d*.npz', 'baseline_criterion_relation3d*.npz', 'baseline_criterion_sgiformer*.npz'))
def test_costs_matches_terms_and_gradients_of_the_criterion(path):
    arrays, meta = load_npz(path)
    scenes = sum(name.startswith('gt_labels') for name in arrays)
    leaves, levels = leaves_of(arrays, ('labels', 'masks', 'scores', 'sem', 'bboxes'), scenes), meta['layers']
    pred = predictions_of(arrays, leaves, levels - 1, last=True)
    pred.auxiliary = [predictions_of(arrays, leaves, level, last=False) for level in range(levels - 1)]
    targets, matcher = targets_of(arrays, scenes), matcher_of(meta)
    matches = [matcher(pred.scene(index), target) for index, target in enumerate(targets)]
    if not meta.get('iter_matcher', True):
        matches = [replace(match, auxiliary=[Match(match.queries, match.instances)] * (levels - 1)) for match in matches]
    for index, (match, target) in enumerate(zip(matches, targets, strict=True)):
        for level, (of_level, pairs) in enumerate(zip(pred.scene(index).levels, [*match.auxiliary, match], strict=True)):
            if f'match_{level}_{index}' in arrays:
                cost, expected = matcher.total_cost(of_level, target).detach().numpy(), arrays[f'cost_{level}_{index}']
                assert_close(cost[expected < 1e7], expected[expected < 1e7], f'cost {level} {index}')   # the eligible
                found = set(zip(pairs.queries.tolist(), pairs.instances.tolist(), strict=True))
                assert found == set(zip(*arrays[f'match_{level}_{index}'].tolist(), strict=True))
    terms = criterion_of(meta, scenes)(Predictions([], queries=pred), targets, None, matches)
    total = sum(value for name, value in terms.items() if name.startswith('loss_'))
    assert_close(total[None], np.array([meta['total']]), 'total')
    weighted = weights_of(meta)
    for name, expected in meta['term_sums'].items():
        found = terms[f'loss_{name}'] / weighted[name]
        assert abs(found.item() - expected) <= 1e-5 * max(expected, 1e-6), name
    total.backward()
    for kind, values in leaves.items():
        for index, value in enumerate(values):
            gradient = torch.zeros_like(value) if value.grad is None else value.grad
            assert_close(gradient, arrays[f'grad_{kind}{index}'], f'gradient of {kind}{index}')


@pytest.mark.parametrize('path', golden_files('baseline_sparse_matcher*.npz'))
def test_the_sparse_matcher_with_ties_and_instances_without_a_query(path):
    arrays, meta = load_npz(path)
    for number, case in enumerate(meta['cases']):
        cost, eligible = torch.from_numpy(arrays[f'c{number}_cost']), torch.from_numpy(arrays[f'c{number}_eligible'])
        matcher = build(MATCHERS, dict(type='SparseMatcher', k=case['topk'], costs=dict(
            classes=dict(type='ClassCost', weight=1.0))), 'model.matcher')
        # Query i stands for element i of masks whose elements are the queries: then the masks say who is eligible.
        target = losses.PointTargets(torch.zeros(len(eligible)), eligible[:, None, None], torch.ones(len(eligible), 1))
        queries, instances = matcher.assign(cost, decoder.PointPredictions(cost, elements=torch.arange(len(cost))), target)
        if 'upstream_error' in case:
            assert torch.stack([queries, instances]).equal(eligible.T.nonzero().T)          # [J]: all eligible ones
        else:
            np.testing.assert_array_equal(torch.stack([queries, instances]), arrays[f'c{number}_match'])


@pytest.mark.parametrize('path', golden_files('baseline_matrix_nms*.npz'))
def test_matrix_nms(path):
    arrays, meta = load_npz(path)
    for number, case in enumerate(meta['cases']):
        probabilities, labels, scores = (torch.from_numpy(arrays[f'c{number}_{name}'])
                                         for name in ('mask_probs', 'labels', 'scores'))
        kept, lowered = suppression.matrix_nms(
            suppression.soft_overlaps(probabilities), labels, scores, case['kernel'], case.get('sigma', 2.0),
            case.get('nms_pre'), case.get('max_num'), case.get('filter_thr', 0.0))
        np.testing.assert_array_equal(kept, arrays[f'c{number}_keep'])
        np.testing.assert_array_equal(labels[kept], arrays[f'c{number}_out_labels'])
        assert_close(lowered, arrays[f'c{number}_out_scores'], f'scores {number}')


def postprocessor_of(meta: dict, case: dict):
    """Return the postprocessor of a case; only some suppress, and mask with another logit than 0."""
    if meta['kind'] in ('postprocess_spformer', 'postprocess_relation3d'):
        options = dict(mask_threshold=0.5)
        if meta['kind'] == 'postprocess_relation3d':
            options |= dict(query_overlap=meta['nms_iou'], score_head=False)
    else:
        nms = dict(type='MatrixNMS', kernel=case['kernel']) if case['nms'] else None
        options = dict(mask_threshold=case['sp_score_thr'], mask_quality=case['obj_norm'], suppression=nms)
    return build(POSTPROCESSORS, dict(type='QueryMasks', top_pairs=case['topk'], min_score=case['score_thr'],
                                      min_pixels=case['npoint_thr'], **options), 'model.postprocessor')


@pytest.mark.parametrize('path', golden_files(
    'baseline_postprocess_spformer*.npz', 'baseline_postprocess_oneformer3d*.npz', 'baseline_postprocess_relation3d*.npz',
    'baseline_postprocess_sgiformer*.npz'))
def test_predictions_become_scored_masks_of_points(path):
    arrays, meta = load_npz(path)
    for number, case in enumerate(meta['cases']):
        given = {name.removeprefix(f'c{number}_'): torch.from_numpy(value) for name, value in arrays.items()
                 if name.startswith(f'c{number}_')}
        superpoints = given['superpoints']
        queries = decoder.PointPredictions(
            given['labels'], given['labels'], given['masks'][:, None, None],
            scores=given['scores'][:, 0] if 'scores' in given else None,
            element_points=torch.bincount(superpoints, minlength=given['masks'].shape[1]))
        part = postprocessor_of(meta, case)
        found = part(SceneContext(queries))
        masks = found.masks.flatten(1)[:, superpoints].numpy()                  # (M, N)
        assert_close(found.scores, given['out_scores'], f'scores {number}')
        rows = sorted(zip(given['out_scores'].tolist(), given['out_labels'].tolist(), map(bytes, given['out_masks'].numpy()),
                          strict=True), key=lambda row: (-round(row[0], 5), row[1:]))
        ours = sorted(zip(found.scores.tolist(), found.labels.tolist(), map(bytes, np.packbits(masks, axis=1)), strict=True),
                      key=lambda row: (-round(row[0], 5), row[1:]))
        assert [row[1:] for row in ours] == [row[1:] for row in rows], f'case {number}'
        if 'picked' in given:
            masks = given['masks'] > 0
            picked = unlike_masks(masks, queries.class_probabilities()[0].amax(dim=1), meta['nms_iou'])
            np.testing.assert_array_equal(picked, given['picked'])
            part.score_decimals = 1
            assert_close(part(SceneContext(queries)).scores, given['out_scores_rounded'], 'rounded scores')
        if case.get('panoptic'):
            semantic, instance = panoptic.panoptic_map(
                found, given['sem_preds'], superpoints, min_score=case['pan_score_thr'], min_points=case['npoint_thr'])
            np.testing.assert_array_equal(semantic, given['panoptic_semantic'])
            np.testing.assert_array_equal(instance, given['panoptic_instance'])


@torch.no_grad()
@pytest.mark.parametrize('path', golden_files('baseline_e2e_spformer*.npz'))
def test_spformer_end_to_end_from_points(path):
    arrays, meta = load_npz(path)
    config, parts = meta['config'], meta['config']['decoder']
    model = build(MODELS, dict(
        type='PointSegmenter', num_classes=config['num_class'],
        network=dict(type='SparseUNet', dim_in=config['input_channel'], width=config['media'], levels=config['blocks'],
                     blocks=config['block_reps'], trim_odd_extents=True, least_extent=meta['min_extent']),
        decoder=dict(type='SuperpointDecoder', start=dict(type='LearnedQueries', num_queries=parts['num_query']),
                     layers=parts['num_layer'], width=parts['d_model'], num_heads=parts['nhead'], hidden=parts['hidden_dim'],
                     cross_norm=False, score_head=True)), 'model')
    load_published(model, meta, lambda key: weights.our_key(key, UNUSED))
    batch = batches.collate_points([points_as_batch(arrays, scene) for scene in range(len(meta['offsets']) - 1)])
    place = {tuple(row): number for number, row in enumerate(batch.voxels.tolist())}
    rows = [place[tuple(row)] for row in arrays['voxel_coords'].tolist()]
    assert len(place) == len(rows) and model.network.extent(batch.voxels) == tuple(meta['spatial_shape'])
    assert_close(batch.voxel_features[rows], arrays['voxel_feats'], 'features of voxels')
    np.testing.assert_array_equal(batch.point_voxel, np.array(rows)[arrays['point_to_voxel']])
    model.eval()
    voxels = model.network(batch.voxel_features, batch.voxels)
    assert_close(model.pooling(voxels[batch.point_voxel], batch.superpoints, sum(batch.num_superpoints)), arrays['sp_feats'])
    model.decoder.train()                                                       # no dropout: only so are all levels kept
    found = model(batch)
    for scene in range(len(batch.scene_names)):
        levels = found.scene(scene).levels
        for name, values in (('labels', [level.class_logits for level in levels]),
                             ('masks', [level.mask_logits.flatten(1) for level in levels]),
                             ('scores', [level.scores[:, None] for level in levels])):
            assert_close(torch.stack([values[0], values[-1]]), arrays[f'{name}{scene}'], f'{name}{scene}')


def points_as_batch(arrays: dict, scene: int):
    """Return one scene of the file as the data set makes it of the vertices of a mesh."""
    own = arrays['batch_of_point'] == scene
    points, colors = arrays['points'][own].astype(np.float64), (arrays['colour'][own].astype(np.float64) + 1) * 127.5
    return inputs.PointInput(0.02).batch(str(scene), points, colors, points * 50, arrays['superpoints'][own])
