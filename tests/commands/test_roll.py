"""The roll that the parents of a run on several hosts call, without any program under them."""

import asyncio
import json
import socket

import pytest
from ports import free_port

from experiments.launch import rendezvous as rolls
from experiments.launch.rendezvous import Answerer, make_roll
from mtad_jax.devices.hosts import Place

pytestmark = pytest.mark.slow

FACTS = {"--num_processes": "3", "--top_p": "0.9"}


class Run:
    """Some of the processes of a run, each with its side of the roll."""

    def __init__(self, processes=3, **facts):
        self.port, self.processes = free_port(), processes
        self.facts = {int(i[1:]): FACTS | new for i, new in facts.items()}

    async def join(self, *present, timeout_s=20.0):
        self.rolls = {
            i: make_roll(Place("127.0.0.1", self.port, self.processes, i), self.facts.get(i, FACTS))
            for i in present
        }
        await asyncio.gather(*(roll.join(timeout_s) for roll in self.rolls.values()))
        return self.rolls

    async def verdicts(self):
        """Every side's verdict; the same, or the test fails."""
        found = await asyncio.wait_for(
            asyncio.gather(*(roll.verdict for roll in self.rolls.values())), 20
        )
        for roll in self.rolls.values():
            await roll.close()
        assert len(set(found)) == 1, found
        return found[0]


def test_a_run_ends_well_when_all_have():
    async def main():
        run = Run()
        sides = await run.join(2, 0, 1)
        for side in sides.values():
            assert not side.verdict.done()
            await side.end(None)
        return await run.verdicts()

    assert asyncio.run(main()) is None


@pytest.mark.parametrize("present", [[0], [0, 2], [1]])
def test_who_never_joins_is_named(present):
    async def main():
        run = Run()
        await run.join(*present, timeout_s=0.5)
        return await run.verdicts()

    absent = {1: "processes 1, 2 of 3 never joined", 2: "process 1 of 3 never joined"}
    text = asyncio.run(main()) or ""
    if 0 in present:
        assert text.startswith(absent[len(present)])
    else:
        assert text.startswith("process 0 never answered at 127.0.0.1:")
    assert "within 0.5 s" in text and "--join_timeout" in text


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"--top_p": "0.8"}, "process 1 differs from process 0 in --top_p: 0.8, not 0.9: give"),
        ({"--num_processes": "2"}, "in --num_processes: 2, not 3"),
        ({"--what": "new"}, "in --what: new, not none"),
    ],
)
def test_what_differs_is_named_everywhere(facts, message):
    async def main():
        run = Run(p1=facts)
        await run.join(2, 0, 1)
        return await run.verdicts()

    assert message in (asyncio.run(main()) or "")


def test_a_process_id_cannot_be_given_twice():
    async def main():
        run = Run()
        sides = [make_roll(Place("127.0.0.1", run.port, 3, i), FACTS) for i in (0, 1, 1)]
        run.rolls = dict(enumerate(sides))
        await asyncio.gather(*(side.join(20) for side in sides))
        return await run.verdicts()

    assert "--process_id=1 was given twice" in (asyncio.run(main()) or "")


@pytest.mark.parametrize("processes", [1, 2])
def test_who_calls_late_is_refused_and_ends_nobody_else(processes):
    async def main():
        run, late = Run(processes), []
        sides = await run.join(*range(processes))
        for i, facts in ((0, FACTS), (1, FACTS), (1, FACTS | {"--top_p": "0.8"}), (7, FACTS)):
            side = Answerer(Place("127.0.0.1", run.port, 8, i), facts)
            await side.join(20)
            late.append(await asyncio.wait_for(side.verdict, 5))
            await side.close()
        await asyncio.sleep(0.05)
        assert not any(side.verdict.done() for side in sides.values())
        for side in sides.values():
            await side.end(None)
        return await run.verdicts(), late

    verdict, (zero, twice, other, unknown) = asyncio.run(main())
    assert verdict is None
    assert all(text.endswith("(the run under way goes on without it)") for text in (twice, other))
    assert zero.startswith("--process_id=0 was given twice")
    assert twice.startswith("--process_id=1 was given twice")
    assert unknown.startswith("--process_id=7")
    assert other.startswith("process 1 differs from process 0 in --top_p: 0.8, not 0.9")


@pytest.mark.parametrize("gone", [0, 1])
def test_a_closed_connection_is_a_lost_process(gone):
    async def main():
        run = Run()
        sides = await run.join(0, 1, 2)
        await sides.pop(gone).close()
        return await run.verdicts()

    assert "was lost" in (text := asyncio.run(main()) or "") and f"process {gone} " in text


@pytest.mark.parametrize("silent", [0, 1])
def test_silence_is_a_lost_process(silent, monkeypatch):
    monkeypatch.setattr(rolls, "BEAT_S", 0.05)
    monkeypatch.setattr(rolls, "SILENCE_S", 0.5)

    async def main():
        run = Run(processes=2)
        sides = await run.join(0, 1)
        await asyncio.sleep(0.8)
        assert not any(side.verdict.done() for side in sides.values())
        for task in sides[silent]._tasks:
            task.cancel()  # it neither speaks nor listens, but its connection stays
        text = await sides[1 - silent].verdict
        for side in sides.values():
            await side.close()
        return text

    assert f"process {silent} " in (asyncio.run(main()) or "")


def test_the_cause_is_told_and_not_what_follows_from_it(monkeypatch):
    monkeypatch.setattr(rolls, "SETTLE_S", 0.3)

    async def main(cause):
        run = Run()
        sides = await run.join(0, 1, 2)
        await sides[0].end("connection reset by peer", cause=False)
        await sides[1].end("connection reset by peer", cause=False)
        if cause:
            await sides[2].end("ended by SIGKILL")
        return await run.verdicts()

    assert asyncio.run(main(True)) == "process 2: ended by SIGKILL"
    assert asyncio.run(main(False)) == "process 0: connection reset by peer"


def test_strangers_are_sent_away():
    async def main():
        run = Run(processes=2)
        caller = make_roll(Place("127.0.0.1", run.port, 2, 0), FACTS)
        joining = asyncio.create_task(caller.join(20))
        for hello in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", json.dumps({"index": "x"}).encode()):
            await asyncio.sleep(0.05)
            reader, writer = await asyncio.open_connection("127.0.0.1", run.port)
            writer.write(hello + b"\n")
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
        answerer = make_roll(Place("127.0.0.1", run.port, 2, 1), FACTS)
        await asyncio.gather(joining, answerer.join(20))
        run.rolls = {0: caller, 1: answerer}
        for side in run.rolls.values():
            await side.end(None)
        return await run.verdicts()

    assert asyncio.run(main()) is None


@pytest.mark.parametrize("which", [0, 1])
def test_a_port_in_use_is_refused(which):
    port = free_port()
    with socket.create_server(("127.0.0.1", port + which)):
        with pytest.raises(ValueError, match=f"port {port + which} is in use on this host"):
            asyncio.run(make_roll_and_join(Place("127.0.0.1", port, 2, 0)))


async def make_roll_and_join(place):
    await make_roll(place, FACTS).join(5)
