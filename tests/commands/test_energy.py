"""Energy: what is added up, counters that begin again or fail, and why there are none."""

import ctypes
import os
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import pytest

from experiments.bench import energy, nvml, rapl
from experiments.bench.counters import Counter, Unreadable
from experiments.bench.energy import Meter, open_meter
from experiments.bench.rapl import Rapl

RANGE = 262_143_328_850  # microjoules, of a real server


@pytest.fixture(autouse=True)
def no_polling(monkeypatch):
    """Counters are read by the tests alone."""
    monkeypatch.setattr(rapl, "POLL_S", 1000.0)
    monkeypatch.setattr(nvml, "SAMPLE_S", 1000.0)


def put(root: Path, zone: str, name: str, microjoules: int, wide: int | None = RANGE) -> Path:
    """Make a domain as the kernel shows it; return the file of its counter."""
    folder = root / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    if wide is not None:
        (folder / "max_energy_range_uj").write_text(f"{wide}\n")
    return folder / "energy_uj"


def turn(file: Path, microjoules: int) -> None:
    """Set a counter, never seen half written."""
    fresh = file.with_name("fresh")
    fresh.write_text(f"{microjoules}\n")
    fresh.replace(file)


def test_packages_and_their_memory_are_added_and_no_part_twice(tmp_path):
    first = put(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    core = put(tmp_path, "intel-rapl:0:0", "core", 0)
    dram = put(tmp_path, "intel-rapl:0:1", "dram", 500)
    second = put(tmp_path, "intel-rapl:1", "package-1", 7)
    psys = put(tmp_path, "intel-rapl:2", "psys", 0)
    mmio = put(tmp_path, "intel-rapl-mmio:0", "package-0", 0)
    counter = Rapl(tmp_path)
    assert counter.counts == "package-0, package-1, dram of package-0"
    assert counter.joules() == 0
    turn(first, 3_000_000)
    turn(dram, 250_500)
    turn(second, 1_000_007)
    for contained in (core, psys, mmio):
        turn(contained, 99_000_000)
    assert counter.joules() == pytest.approx(2 + 0.25 + 1)
    counter.close()


def test_a_counter_that_begins_again_goes_on(tmp_path):
    first = put(tmp_path, "intel-rapl:0", "package-0", RANGE - 5_000_000)
    second = put(tmp_path, "intel-rapl:1", "package-1", 0)
    counter = Rapl(tmp_path)
    turn(first, 7_000_000)
    turn(second, 1_000_000)
    assert counter.joules() == pytest.approx(12 + 1)
    turn(first, 8_000_000)
    assert counter.joules() == pytest.approx(12 + 1 + 1)


def test_small_ranges_are_read_often_enough(tmp_path, monkeypatch):
    """A counter that begins again twice between two readings of the caller."""
    monkeypatch.setattr(rapl, "POLL_S", 0.002)
    file = put(tmp_path, "intel-rapl:0", "package-0", 0, wide=10_000_000)
    counter = Rapl(tmp_path)
    for microjoules in (8_000_000, 6_000_000, 4_000_000):  # 8, then 8 and 8 more
        turn(file, microjoules)
        time.sleep(0.1)
    assert counter.joules() == pytest.approx(24)
    before = [thread.name for thread in threading.enumerate()].count("energy")
    counter.close()
    assert [thread.name for thread in threading.enumerate()].count("energy") == before - 1


@pytest.mark.parametrize("wide", [RANGE, None])
def test_a_counter_that_was_reset_is_not_guessed_at(tmp_path, wide):
    file = put(tmp_path, "intel-rapl:0", "package-0", 5_000_000_000, wide)
    meter = Meter(Rapl(tmp_path))
    with meter.window() as window:
        turn(file, 0)
    assert window.joules is None and window.reason == meter.reason
    assert f"{file}: went back from 5000000000 to 0" in str(window.reason)
    turn(file, 9_000_000)
    with meter.window() as later:
        turn(file, 19_000_000)
    assert later.joules is None and meter.source == "rapl"  # what was lost stays unknown


def test_counters_that_may_not_be_read_say_how_they_could(tmp_path, monkeypatch):
    put(tmp_path, "intel-rapl:0", "package-0", 1)
    read = Path.read_text

    def refused(self, *args, **how):
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *args, **how)

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(Unreadable, match="may not read it: sudo chmod a.r .*:./energy_uj"):
        Rapl(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permissions_as_the_kernel_sets_them(tmp_path):
    put(tmp_path, "intel-rapl:0", "package-0", 1).chmod(0)
    with pytest.raises(Unreadable, match="sudo chmod"):
        Rapl(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no processor's energy counter"), ("", "is no number"), ("-3", "'-3' is no number")],
)
def test_counters_that_are_not_there(content, reason, tmp_path, monkeypatch):
    if content is not None:
        put(tmp_path, "intel-rapl:0", "package-0", 1).write_text(content)
    monkeypatch.setattr(energy, "Rapl", lambda: Rapl(tmp_path))
    meter = open_meter(jax.devices()[0])
    assert meter.source is None and reason in str(meter.reason)
    with meter.window() as window:
        pass
    assert window.joules is None and window.reason == meter.reason
    assert meter.joules() is None and meter.idle_watts(0.001) is None
    about = meter.about()
    assert about["source"] is about["idle_watts"] is None and about["reason"] == meter.reason


class Steady(Counter):
    """40 W, always."""

    source, counts = "steady", "nothing"

    def _advance(self):
        return 40 * time.perf_counter()


def test_windows_and_idle_power():
    with Meter(Steady()) as meter:
        with meter.window() as window:
            time.sleep(0.05)
        assert window.seconds >= 0.05 and window.reason is None
        assert window.joules == pytest.approx(40 * window.seconds, rel=0.2)
        assert meter.idle_watts(0.05) == pytest.approx(40, rel=0.2)
        with pytest.raises(ValueError, match="seconds=0 must be > 0"):
            meter.idle_watts(0)
        with pytest.raises(KeyError), meter.window() as window:
            raise KeyError
        assert window.joules is not None


def test_a_counter_that_did_not_move_is_not_zero(tmp_path):
    put(tmp_path, "intel-rapl:0", "package-0", 5)
    with Meter(Rapl(tmp_path)).window() as window:
        pass
    assert window.joules is None and "did not move" in str(window.reason)


def test_this_machine_is_read_or_says_why_not():
    with open_meter(jax.devices()) as meter:
        assert (meter.source is None) == (meter.reason is not None) == (meter.counts is None)
        first, second = meter.joules(), meter.joules()
    if first is not None and second is not None:
        assert second >= first
    assert "\n" not in str(meter.reason)


class NVMLError(Exception):
    """Of the fake driver."""


class Driver(ModuleType):
    """NVML of some boards: address -> millijoules, milliwatts, split by MIG; None: not told."""

    NVMLError = NVMLError

    def __init__(self, boards, start=True):
        super().__init__("pynvml")
        self.boards, self.start, self.open = boards, start, 0

    def nvmlInit(self):
        if not self.start:
            raise NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetHandleByPciBusId(self, address):
        if address.decode() not in self.boards:
            raise NVMLError("Not Found")
        return address.decode()

    def _told(self, board, what):
        value = self.boards[board].get(what)
        if value is None:
            raise NVMLError("Not Supported")
        return value

    def nvmlDeviceGetMigMode(self, board):
        return [self._told(board, "mig"), 0]

    def nvmlDeviceGetTotalEnergyConsumption(self, board):
        return self._told(board, "energy")

    def nvmlDeviceGetPowerUsage(self, board):
        return self._told(board, "power")


class Cuda:
    """The CUDA driver, which numbers what is visible."""

    addresses = ["0000:3B:00.0", "0000:86:00.0"]

    def cuInit(self, flags):
        return 0

    def cuDeviceGet(self, device, ordinal):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
        if ordinal >= len(visible):
            return 101
        device._obj.value = int(visible[ordinal])
        return 0

    def cuDeviceGetPCIBusId(self, text, length, device):
        text.value = self.addresses[device.value].encode()
        return 0


def gpu(ordinal=0, **more):
    return SimpleNamespace(
        **{
            "platform": "gpu", "device_kind": "NVIDIA H100 80GB HBM3", "process_index": 0,
            "local_hardware_id": ordinal,
            "client": SimpleNamespace(platform_version="PJRT C API\ncuda 13000"),
        } | more
    )  # fmt: skip


@pytest.fixture
def driver(monkeypatch):
    """Two boards that count."""
    boards = {
        "0000:3B:00.0": {"energy": 5_000, "power": 100_000, "mig": 0},
        "0000:86:00.0": {"energy": 70_000, "power": 300_000},
    }
    found = Driver(boards)
    monkeypatch.setitem(sys.modules, "pynvml", found)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Cuda())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def test_the_total_energy_of_the_gpus_that_are_used(driver):
    first, second = driver.boards.values()
    one, both = open_meter(gpu(1)), open_meter([gpu(0), gpu(1)])
    assert (one.source, one.counts) == ("nvml total-energy", "board of GPU 0000:86:00.0")
    first["energy"] += 2_000
    second["energy"] += 40_000
    assert (one.joules(), both.joules()) == (40, 42)
    assert driver.open == 2
    one.close()
    both.close()
    assert driver.open == 0


def test_what_cuda_calls_its_first_gpu_may_be_nvmls_second(driver, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert open_meter(gpu(0)).counts == "board of GPU 0000:86:00.0"
    meter = open_meter(gpu(1))
    assert meter.source is None and "does not know its GPU 1 (error 101)" in str(meter.reason)


def test_power_is_integrated_where_no_energy_is_counted(driver):
    first, second = driver.boards.values()
    del first["energy"]
    assert open_meter([gpu(0), gpu(1)]).source == "nvml integrated power"
    now = [50.0]
    boards = {address: address for address in driver.boards}
    counter = nvml.IntegratedPower(driver, boards, clock=lambda: now[0])
    now[0] = 52.0
    first["power"] = 300_000
    assert counter.joules() == pytest.approx(2 * (100 + 300) / 2 + 2 * 300)
    now[0] = 53.0
    first["power"] = second["power"] = 0
    assert counter.joules() == pytest.approx(1000 + 600 / 2)
    counter.close()


def test_power_is_read_between_the_readings(driver, monkeypatch):
    monkeypatch.setattr(nvml, "SAMPLE_S", 0.002)
    board = driver.boards["0000:3B:00.0"]
    board["energy"], board["power"] = None, 0
    with open_meter(gpu()) as meter:
        assert "every 0.002 s" in str(meter.counts)
        with meter.window() as window:
            board["power"] = 1_000_000
            time.sleep(0.1)
            board["power"] = 0
            time.sleep(0.05)
    assert window.joules == pytest.approx(100, rel=0.5)


def test_a_gpu_that_fails_in_the_middle(driver):
    board = driver.boards["0000:3B:00.0"]
    meter = open_meter(gpu())
    with meter.window() as window:
        board["energy"] = None
    assert window.joules is None and window.reason == "GPU 0000:3B:00.0: Not Supported"
    meter = open_meter(gpu(1))
    with meter.window() as window:
        driver.boards["0000:86:00.0"]["energy"] = 69_000
    assert window.joules is None
    assert "went back from 70000 to 69000" in str(window.reason)
    assert meter.source == "nvml total-energy" and meter.reason == window.reason


def test_why_a_gpu_is_not_read(driver, monkeypatch):
    def reason(device):
        meter = open_meter(device)
        assert meter.source is None and meter.joules() is None
        return meter.reason

    driver.boards["0000:3B:00.0"]["mig"] = 1
    assert "is split by MIG" in reason(gpu())
    driver.boards["0000:86:00.0"].update(energy=None, power=None)
    assert reason(gpu(1)) == "GPU 0000:86:00.0: Not Supported"
    assert driver.open == 0
    del driver.boards["0000:86:00.0"]
    assert reason(gpu(1)) == "GPU 0000:86:00.0: Not Found"
    driver.start = False
    assert reason(gpu()) == "NVML does not start: Driver Not Loaded"
    amd = gpu(client=SimpleNamespace(platform_version="rocm 70000"), device_kind="gfx942")
    assert reason(amd) == "no counter is known for gfx942 (gpu)"
    assert "another host's" in reason([gpu(), gpu(1, process_index=1)])
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "no nvidia-ml-py" in reason(gpu())


def test_the_real_package_has_what_is_called(monkeypatch):
    real = pytest.importorskip("pynvml")
    called = [name for name in vars(Driver) if name.startswith("nvml")]
    assert len(called) == 6 and all(callable(getattr(real, name)) for name in called)
    try:
        real.nvmlInit()
    except real.NVMLError:  # no driver here
        meter = open_meter(gpu())
        assert meter.source is None and str(meter.reason).startswith("NVML does not start: ")
    else:
        real.nvmlShutdown()


def test_no_cuda_driver(driver, monkeypatch):
    def absent(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert "the CUDA driver is not there: libcuda.so.1" in str(open_meter(gpu()).reason)


def test_tpus_are_modelled_and_say_so():
    chips = [gpu(platform="tpu", device_kind="TPU v5 lite")] * 4
    meter = open_meter(chips)
    assert meter.source == "model (v5e, 200 W a chip)" and "not published" in str(meter.counts)
    with meter.window() as window:
        time.sleep(0.02)
    assert window.joules == pytest.approx(800 * window.seconds, rel=0.2)
    assert meter.idle_watts(0.001) is None
    unknown = open_meter(gpu(platform="tpu", device_kind="TPU v2"))
    assert unknown.source is None and str(unknown.reason).startswith("TPU v2 tells no energy")
