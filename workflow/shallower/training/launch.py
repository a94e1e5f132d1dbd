"""Starting a run's processes on this machine, as torchrun does, and ending them."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from contextlib import AbstractContextManager, nullcontext

from shallower.errors import Unfinished
from shallower.training.group import ALONE, Alone

# Imports of torch's engine stand inside: they take seconds, and one process that
# trains alone, which is the default, does without.

SHUTDOWN = 60  # seconds that processes have for a checkpoint after a signal


def launched() -> bool:
    """Whether torchrun, or `launch`, started this process among others."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def own_group(parallel: str, device: str) -> AbstractContextManager[Alone]:
    """The group that this process was started into; see `distributed.joined`."""
    if not launched():
        return nullcontext(ALONE)
    from shallower.training.distributed import joined

    return joined(parallel, device)


def launch(processes: int, arguments: list[str]) -> None:
    """Run `python -m shallower <arguments>` in so many processes; wait for all.

    If one fails the others are ended, and this process exits with its status; what
    went wrong has been printed by the first process to find out.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Its error reports take a screen, and say no more than that a process failed.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port
        local_addr="localhost",
        max_restarts=0,
        shutdown_timeout=SHUTDOWN,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "shallower", *arguments)
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        sys.exit(status if status > 0 else 1)  # negative: ended by a signal
    except SignalException:
        sys.exit(Unfinished.status)
