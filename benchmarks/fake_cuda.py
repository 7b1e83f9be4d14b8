"""Memory and FLOPs of full-size runs on CUDA, counted without a card, without values and without time (needs g++).

    python benchmarks/fake_cuda.py infer 10 100 200
    python benchmarks/fake_cuda.py train 2x24 --level attention
    python benchmarks/fake_cuda.py train 1x24 --level all none attention --json benchmarks/results/fake_cuda.json

Every tensor is fake (benchmarks/fake_device.py); its bytes are counted while it is alive, in blocks of 512.
Not in it: what the allocator leaves unused, workspaces of cuDNN and cuBLAS, and the context of CUDA, about 0.5 to 1 GB.
Attention is sent to the kernels that CUDA's rules choose. Each row has `jrs.engine.memory`'s estimate beside it.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import weakref
from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
SIZE = (392, 518)
INSTANCES = 30                                 # seen in a scene
BLOCK = 512
MOST = 12                                      # functions that are named at the peak
LEVELS = ('all', 'attention', 'none')


def load_guard() -> None:
    """Build the device that does nothing and load it, before torch is."""
    assert 'torch' not in sys.modules
    torch = Path(importlib.util.find_spec('torch').submodule_search_locations[0])
    this_torch = hashlib.sha256(f'{torch} {(torch / "version.py").stat().st_mtime_ns}'.encode()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f'jrs_fake_cuda_{os.getuid()}_{this_torch}.so'
    if not library.is_file():
        part = library.with_suffix(f'.{os.getpid()}')
        subprocess.run(['g++', '-shared', '-fPIC', '-std=c++20', '-w', f'-I{torch}/include',
                        f'-I{torch}/include/torch/csrc/api/include', str(FOLDER / 'fake_cuda.cpp'), '-o', str(part),
                        f'-L{torch}/lib', '-lc10', '-ltorch_cpu', f'-Wl,-rpath,{torch}/lib'], check=True)
        part.rename(library)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


load_guard()

import torch  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402
from torch.utils.flop_counter import flop_registry  # noqa: E402

from benchmarks.fake_device import Watch, leave, moved, place, usual_scalar, watching  # noqa: E402
from benchmarks.record import publish  # noqa: E402
from jrs.config import load_config  # noqa: E402
from jrs.engine.memory import GB, inference_memory, parameter_bytes, training_memory  # noqa: E402
from jrs.engine.optim import build_optimizer  # noqa: E402
from jrs.engine.recomputation import Level, use_level  # noqa: E402
from jrs.matching import hungarian  # noqa: E402
from jrs.registry import MODELS, build  # noqa: E402
from jrs.structures import InstanceTable, SceneBatch  # noqa: E402

CUDA = torch.device('cuda', 0)
MODE = FakeTensorMode(allow_non_fake_inputs=True)                  # before CUDA seems to be there: it would ask it
ATEN = torch.ops.aten
LEVEL = dict(all=Level(True, True, True), attention=Level('attention', True, True), none=Level(False, False, False))


class Bookkeeper(Watch):
    """Counts the bytes that are alive and the floating-point operations.

    Attributes:
        alive, peak: bytes on the device.
        at_peak: function -> GB of what it made that were alive at the peak, within 1 %, the largest ones.
        flops: dtype -> operations of matrix products, convolutions and attention.
        calls: operations that start a kernel, about.
    """

    def __init__(self, pixels: int) -> None:
        super().__init__('cuda', lambda tensor, place: pixels if place == 'jrs/losses/regression.py:__call__'
                         else usual_scalar(tensor, place))
        self.alive = self.peak = self.calls = 0
        self.known: dict[int, tuple[int, str]] = {}                # storage -> bytes, who made it
        self.at_peak: dict[str, float] = {}
        self.shown = 0.0
        self.flops: Counter[str] = Counter()

    def hold(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage until it is freed."""
        if tensor.device.type != 'cuda':
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, -(-storage.nbytes() // BLOCK) * BLOCK
        if key in self.known:
            return
        self.known[key] = size, place()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        if self.alive > 1.01 * self.shown:
            self.shown, sums = self.alive, Counter()
            for count, owner in self.known.values():
                sums[owner] += count
            self.at_peak = {owner: round(count / GB, 2) for owner, count in sums.most_common(MOST)}

        def freed() -> None:
            del self.known[key]
            self.alive -= size
        weakref.finalize(storage, freed)

    def run(self, function, name: str, args: tuple, kwargs: dict, there: bool):
        """Run an operation and count what it leaves and does."""
        result = super().run(function, name, args, kwargs, there)
        made = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
        for value in made:
            self.hold(value)
        self.calls += there and any(value.device.type == 'cuda' for value in made) and not function.is_view
        if function._overloadpacket in flop_registry and there:
            dtype = str(made[0].dtype).removeprefix('torch.')
            self.flops[dtype] += flop_registry[function._overloadpacket](*args, **kwargs, out_val=result)
        return result

    def after(self, start: int) -> dict:
        """Return the peak in GB, `start` bytes of which were there before, and TFLOP by dtype."""
        return dict(peak_gb=round(self.peak / GB, 3), before_gb=round(start / GB, 3), calls=self.calls, at_peak=self.at_peak,
                    tflop={name: round(count / 1e12, 2) for name, count in self.flops.items() if count})


def pretend() -> None:
    """Let torch take the device for a card, and choose kernels of attention by CUDA's rules."""
    for name, value in dict(is_available=True, current_device=0, device_count=1, is_initialized=True, _lazy_init=None,
                            is_bf16_supported=True, get_device_name='fake', set_rng_state=None, synchronize=None).items():
        setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    torch.cuda.get_rng_state = lambda *_, **__: torch.zeros(16, dtype=torch.uint8)
    plain = torch.nn.functional.scaled_dot_product_attention

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        if query.device.type != 'cuda':
            return plain(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
        half = query.dtype in (torch.bfloat16, torch.float16)
        if half and attn_mask is None and query.shape[-1] == value.shape[-1]:
            return ATEN._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
        if attn_mask is not None:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).expand(*query.shape[:3], key.shape[2])
        learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
        return ATEN._scaled_dot_product_efficient_attention(query, key, value, attn_mask, learns, dropout_p, is_causal,
                                                            scale=scale)[0]
    torch.nn.functional.scaled_dot_product_attention = attention
    hungarian.HungarianMatcher.assign = lambda self, cost, pred, target: ()
    hungarian._pairs = lambda given, shape: [torch.arange(min(shape)), torch.arange(min(shape))]


def batch_of(scenes: int, views: int) -> SceneBatch:
    """Return a packed batch on the CPU, as the loader gives it."""
    shape, ids = (scenes, views), torch.arange(1, INSTANCES + 1)
    return SceneBatch(torch.zeros(*shape, 3, *SIZE, dtype=torch.uint8), ['scene'] * scenes,
                      [[str(view) for view in range(views)]] * scenes, depth_m=torch.zeros(*shape, *SIZE),
                      intrinsics=torch.zeros(*shape, 3, 3), cam_from_world=torch.zeros(*shape, 4, 4),
                      instance_ids=torch.zeros(*shape, *SIZE, dtype=torch.int16),
                      instances=[InstanceTable(ids, ids)] * scenes)


def hold_model(book: Bookkeeper, *models: torch.nn.Module) -> int:
    """Count the weights of models; return the bytes that are alive."""
    for model in models:
        for value in (*model.parameters(), *model.buffers()):
            book.hold(value)
    book.peak = book.shown = book.alive
    return book.alive


def infer(config, views: int) -> dict:
    """Return what a reconstruction of `views` images takes, with view attention, as `tools/infer.py` runs it."""
    book = Bookkeeper(views * SIZE[0] * SIZE[1])
    with watching(book, MODE), torch.no_grad():
        model = moved(build(MODELS, dict(config.model, teacher=None), 'model').eval().narrow(), CUDA)
        start = hold_model(book, model)
        batch = batch_of(1, views)
        model.reconstruct(SceneBatch(batch.images, batch.scene_names, batch.view_names).to(CUDA), track_views=True)
        estimate = inference_memory(model, views, SIZE, CUDA)
    return dict(kind='infer', views=views, **book.after(start), estimate_gb=round(estimate.total / GB, 3))


def train(config, scenes: int, views: int, level: str) -> dict:
    """Return what a step of `scenes` x `views` images takes, with teacher, clipping and optimizer."""
    book = Bookkeeper(scenes * views * SIZE[0] * SIZE[1])
    phases = {}
    with watching(book, MODE):
        model = moved(build(MODELS, config.model, 'model'), CUDA).train()
        use_level(model, LEVEL[level])
        model.teacher.without_file()
        teacher = model.teacher.model = moved(model.teacher.model, CUDA)
        wrapper = build_optimizer(model, config.optimizer, config.parameter_groups, 1.0)
        hold_model(book, model, teacher)
        for group in wrapper.optimizer.param_groups:
            for value in group['params']:      # the second step and all later ones have moments
                where = CUDA if group.get('fused') else 'cpu'
                wrapper.optimizer.state[value] = dict(step=torch.zeros((), device=where), exp_avg=torch.zeros_like(value),
                                                      exp_avg_sq=torch.zeros_like(value))
        start = book.peak = book.alive

        def phase(name: str) -> None:
            phases[name] = round(book.peak / GB, 3)
            book.peak = book.alive
        terms = model(**model.data_preprocessor(batch_of(scenes, views), training=True), mode='loss')
        phase('forward')
        total, _ = model.parse_losses(terms)
        del terms
        total.backward()
        phase('backward')
        wrapper.step()
        phase('optimizer')
        estimate = training_memory(model, scenes * views, SIZE, CUDA, parameter_bytes(teacher))
    book.peak = int(max(phases.values()) * GB)
    return dict(kind='train', scenes=scenes, views=views, level=level, **book.after(start), phases_gb=phases,
                estimate_gb=round(estimate.total / GB, 3))


def main() -> None:
    """Print a line of JSON per row."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('kind', choices=('infer', 'train'))
    options.add_argument('sizes', nargs='+', help='views; SCENESxVIEWS for training')
    options.add_argument('--level', nargs='+', default=['attention'], choices=LEVELS, help='what is computed again')
    options.add_argument('--config', default=str(FOLDER.parent / 'configs/segvggt/all24_fada.py'))
    options.add_argument('--json', type=Path, help='list that rows are appended to')
    args = options.parse_args()
    torch.set_num_threads(1)
    config = load_config(args.config)
    pretend()
    for size in args.sizes:
        if args.kind == 'infer':
            publish(infer(config, int(size)), args.json, torch=torch.__version__)
        else:
            for level in args.level:
                publish(train(config, *map(int, size.split('x')), level), args.json, torch=torch.__version__)


if __name__ == '__main__':
    main()
    leave()
