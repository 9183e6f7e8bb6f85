"""Child processes that need not import torch anew: forked from a server that has, which takes seconds each time."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess

_IMPORTED = ["torch", "torch._dynamo", "ml.training.loop.fit", "ml.tuning.search", "tests.pictures"]


def started(work: Callable[..., object], *arguments: object) -> BaseProcess:
    """A child that does it, from a module that can be imported; it has nothing of this process but its arguments.

    The server runs no thread and has computed nothing, so that its children may do both.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    child = context.Process(target=work, args=arguments)
    child.start()
    return child
