"""The output layer on chosen columns: values, gradients, and how much memory they take."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ravst_ray.training import head
from ravst_ray.training.head import CHUNK, ScoreTokens


def case(tokens, vocabulary, width=32, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).to(dtype).requires_grad_()
    weight = (0.3 * torch.randn(vocabulary, width, generator=generator)).requires_grad_()
    bias = torch.zeros(vocabulary)
    bias[:7] = -100.0
    return hidden, weight, bias, torch.randint(7, vocabulary, (tokens,), generator=generator)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tokens", [1, CHUNK, 2 * CHUNK + 3])
def test_values_and_gradients_are_those_of_a_softmax_over_all_logits(tokens, temperature):
    hidden, weight, bias, targets = case(tokens, 333)
    given = torch.randn(tokens, generator=torch.Generator().manual_seed(1))
    logps, entropies = ScoreTokens.apply(hidden, weight, bias, targets, temperature, True)
    found = torch.autograd.grad((logps * given).sum(), (hidden, weight))
    table = torch.log_softmax((hidden @ weight.T + bias) / temperature, dim=-1)
    right = table.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(logps, right, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropies, -(table.exp() * table).sum(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(found, torch.autograd.grad((right * given).sum(), (hidden, weight)), atol=3e-5, rtol=0)
    assert not ScoreTokens.apply(hidden, weight, bias, targets, temperature, False)[1].any()


class Watch(TorchDispatchMode):
    """The most bytes that tensors made in here took at once."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {one.untyped_storage().data_ptr() for one in tree_leaves(args) if isinstance(one, torch.Tensor)}
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor) and (place := one.untyped_storage().data_ptr()) not in given | self._seen:
                self._seen.add(place)
                self.now += one.untyped_storage().nbytes()
                weakref.finalize(one.untyped_storage(), self._gone, place, one.untyped_storage().nbytes())
                self.most = max(self.most, self.now)
        return made

    def _gone(self, place, size):
        self._seen.discard(place)
        self.now -= size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_chunk_of_logits_is_all_that_is_in_memory(dtype):
    hidden, weight, bias, targets = case(4 * CHUNK, 20_000, dtype=dtype)
    chunk = CHUNK * 20_000 * 4
    gc.collect()
    with Watch() as watch:
        logps, _ = ScoreTokens.apply(hidden, weight, bias, targets, 1.0, True)
        assert chunk <= watch.most < 1.3 * chunk
        watch.most = watch.now
        logps.sum().backward()
    gradient = weight.grad.nbytes + 2 * hidden.grad.nbytes
    assert chunk <= watch.most - gradient < 1.3 * chunk


def test_the_models_own_head_is_back_afterwards():
    layer = torch.nn.Linear(4, 3, bias=False)
    ones = torch.ones(2, 4)
    with head.read_by(layer, lambda hidden, weight: hidden.sum() + weight.sum()):
        torch.testing.assert_close(layer(ones), 8 + layer.weight.sum())
    torch.testing.assert_close(layer(ones), ones @ layer.weight.T)
