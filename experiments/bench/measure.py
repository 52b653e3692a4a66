"""Timing of decoding rules: after warm-up, interleaved, and with everything waited for."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.flags.settings import RunSettings
from mtad_jax.calibration.candidates import Candidate
from mtad_jax.decode import engine
from mtad_jax.decode.loop import bucket
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.warp import Warp
from mtad_jax.pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class Rule:
    """A decoding rule with its settings under a warp, one line of a table.

    Attributes:
      candidate: the rule.
      warp: sharpening of both models' distributions.
      note: what the warp makes of the rule, where it is not the run's: "greedy", "T=0.5".
    """

    candidate: Candidate
    warp: Warp
    note: str = ""

    @classmethod
    def of(cls, name: str, warp: Warp, note: str = "", /, **settings: Any) -> "Rule":
        """Return the rule `recipes.<name>(**settings)` under a warp.

        Raises:
          ValueError: as `Candidate.of`.
        """
        return cls(Candidate.of(name, **settings), warp, note)

    @property
    def name(self) -> str:
        """The recipe's."""
        return self.candidate.name

    @property
    def strategy(self) -> Strategy:
        """The rule itself."""
        return self.candidate.strategy

    @property
    def settings(self) -> Mapping[str, Any]:
        """The recipe's arguments that were given."""
        return self.candidate.settings

    @property
    def label(self) -> str:
        """Name and settings on one line, and the note; unique in a run."""
        return ", ".join(filter(None, [self.candidate.label, self.note]))


@dataclasses.dataclass(frozen=True)
class Sample:
    """One prompt decoded once.

    Attributes:
      rule: label of the rule.
      prompt: index of the prompt.
      repeat: which pass over the rules it belongs to.
      kind: of the prompt, e.g. "story".
      tokens: generated tokens that a user gets, end token included.
      rounds: calls of the target.
      accepted, drafted: drafted tokens kept, and proposed as the candidate.
      logp_raw: sum over the tokens of the un-warped target's log-probability.
      seconds: wall time of the decode loop.
      prefill_seconds: wall time of running the prompt through the models.
      text: what was generated.
      correct: judged by the task; None where it has no judge.
    """

    rule: str
    prompt: int
    repeat: int
    kind: str
    tokens: int
    rounds: int
    accepted: int
    drafted: int
    logp_raw: float
    seconds: float
    prefill_seconds: float
    text: str
    correct: bool | None = None


@dataclasses.dataclass(frozen=True)
class Bench:
    """What is the same for all rules of a measurement.

    Attributes:
      pipe: the models.
      prompts: token ids of each prompt.
      kinds: kind of each prompt.
      max_new_tokens: most tokens a prompt gets.
      seed: of all draws; a prompt's random stream is that of its index.
    """

    pipe: Pipeline
    prompts: Sequence[list[int]]
    kinds: Sequence[str]
    max_new_tokens: int
    seed: int

    def decode(self, rule: Rule, prompt: int, repeat: int = 0) -> Sample:
        """Decode one prompt by one rule, batch 1, prefill and decode timed apart.

        All prompts of a rule run in one compiled program: they are prefilled as wide as the longest
        is, with a cache that would hold it.
        """
        call = engine.prepare(
            self.pipe.target.lm,
            [self.prompts[prompt]],
            [len(self.prompts[prompt])],
            strategy=rule.strategy,
            draft=self.pipe.draft.lm if self.pipe.draft else None,
            warp=rule.warp,
            max_new_tokens=self.max_new_tokens,
            eos_id=self.pipe.target.eos_ids,
            seed=self.seed,
            row_ids=[prompt],
            longest=max(map(len, self.prompts)),
        )
        timed = call.timed()
        result = timed.result
        stats, count = result.stats(), int(result.length[0])
        tokenizer = self.pipe.target.tokenizer
        ids = np.asarray(result.tokens)[0, :count].tolist()
        return Sample(
            rule=rule.label,
            prompt=prompt,
            repeat=repeat,
            kind=self.kinds[prompt],
            tokens=count,
            rounds=int(stats.rounds[0]),
            accepted=int(stats.accepted[0]),
            drafted=int(stats.drafted[0]),
            logp_raw=float(np.asarray(result.trace.logp_raw)[0, :count].sum()),
            seconds=timed.seconds,
            prefill_seconds=timed.prefill_seconds,
            text=tokenizer.decode(ids, continuation=True) if tokenizer else "",
        )

    def interleaved(
        self, rules: Sequence[Rule], repeats: int, tick: Callable[[], object] = lambda: None
    ) -> list[Sample]:
        """Run every rule on every prompt: `repeats` passes over the rules, a share of prompts each.

        Interleaved, so that a machine that slows down for a while slows all rules down. In a pass
        all rules see the same prompts; passes see different ones, so that every sample counts for
        quality too. `tick` is called after each sample.

        Raises:
          ValueError: more passes than prompts.
        """
        if not 1 <= repeats <= len(self.prompts):
            raise ValueError(
                f"repeats={repeats} must be between 1 and the {len(self.prompts)} prompts"
            )
        samples = []
        for repeat in range(repeats):
            first, end = (len(self.prompts) * r // repeats for r in (repeat, repeat + 1))
            for rule in rules:
                for prompt in range(first, end):
                    samples.append(self.decode(rule, prompt, repeat))
                    tick()
        return samples

    def compile(self, rule: Rule) -> float:
        """Run a rule twice, untimed; return the seconds that compiling took, roughly."""
        begin = time.perf_counter()
        self.decode(rule, 0)
        first = time.perf_counter()
        self.decode(rule, 0)
        return max(2 * first - begin - time.perf_counter(), 0.0)


def sizes(batch: Sequence[list[int]], settings: RunSettings) -> tuple[int, int, int]:
    """Return what a batch compiles as: rows, prompt width and cache slots."""
    longest = max(map(len, batch))
    scratch = settings.strategy.scratch(settings.max_new_tokens)
    rows = settings.samples * len(batch)
    return rows, bucket(longest), bucket(longest + settings.max_new_tokens + scratch)


def warm_up(pipe: Pipeline, batch: Sequence[list[int]], settings: RunSettings) -> None:
    """Compile what a call on this batch runs: two rounds of it are enough.

    Two, because a stream's second round is given the state that the first gave back.
    """
    call = settings.call()
    del call["stop"]
    for result in itertools.islice(pipe.results(batch, rounds=1, **call), 2):
        jax.block_until_ready(result)
