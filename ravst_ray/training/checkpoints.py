"""What GRPO and supervised training share of checkpoints: where a run goes on, and that all nodes' files are kept."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, TypeVar

from ravst_ray.config.base import StrictModel, dump_config, load_config
from ravst_ray.datasets.transfer import Stored, check_writable
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.logs import get_logger
from ravst_ray.training.run_store import Checkpoint, RunStore

log = get_logger(__name__)
Config = TypeVar("Config", bound=StrictModel)
_OF_A_JOB = re.compile(r"^/.*/working_dir_files/_ray_pkg_[0-9a-f]+/")
"""Below it Ray puts the working directory of a submitted job: elsewhere on each cluster, and when a file changes."""


def begin(
    store: RunStore, config: Config, resume: bool, kept: Sequence[str], older: Sequence[str] = ()
) -> Checkpoint | None:
    """Take the output for a run; gives the checkpoint that it goes on from.

    Args:
        store: of the run.
        config: with places that hold in every process.
        resume: go on from the last whole checkpoint.
        kept: settings that must be as they were when the checkpoint was written.
        older: overrides with which the configuration of an earlier version can be read.

    Raises:
        ConfigError: the output is taken or can't be written to, or a setting of ``kept`` has changed.
    """
    checkpoint = store.last_checkpoint() if resume else None
    if not resume and store.begun():
        raise ConfigError(f"{store.output} holds a run already; name another output, or go on with it by --resume")
    if checkpoint is not None and (saved := store.read("config.yaml")) is not None:
        with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
            file.write(saved)
            file.flush()
            before = load_config(type(config), file.name, list(older))
        _same(before, config, kept, checkpoint)
    elif resume and checkpoint is None:
        log.warning("there is no checkpoint under %s yet: the run begins with step 1", store.output)
    check_writable(store.output, "output")
    store.write("config.yaml", dump_config(config))
    return checkpoint


def _same(before: StrictModel, now: StrictModel, kept: Sequence[str], checkpoint: Checkpoint) -> None:
    """Refuse to go on in another order of questions, or with another model, than the checkpoint knows.

    Raises:
        ConfigError: with all settings that differ.
    """
    changed = []
    for name in kept:
        was, given = (attrgetter(name)(one) for one in (before, now))
        if _in_its_job(was) != _in_its_job(given):
            changed.append(f"{name} was {was!r} and is {given!r}")
    if changed:
        raise ConfigError(f"can't go on from {checkpoint.name}: {'; '.join(changed)}; name another output for that")


def _in_its_job(value: Any) -> Any:
    """A path in a job's working directory as from there."""
    return _OF_A_JOB.sub("", value) if isinstance(value, str) else value


def stored(store: RunStore, name: str) -> dict[str, Stored]:
    """The files of a checkpoint, brought to the store by the first worker of each node that has some; on all ranks.

    Raises:
        AbortError: a node can't bring its files there; on all ranks.
        OSError: they can't be read.
    """
    import ray.train
    import torch.distributed as dist

    from ravst_ray.training.sharded import host_group

    context, group = ray.train.get_context(), host_group()
    if group is not None:
        dist.barrier(group)  # what the other workers write is written
    number = context.get_local_rank() if group is not None and store.remote else context.get_world_rank()
    mine: dict[str, Stored] | Exception = {}
    if number == 0:
        try:
            mine = store.upload(name)
            store.leave_only(name)
        except (AbortError, OSError) as error:  # the others wait for this one
            mine = error
    shares = [mine]
    if group is not None:
        shares *= dist.get_world_size()
        dist.all_gather_object(shares, mine, group)
    found: dict[str, Stored] = {}
    for share in shares:
        if isinstance(share, Exception):
            raise share
        found |= share
    return found
