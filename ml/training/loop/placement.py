"""Where a training process runs: device, rank, world size, and device-specific optimizations."""

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
"""Bytes; glibc's maximum. Larger tensors are mapped and unmapped each time."""
_MOST_KEPT: Final = 2**30
"""Bytes free at the heap's top that are kept."""

STORE_ENVIRONMENT: Final = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Environment for `torchrun` that gives each attempt a separate store.

By default attempts share one, and restarted processes wait for addresses of the processes they replace
(https://github.com/pytorch/pytorch/issues/135712).
"""


@dataclass(frozen=True)
class Placement:
    """One process of `world_size`; by default single-process training."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    @property
    def is_leader(self) -> bool:
        """Whether this is the leader, the only process that writes."""
        return self.rank == 0

    @property
    def shard(self) -> slice:
        """This process's share of a sequence that is split over all processes."""
        return slice(self.rank, None, self.world_size)

    def bf16_pays(self) -> bool:
        """Whether PyTorch has native bf16 instructions here; emulated, bf16 is several times slower than fp32."""
        if self.device != "cpu":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        return bool(cpu.features("torch") & {"avx512_bf16", "amx_bf16", "bf16"})

    def optimized(self, network: nn.Module) -> nn.Module:
        """Convert the network in place to the form that trains fastest here; weights and their names stay."""
        return network if self.device != "cpu" or self.bf16_pays() else winograd.convert(network)

    def seed(self, seed: int) -> None:
        """Seed the random generators of this process's devices.

        `torch.manual_seed` seeds every kind of device, and formats the call stack for those that are absent.
        """
        torch.default_generator.manual_seed(seed)
        if self.device != "cpu":
            torch.cuda.manual_seed(seed)

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world_size > 1:
            distributed.all_reduce(values)
        return values

    def broadcast(self, value: T) -> T:
        """Return the leader's value in every process."""
        if self.world_size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box)
        return box[0]

    def with_shared_norms(self, network: nn.Module) -> nn.Module:
        """The network with batch norms that use statistics of the whole batch, not of this process's shard."""
        if self.world_size == 1:
            return network
        if self.device == "cpu":
            return shared_norm.convert(network)
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted

    def data_parallel(self, network: nn.Module) -> nn.Module:
        """The network wrapped so that gradients are averaged over all processes."""
        if self.world_size == 1:
            return network
        ids = None if self.device == "cpu" else [torch.device(self.device).index]
        return nn.parallel.DistributedDataParallel(network, device_ids=ids)


SINGLE_PROCESS = Placement()


@contextmanager
def join_process_group(environ: Mapping[str, str]) -> Iterator[Placement]:
    """Join the process group of `torchrun`, or run as a single process without it: gloo on CPUs, NCCL on GPUs.

    Raises:
        InvalidInputError: `torchrun` shares a store among attempts, so that a restart would hang.
    """
    gpus = torch.cuda.device_count()
    if int(environ.get("WORLD_SIZE", "1")) == 1:
        yield Placement(device="cuda:0" if gpus else "cpu")
        return
    if environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        assignments = " ".join(f"{name}={value}" for name, value in STORE_ENVIRONMENT.items())
        problem = "torchrun shares a store among attempts, and a restarted training would hang: start it with"
        raise InvalidInputError(f"{problem} {assignments}, with the rendezvous `--standalone` or `--rdzv-backend=c10d`")
    device = f"cuda:{int(environ['LOCAL_RANK']) % gpus}" if gpus else "cpu"
    if gpus:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if gpus else "gloo")
    try:
        yield Placement(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Run the block with that many PyTorch threads, and let glibc keep freed memory between steps.

    By default glibc returns the memory a step frees to the kernel, and the next step pays a page fault per 4 KiB.
    The memory is returned at the end; the thresholds stay. Other C libraries are not configured.
    """
    previous_threads, glibc = torch.get_num_threads(), _glibc()
    torch.set_num_threads(threads)
    if glibc:
        glibc.mallopt(_M_MMAP_THRESHOLD, _MOST_IN_HEAP)
        glibc.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
    try:
        yield
    finally:
        torch.set_num_threads(previous_threads)
        if glibc:
            glibc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if platform.system() != "Linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
