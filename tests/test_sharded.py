"""Checkpoints in parts, without ranks: what is written beside the training, what a disk refuses, what isn't read."""

import errno
import pickle
import threading
import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint as dcp

from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.training.sharded import WEIGHTS, Saver, read_moments, read_weights

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def learner(seed, *widths):
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(*pair) for pair in pairwise(widths or (3, 4, 2))))
    model[0].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.1)
    return model, optimizer


def learn(model, optimizer):
    model(torch.ones(5, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def flat(model, optimizer):
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return torch.cat([one.detach().reshape(-1) for one in (*model.parameters(), *moments)])


def test_what_is_learned_while_a_checkpoint_is_written_is_not_in_it(tmp_path, monkeypatch):
    written, told, plain = threading.Event(), [], dcp.FileSystemWriter.write_data

    def late(*args):
        assert written.wait(60)
        return plain(*args)

    monkeypatch.setattr(dcp.FileSystemWriter, "write_data", late)
    model, optimizer = learner(1)
    learn(model, optimizer)
    then = flat(model, optimizer).clone()
    with Saver() as saver:
        saver.save(tmp_path, model, optimizer, lambda: told.append(threading.current_thread().name))
        learn(model, optimizer)
        saver.check()
        assert not told, "it isn't written, and training went on"
        written.set()
    assert len(told) == 1 and told[0].startswith("checkpoint"), "the end waits for it"
    assert not torch.equal(flat(model, optimizer), then)
    other, others = learner(2)
    other[0].bias.data.copy_(model[0].bias)  # it doesn't learn: it is in no checkpoint
    read_weights(other, tmp_path)
    read_moments(other, others, tmp_path)
    assert torch.equal(flat(other, others), then)


def test_a_disk_that_is_full_is_told_at_the_next_step_save_or_end(tmp_path, monkeypatch):
    model, optimizer = learner(1)
    learn(model, optimizer)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    said = f"{tmp_path / 'a'} can't be written .*No space left on device.*make room on the disk"
    with monkeypatch.context() as patch:
        patch.setattr(dcp.FileSystemWriter, "write_data", full)
        with pytest.raises(AbortError, match=said), Saver() as saver:
            saver.save(tmp_path / "a", model, optimizer)
        with Saver() as saver:
            saver.save(tmp_path / "a", model, optimizer, pytest.fail)
            with pytest.raises(AbortError, match=said):
                saver.save(tmp_path / "b", model, optimizer)
            saver.save(tmp_path / "a", model, optimizer)
            saver._work.exception()
            with pytest.raises(AbortError, match=said):
                saver.check()
        with pytest.raises(KeyError, match="first"), Saver() as saver:
            saver.save(tmp_path / "a", model, optimizer)
            raise KeyError("first")
    assert not any(tmp_path.iterdir()), "half of one is of no use"
    with Saver() as saver:
        saver.save(tmp_path / "a", model, optimizer)
    read_weights(model, tmp_path / "a")


class Command:
    """What an index of tensors doesn't hold."""

    def __reduce__(self):
        return (warnings.warn, ("run",))


def test_what_does_not_fit_or_is_not_an_index_is_refused(tmp_path):
    model, optimizer = learner(1)
    with Saver() as saver:
        saver.save(tmp_path, model, optimizer)
    for widths, said in (((3, 5, 2), "[Ss]ize mismatch"), ((3, 4, 2, 2), "2.bias is only in one of them")):
        other, _ = learner(1, *widths)
        with pytest.raises(ConfigError, match=f"{WEIGHTS} can't be read into this model: .*{said}"):
            read_weights(other, tmp_path)
    index = tmp_path / WEIGHTS / ".metadata"
    whole = index.read_bytes()
    for content, said in ((pickle.dumps(Command()), "warn is nothing that an index"), (whole[: len(whole) // 2], "")):
        index.write_bytes(content)
        with pytest.raises(ConfigError, match=f"can't be read into this model: .*{said}"):
            read_weights(model, tmp_path)
    index.unlink()
    with pytest.raises(ConfigError, match="can't be read into this model"):
        read_weights(model, tmp_path)
