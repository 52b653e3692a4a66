"""Energy of processors by RAPL, as Linux shows it: Intel's, and AMD's under the same names.

Added up are all packages, and the memory (`dram`) of those that show it, which their packages do
not contain. `core` and `uncore` are parts of a package and `psys` contains the packages, so none of
them counts. A package is all that runs on it, other programs included.

*Source*: Linux, Documentation/power/powercap/powercap.rst; Intel, Software Developer's Manual,
volume 3, "Platform specific power management support" (which domain contains which).
"""

import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path

from experiments.bench.counters import Counter, Unreadable
from mtad_jax.errors import one_line

POWERCAP = Path("/sys/class/powercap")
POLL_S = 10.0
"""Seconds between readings: the smallest counters begin again after minutes, and must not twice."""

# No package draws more. What went back and would be more if it had begun again was reset.
_MOST_WATTS = 2000


@dataclasses.dataclass
class _Zone:
    """A domain that counts.

    Attributes:
      name: for records.
      folder: of its files.
      range: microjoules after which it begins again at 0; 0: not known.
      last: its last reading, in microjoules.
    """

    name: str
    folder: Path
    range: int
    last: int

    def gained(self, seconds: float) -> int:
        """Read it; return the microjoules since the last reading, which was `seconds` ago.

        Raises:
          Unreadable: it cannot be read, or was reset.
        """
        now, last = _number(self.folder / "energy_uj"), self.last
        self.last = now
        if now >= last:
            return now - last
        gained = now + self.range - last
        if not 0 <= gained <= _MOST_WATTS * 1e6 * (seconds + 1):
            raise Unreadable(
                f"{self.folder / 'energy_uj'}: went back from {last} to {now} microjoules: it was "
                "reset"
            )
        return gained


class Rapl(Counter):
    """The packages of this machine and their memory."""

    source = "rapl"

    def __init__(self, root: Path = POWERCAP, clock: Callable[[], float] = time.monotonic):
        """Opens all counters.

        Args:
          root: the folder that the kernel shows them in.
          clock: seconds.

        Raises:
          Unreadable: there are none, or one cannot be read.
        """
        super().__init__()
        self._zones = _zones(root)
        self.counts = ", ".join(zone.name for zone in self._zones)
        self._clock, self._read_at = clock, clock()
        self._microjoules = 0
        self._poll(POLL_S)

    def _advance(self) -> float:
        now = self._clock()
        self._microjoules += sum(zone.gained(now - self._read_at) for zone in self._zones)
        self._read_at = now
        return self._microjoules / 1e6


def _zones(root: Path) -> list[_Zone]:
    """Return the domains to add up.

    Raises:
      Unreadable: there are none, or one cannot be read.
    """
    packages, memory = {}, []
    for folder in sorted(root.glob("intel-rapl:*")):
        found = re.fullmatch(r"intel-rapl:(\d+)(:\d+)?", folder.name)
        if found is None:
            continue
        name = _text(folder / "name")
        if found[2] is None and name.startswith("package"):
            packages[found[1]] = _zone(name, folder)
        elif found[2] is not None and name == "dram":
            memory.append((found[1], folder))
    if not packages:
        raise Unreadable(
            f"no processor's energy counter (intel-rapl) in {root}: this kernel or virtual machine "
            "shows none"
        )
    owned = [(packages[i].name, folder) for i, folder in memory if i in packages]
    return [*packages.values(), *(_zone(f"dram of {name}", folder) for name, folder in owned)]


def _zone(name: str, folder: Path) -> _Zone:
    wide = folder / "max_energy_range_uj"
    energy = _number(folder / "energy_uj")
    return _Zone(name, folder, _number(wide) if wide.exists() else 0, energy)


def _number(file: Path) -> int:
    """Return the number in a file.

    Raises:
      Unreadable: it cannot be read, or holds none.
    """
    text = _text(file)
    if not text.isdecimal():
        raise Unreadable(f"{file}: {text[:40]!r} is no number of microjoules")
    return int(text)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except PermissionError as error:
        every = file.parent.parent / "intel-rapl:*" / "energy_uj"
        raise Unreadable(
            f"{file}: this user may not read it: sudo chmod a+r {every}, which holds until the "
            "next start, or run as root"
        ) from error
    except OSError as error:
        raise Unreadable(f"{file}: {error.strerror or one_line(error)}") from error
