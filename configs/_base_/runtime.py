# What every experiment shares. Values without a source are ours.
data_root = 'data'                              # every data set's folder is below this one
seed = 0
plugins = []                                    # names or paths of the plugins that the config needs
hooks = dict(pictures=dict(type='SceneImages', interval=500))
trackers = dict(tensorboard=dict(type='TensorboardVisBackend'))       # where scalars and pictures go; wandb, … beside
train = dict(
    skip_nonfinite=0,                           # steps that may be left out because a number is not finite, then stop
    timeout=900,                                # seconds that a step, or a scene of a test, may take
    clip_by='all',                              # ours; VGGT's recipe clips each of its 'modules'; 'groups': parameter_groups
    decay_vectors=True,                         # weight decay on norms, biases, LayerScale too: VGGT's recipe
    sharding=None)                              # 'fully_shard': each process keeps a part of weights, gradients and moments
device = dict(                                  # no part of a run's identity, but for another precision
    precision=dict(convolution='tf32', matmul='ieee'),          # of float32 on CUDA: 'tf32' (10 bits of mantissa) or 'ieee'
    attention_kernels=['cudnn', 'flash', 'efficient'],          # on CUDA, by priority; 'math' is never taken silently
    compile=False,                              # True: torch.compile block by block
    recomputation='fitting')                    # on a card: no more is computed twice than has to be; or 'as_configured'
