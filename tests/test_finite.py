"""Values that are NaN or infinite are found in every type, counted, and refused by name."""

import pytest
import torch

from jrs.errors import NonFiniteError, WeightsError
from jrs.finite import all_finite, nonfinite, refuse_nonfinite

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn)


@pytest.mark.parametrize('dtype', FLOATS)
@pytest.mark.parametrize('bad', ['nan', 'inf', '-inf'])
def test_one_bad_value_is_found_and_counted_in_every_type(dtype, bad):
    if dtype == torch.float8_e4m3fn and bad != 'nan':
        pytest.skip('this type has no infinity')
    values = torch.full((3, 4), -1.5).to(dtype)
    assert all_finite(values) and nonfinite({'a': values}) == {}
    values = values.float().index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(float(bad))).to(dtype)
    assert not all_finite(values)
    found = nonfinite({'a': values, 'b': torch.ones(2)})['a']
    assert (found.count, found.total, found.nan) == (1, 12, int(bad == 'nan'))


def test_what_has_no_such_values_is_finite():
    for values in (torch.zeros(0, 3), torch.arange(3), torch.ones(2, dtype=torch.bool), torch.tensor(1e38).expand(3, 3)):
        assert all_finite(values)
    assert nonfinite({'a': None, 'b': [torch.ones(2)]}) == {}
    assert list(nonfinite({'a': [torch.ones(2), torch.tensor([float('nan')])]})) == ['a[1]']


def test_the_message_names_tensors_and_counts_a_few():
    bad = torch.tensor([float('nan'), float('inf'), 1.0])
    with pytest.raises(NonFiniteError, match=r'^scene: not finite: depth 2 of 3 values \(1 NaN, 1 infinite\)\. Stop\.$'):
        refuse_nonfinite({'depth': bad, 'masks': torch.ones(2), 'none': None}, 'scene', 'Stop.')
    with pytest.raises(WeightsError, match=r'w0 2 of 3.*w3 2 of 3.*and 2 tensors more; 12 values in all'):
        refuse_nonfinite({f'w{number}': bad for number in range(6)}, 'file', '', WeightsError)
