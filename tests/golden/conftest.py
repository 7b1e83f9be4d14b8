"""Golden numbers were made in float32: on a card they are asked for in IEEE float32, convolutions too."""

import pytest
import torch

from jrs.engine.device import use_precision


@pytest.fixture(autouse=True, scope='session')
def full_precision():
    """Compute as the data were made, whatever runs use otherwise."""
    was = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    use_precision('ieee', 'ieee')
    yield
    use_precision(*was)
