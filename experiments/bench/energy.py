"""Energy over a window of time, from the best counter that the devices have.

    with open_meter(devices) as meter:
        idle = meter.idle_watts(5.0)  # before the run, with nothing running
        with meter.window() as window:
            work()
        print(window.seconds, window.joules or window.reason)

| devices | source | what it counts |
| --- | --- | --- |
| NVIDIA GPUs | `nvml total-energy` | the boards' own counters; see `experiments.bench.nvml` |
| | `nvml integrated power` | where they have none |
| the processor | `rapl` | packages and their memory; see `experiments.bench.rapl` |
| TPUs | `model (v5e, 200 W a chip)` | time x power of the planner's table; nothing is measured |

Counts include what is used at rest, which `idle_watts` tells apart. Nothing that cannot be read is
ever 0: it is None, with the reason.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from experiments.bench.counters import Counter, Unreadable
from experiments.bench.nvml import open_nvml
from experiments.bench.rapl import Rapl
from mtad_jax.planning.chips import tpu_of


@dataclasses.dataclass
class Window:
    """What a stretch of time took; filled in at its end.

    Attributes:
      seconds: wall time.
      joules: energy over the same time, what is used at rest included; None: not known.
      reason: why it is not known, on one line; None: it is.
    """

    seconds: float = 0.0
    joules: float | None = None
    reason: str | None = "the window has not ended"


class Meter:
    """Reads a counter, or says why there is none; a context manager that closes it.

    Attributes:
      source: where joules are from, as records name it; None: there is no counter.
      counts: what is added up, in words; None: there is no counter.
      reason: why nothing can be read, on one line; None: it can. A counter that fails later keeps
        its source, and reads None from then on.
    """

    def __init__(self, counter: Counter | None, reason: str | None = None):
        self._counter = counter
        self.source = None if counter is None else counter.source
        self.counts = None if counter is None else counter.counts
        self.reason = reason

    def joules(self) -> float | None:
        """Return the joules since the meter was opened; None: they are not known."""
        if self._counter is None:
            return None
        try:
            return self._counter.joules()
        except Unreadable as error:
            self.reason = str(error)
            return None

    @contextlib.contextmanager
    def window(self) -> Iterator[Window]:
        """Measure a block: its wall time, and its energy over the same time."""
        window = Window()
        before, begin = self.joules(), time.perf_counter()
        try:
            yield window
        finally:
            window.seconds = time.perf_counter() - begin
            after = self.joules()
            if before is None or after is None:
                window.reason = self.reason
            elif after <= before:
                window.reason = (
                    f"the counter did not move in {window.seconds:.3g} s: measure longer at a time"
                )
            else:
                window.joules, window.reason = after - before, None

    def idle_watts(self, seconds: float) -> float | None:
        """Wait; return the power meanwhile in watts. None: not known, or only modelled.

        Raises:
          ValueError: no time to wait.
        """
        if not seconds > 0:
            raise ValueError(f"seconds={seconds} must be > 0")
        if self._counter is None or not self._counter.measured:
            return None
        with self.window() as window:
            time.sleep(seconds)
        return None if window.joules is None else window.joules / window.seconds

    def about(self, idle_watts: float | None = None) -> dict[str, Any]:
        """Return `energy` of a run's `settings.json`; see docs/records.md."""
        return {
            "source": self.source,
            "counts": self.counts,
            "reason": self.reason,
            "idle_watts": idle_watts,
        }

    def close(self) -> None:
        """Stop what reads the counter."""
        if self._counter is not None:
            self._counter.close()

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_meter(devices: Any) -> Meter:
    """Return a meter of devices.

    Args:
      devices: a JAX device, or all those that a run uses, of one platform.
    """
    found = list(devices) if isinstance(devices, Sequence) else [devices]
    try:
        return Meter(_counter(found))
    except Unreadable as error:
        return Meter(None, str(error))


def _counter(devices: Sequence[Any]) -> Counter:
    """Open the counter of devices.

    Raises:
      Unreadable: they have none.
    """
    if any(device.process_index != jax.process_index() for device in devices):
        raise Unreadable("some of the devices are another host's, whose counters are not read here")
    first = devices[0]
    if first.platform == "cpu":
        return Rapl()
    if first.platform == "tpu":
        return Modelled(first.device_kind, len(devices))
    runtime = getattr(first.client, "platform_version", "")
    if first.platform in ("gpu", "cuda") and "rocm" not in runtime.lower():
        return open_nvml([device.local_hardware_id for device in devices])
    raise Unreadable(f"no counter is known for {first.device_kind} ({first.platform})")


class Modelled(Counter):
    """Power of a table times wall time, for chips that tell neither; see `mtad_jax.planning.chips`.

    The whole time counts as busy: windows are those of the work.
    """

    measured = False

    def __init__(self, kind: str, chips: int, clock: Callable[[], float] = time.perf_counter):
        """Begins to count.

        Args:
          kind: of the chips, as they call themselves.
          chips: how many there are.
          clock: seconds.

        Raises:
          Unreadable: the power of such a chip is not known.
        """
        super().__init__()
        chip = tpu_of(kind)
        if chip is None or chip.watts is None:
            raise Unreadable(f"{kind} tells no energy, and its power is not known")
        self.source = f"model ({chip.name}, {chip.watts:g} W a chip)"
        self.counts = f"time x {chips} x {chip.watts:g} W ({chip.watts_are}), not measured"
        self._watts, self._clock, self._begin = chips * chip.watts, clock, clock()

    def _advance(self) -> float:
        return self._watts * (self._clock() - self._begin)
