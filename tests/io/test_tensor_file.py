import pytest
import torch
from safetensors import safe_open

from jrs.errors import WeightsError
from jrs.io.tensor_file import write_tensors


def test_what_is_written_comes_back_through_the_reference_reader(tmp_path):
    tensors = {'scalar': torch.tensor(3.5), 'half': torch.randn(3, 5).bfloat16(), 'strided': torch.randn(4, 6).t(),
               'flags': torch.tensor([True, False]), 'none': torch.zeros(0, 3), 'ids': torch.arange(5)}
    write_tensors(tmp_path / 'w.safetensors', tensors, {'origin': 'a "test" é'})
    with safe_open(tmp_path / 'w.safetensors', 'pt') as file:
        assert set(file.keys()) == set(tensors) and file.metadata() == {'format': 'pt', 'origin': 'a "test" é'}
        assert all(torch.equal(file.get_tensor(name), value) and file.get_tensor(name).dtype == value.dtype
                   for name, value in tensors.items())


def test_tensors_may_be_made_when_their_turn_comes(tmp_path):
    announced = {'a': torch.empty(4, device='meta'), 'b': torch.empty(4, dtype=torch.bfloat16, device='meta')}
    write_tensors(tmp_path / 'w.safetensors', announced, {}, lambda name, tensor: torch.ones(4, dtype=tensor.dtype))
    with safe_open(tmp_path / 'w.safetensors', 'pt') as file:
        assert file.get_tensor('b').dtype == torch.bfloat16 and file.get_tensor('a').sum() == 4


def test_a_failure_on_the_way_leaves_no_file_and_keeps_the_old_one(tmp_path):
    path = tmp_path / 'w.safetensors'
    path.write_text('old')
    with pytest.raises(ValueError, match=r'a was announced as \(4,\) torch.float32, and is \(3,\)'):
        write_tensors(path, {'a': torch.zeros(4)}, {}, lambda name, tensor: torch.zeros(3))
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_a_dtype_that_the_format_lacks_and_a_folder_that_is_none_are_answered(tmp_path):
    with pytest.raises(WeightsError, match='a is of type torch.complex64'):
        write_tensors(tmp_path / 'w.safetensors', {'a': torch.zeros(2, dtype=torch.complex64)}, {})
    (tmp_path / 'file').write_text('')
    with pytest.raises(WeightsError, match='cannot be written'):
        write_tensors(tmp_path / 'file' / 'w.safetensors', {'a': torch.zeros(2)}, {})
