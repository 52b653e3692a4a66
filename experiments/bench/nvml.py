"""Energy of NVIDIA GPUs by NVML: the board's own counter, else its power over time.

A GPU is found by its PCI address, which the CUDA driver tells of each number that JAX has for it:
`CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` renumber CUDA's devices, and not NVML's.

Both are the whole board's, memory included, with whatever else runs on it. The host's processor is
not in them.

*Source*: NVIDIA, NVML API reference, nvmlDeviceGetTotalEnergyConsumption (millijoules since the
driver was loaded; Volta and later) and nvmlDeviceGetPowerUsage (milliwatts).
"""

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from experiments.bench.counters import Counter, Unreadable
from mtad_jax.errors import install_hint, one_line

SAMPLE_S = 0.1
"""Seconds between two readings of the power where there is no counter of energy."""


def open_nvml(ordinals: Sequence[int]) -> Counter:
    """Open the counters of GPUs.

    Args:
      ordinals: CUDA's numbers of them in this process.

    Raises:
      Unreadable: there is no NVML, or it has no counter for one of them.
    """
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise Unreadable(
            f"no nvidia-ml-py, which reads NVIDIA's counters: {install_hint('energy')}"
        ) from error
    with _told(pynvml, "NVML does not start"):
        pynvml.nvmlInit()
    try:
        boards = {}
        for ordinal in ordinals:
            address = pci_address(ordinal)
            boards[address] = _board(pynvml, address)
        try:
            return TotalEnergy(pynvml, boards)
        except Unreadable:  # boards before Volta count no energy
            return IntegratedPower(pynvml, boards)
    except Unreadable:
        pynvml.nvmlShutdown()
        raise


def pci_address(ordinal: int) -> str:
    """Return the PCI address of the GPU that CUDA calls `ordinal` in this process.

    Raises:
      Unreadable: the CUDA driver does not say.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise Unreadable(f"the CUDA driver is not there: {one_line(error)}") from error
    device, address = ctypes.c_int(), ctypes.create_string_buffer(32)
    code = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), ordinal)
        or cuda.cuDeviceGetPCIBusId(address, len(address), device)
    )
    if code:
        raise Unreadable(f"the CUDA driver does not know its GPU {ordinal} (error {code})")
    return address.value.decode()


def _board(pynvml: Any, address: str) -> Any:
    """Return NVML's handle of a GPU.

    Raises:
      Unreadable: there is none, or the GPU is split by MIG.
    """
    with _told(pynvml, f"GPU {address}"):
        board = pynvml.nvmlDeviceGetHandleByPciBusId(address.encode())
    try:
        split = pynvml.nvmlDeviceGetMigMode(board)[0]
    except pynvml.NVMLError:  # not a GPU that can be split
        split = False
    if split:
        raise Unreadable(f"GPU {address} is split by MIG, whose parts have no counters")
    return board


class _Boards(Counter):
    """GPUs as NVML has them, by their PCI addresses; closing it closes NVML."""

    def __init__(self, pynvml: Any, boards: dict[str, Any]):
        super().__init__()
        self._pynvml, self._boards = pynvml, boards
        self.counts = ", ".join(f"board of GPU {address}" for address in boards)

    def _read(self, name: str) -> dict[str, int]:
        """Return what the function `name` of NVML says of each board.

        Raises:
          Unreadable: it fails.
        """
        found = {}
        for address, board in self._boards.items():
            with _told(self._pynvml, f"GPU {address}"):
                found[address] = getattr(self._pynvml, name)(board)
        return found

    def close(self) -> None:
        """Stop what reads it, and NVML."""
        super().close()
        with contextlib.suppress(self._pynvml.NVMLError):
            self._pynvml.nvmlShutdown()


class TotalEnergy(_Boards):
    """The boards' counters of energy."""

    source = "nvml total-energy"

    def __init__(self, pynvml: Any, boards: dict[str, Any]):
        """Reads them a first time.

        Raises:
          Unreadable: a board has none.
        """
        super().__init__(pynvml, boards)
        self._first = self._last = self._read("nvmlDeviceGetTotalEnergyConsumption")

    def _advance(self) -> float:
        now = self._read("nvmlDeviceGetTotalEnergyConsumption")
        for address, millijoules in now.items():
            if millijoules < self._last[address]:
                raise Unreadable(
                    f"GPU {address}: its energy went back from {self._last[address]} to "
                    f"{millijoules} millijoules: was the driver loaded again?"
                )
        self._last = now
        return (sum(now.values()) - sum(self._first.values())) / 1000


class IntegratedPower(_Boards):
    """The boards' power over time, by trapezoids between readings."""

    source = "nvml integrated power"

    def __init__(
        self,
        pynvml: Any,
        boards: dict[str, Any],
        clock: Callable[[], float] = time.monotonic,
    ):
        """Reads the power from now on.

        Raises:
          Unreadable: a board does not tell it.
        """
        super().__init__(pynvml, boards)
        self.counts += f", their power read every {SAMPLE_S:g} s"
        self._clock, self._joules = clock, 0.0
        self._watts, self._read_at = self._power(), clock()
        self._poll(SAMPLE_S)

    def _power(self) -> float:
        return sum(self._read("nvmlDeviceGetPowerUsage").values()) / 1000

    def _advance(self) -> float:
        watts, now = self._power(), self._clock()
        self._joules += (watts + self._watts) / 2 * (now - self._read_at)
        self._watts, self._read_at = watts, now
        return self._joules


@contextlib.contextmanager
def _told(pynvml: Any, what: str) -> Iterator[None]:
    """Turn errors of NVML into one line."""
    try:
        yield
    except pynvml.NVMLError as error:
        raise Unreadable(f"{what}: {one_line(error)}") from error
