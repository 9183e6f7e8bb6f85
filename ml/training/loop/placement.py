"""Where a process computes: its device, its rank among its peers, and what pays there."""

import ctypes
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import torch
from torch import Tensor, distributed, nn

from ml.errors import InvalidInputError
from ml.models import cpu
from ml.training.network import shared_norm, winograd

T = TypeVar("T")

_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
_MOST_IN_HEAP: Final = 32 * 2**20
"""Bytes; glibc takes no more. Larger tensors are mapped and unmapped each time."""
_MOST_KEPT: Final = 2**30
"""Bytes free at the heap's top that are kept."""

OWN_STORES: Final = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""In `torchrun`'s environment: each attempt gets a store of its own.

By default attempts share one, and processes that come in the place of others wait for addresses of these
(https://github.com/pytorch/pytorch/issues/135712).
"""


@dataclass(frozen=True)
class Placement:
    """One process of `world`; by default the one that works alone."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """The one process that writes."""
        return self.rank == 0

    @property
    def mine(self) -> slice:
        """This process's part of anything that all of them share."""
        return slice(self.rank, None, self.world)

    def bf16_pays(self) -> bool:
        """Only with instructions for it that PyTorch may use; emulated, bf16 is several times slower than fp32."""
        if self.device != "cpu":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        return bool(cpu.features("torch") & {"avx512_bf16", "amx_bf16", "bf16"})

    def quickest(self, network: nn.Module) -> nn.Module:
        """The network as it computes fastest here in training, with the same weights by the same names.

        It is converted in place.
        """
        return network if self.device != "cpu" or self.bf16_pays() else winograd.converted(network)

    def seed(self, seed: int) -> None:
        """Begin what is random on this process's devices anew.

        `torch.manual_seed` tells every kind of device, and formats its caller's stack for those that are absent.
        """
        torch.default_generator.manual_seed(seed)
        if self.device != "cpu":
            torch.cuda.manual_seed(seed)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world > 1:
            distributed.all_reduce(values)
        return values

    def told(self, value: T) -> T:
        """The leader's value, in every process."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box)
        return box[0]

    def shared(self, network: nn.Module) -> nn.Module:
        """The network with batch norms that see the whole batch, not this process's part."""
        if self.world == 1:
            return network
        if self.device == "cpu":
            return shared_norm.converted(network)
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted

    def wrapped(self, network: nn.Module) -> nn.Module:
        """The network with gradients that are the mean over all processes."""
        if self.world == 1:
            return network
        ids = None if self.device == "cpu" else [torch.device(self.device).index]
        return nn.parallel.DistributedDataParallel(network, device_ids=ids)


ALONE = Placement()


@contextmanager
def joined(environ: Mapping[str, str]) -> Iterator[Placement]:
    """This process among those that `torchrun` started, or alone where it was not: gloo on CPUs, NCCL on GPUs.

    Raises:
        InvalidInputError: `torchrun` was started so that a restarted training would hang.
    """
    gpus = torch.cuda.device_count()
    if int(environ.get("WORLD_SIZE", "1")) == 1:
        yield Placement(device="cuda:0" if gpus else "cpu")
        return
    if environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        told = " ".join(f"{name}={value}" for name, value in OWN_STORES.items())
        words = "torchrun shares a store among attempts, and a restarted training would hang: start it with"
        raise InvalidInputError(f"{words} {told}, with the rendezvous `--standalone` or `--rdzv-backend=c10d`")
    device = f"cuda:{int(environ['LOCAL_RANK']) % gpus}" if gpus else "cpu"
    if gpus:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if gpus else "gloo")
    try:
        yield Placement(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()


@contextmanager
def computing(threads: int) -> Iterator[None]:
    """PyTorch computes with so many threads in the block, in memory that it keeps from step to step.

    By default glibc returns what a step frees to the kernel, and the next step's tensors cost a page fault each 4 KiB.
    What it keeps more of by this goes back at the end; its thresholds stay. Other C libraries are left as they are.
    """
    before, glibc = torch.get_num_threads(), _glibc()
    torch.set_num_threads(threads)
    if glibc:
        glibc.mallopt(_M_MMAP_THRESHOLD, _MOST_IN_HEAP)
        glibc.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if glibc:
            glibc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if platform.system() != "Linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
