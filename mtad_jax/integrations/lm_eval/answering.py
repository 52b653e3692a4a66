"""Answers to lm_eval's requests: prompts that fit, in batches alike in what they ask for."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mtad_jax.decode.protocols import Strategy
from mtad_jax.integrations.lm_eval.generation import Wanted, read_wanted
from mtad_jax.pipeline import Pipeline

Asked = tuple[str, Mapping[str, Any]]
"""A context, and the generation settings of the request."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class Answerer:
    """What all answers of a model are made with, and what they have cost so far.

    Attributes:
      pipeline: the models.
      strategy: the decoding rule.
      encode: a context as token ids, never none.
      ends: end tokens.
      own: warp settings and seed of `--model_args`.
      max_length: most tokens that the target sees.
      max_gen_toks: most tokens of an answer where the request does not say.
      batch_size: requests decoded together.
      tokens, calls: tokens of all answers, and calls of the target for them.
    """

    pipeline: Pipeline
    strategy: Strategy
    encode: Callable[[str], list[int]]
    ends: tuple[int, ...]
    own: Mapping[str, Any]
    max_length: int
    max_gen_toks: int
    batch_size: int
    tokens: int = 0
    calls: int = 0

    def answers(self, requests: Sequence[Asked]) -> Iterator[tuple[int, str]]:
        """Yield each request's index and answer, batch by batch, the longest prompts first.

        Raises:
          ValueError: a setting that cannot be honoured, or no room for a prompt; of any request,
            before the first answer is made.
        """
        groups: dict[str, list[int]] = {}
        for index, (_, settings) in enumerate(requests):
            groups.setdefault(repr(sorted(settings.items())), []).append(index)
        for wanted, prompts in [self._job(requests, indices) for indices in groups.values()]:
            order = sorted(prompts, key=lambda i: len(prompts[i]), reverse=True)
            for first in range(0, len(order), self.batch_size):
                batch = order[first : first + self.batch_size]
                texts = self._decode(wanted, {i: prompts[i] for i in batch})
                yield from zip(batch, texts, strict=True)

    def _job(
        self, requests: Sequence[Asked], indices: list[int]
    ) -> tuple[Wanted, dict[int, list[int]]]:
        """Return what the requests of a group, alike in their settings, ask for; checked."""
        wanted = read_wanted(requests[indices[0]][1], self.own, self.max_gen_toks)
        room = self._room(wanted.settings["max_new_tokens"])
        prompts = {i: self.encode(requests[i][0]) for i in indices}
        cut = sum(len(prompt) > room for prompt in prompts.values())
        if cut:
            _log.warning(
                "%d of %d prompts are longer than the %d tokens that the answer leaves: they lose "
                "the tokens on the left", cut, len(prompts), room,
            )  # fmt: skip
        prompts = {i: prompt[-room:] for i, prompt in prompts.items()}
        call = self._call(wanted)
        self.pipeline.check(list(prompts.values()), batch_size=self.batch_size, **call)
        return wanted, prompts

    def _room(self, new: int) -> int:
        """Return the most tokens of a prompt whose answer gets `new` tokens.

        Raises:
          ValueError: there is room for none.
        """
        draft = self.pipeline.draft if self.strategy.needs_draft else None
        longest = self.max_length
        if draft is not None:
            longest = min(longest, draft.lm.model.max_positions)
        ahead = max(self.strategy.lookahead - 1, 0)
        if longest - ahead - new < 1:
            raise ValueError(
                f"max_gen_toks={new} leaves no room for a prompt in {longest} positions (the rule "
                f"looks {ahead} ahead): lower it, e.g. --gen_kwargs max_gen_toks="
                f"{max((longest - ahead) // 2, 1)}"
            )
        return longest - ahead - new

    def _call(self, wanted: Wanted) -> dict[str, Any]:
        """Return the keyword arguments of a `Pipeline` call."""
        fixed = {"strategy": self.strategy, "stop": wanted.stop, "eos_id": self.ends}
        return fixed | wanted.settings

    def _decode(self, wanted: Wanted, prompts: Mapping[int, list[int]]) -> list[str]:
        """Return the answers of one batch; a request's draws are those of its index."""
        completions = self.pipeline(
            list(prompts.values()), batch_size=self.batch_size, row_ids=list(prompts),
            **self._call(wanted),
        )  # fmt: skip
        tokenizer = self.pipeline.target.tokenizer
        spaces = tokenizer.leading_spaces if tokenizer else 0
        texts = []
        for completion in completions:
            self.tokens += len(completion.tokens)
            self.calls += completion.stats.rounds
            text = completion.text
            for _ in range(spaces):  # an answer is a text of its own, as for lm_eval's own models
                text = text.removeprefix(" ")
            texts.append(text)
        return texts
