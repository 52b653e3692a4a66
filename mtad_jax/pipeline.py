"""Text in, text out: tokenizers, stop strings and streaming around `generate`."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Unpack, cast

import numpy as np
from jax.sharding import Mesh

from mtad_jax import compilation
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.load import LoadedModel
from mtad_jax.completions import Completion, TextStream, follow
from mtad_jax.decode import generate as engine
from mtad_jax.decode.checks import check_draft, check_ends, check_prompts
from mtad_jax.decode.loop import ALL_ROUNDS
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.result import DecodeResult
from mtad_jax.decode.settings import Settings, check_settings
from mtad_jax.models.protocol import BoundLM
from mtad_jax.text import tokenizer as tokenizers
from mtad_jax.text.stream import StopTrimmer
from mtad_jax.types import Int

_ROUNDS_BETWEEN_STOP_CHECKS = 8  # stop strings are looked for on the host


class Pipeline:
    """A target, and a draft if there is one, ready to continue texts.

    Making one keeps compiled programs on disk from then on, unless JAX was told otherwise; see
    `mtad_jax.compilation.enable`.
    """

    def __init__(self, target: LoadedModel, draft: LoadedModel | None = None):
        """Pair two models.

        Raises:
          ValueError: their vocabularies differ, naming the first difference.
        """
        compilation.enable()
        self.target = target
        self.draft = None if draft is None else _same_vocabulary(target, draft)

    @classmethod
    def load(
        cls,
        target: str | Path,
        draft: str | Path | None = None,
        *,
        dtype: Any = None,
        mesh: Mesh | None = None,
        shard_draft: bool = False,
        target_int8: str | Iterable[str] = "",
        draft_int8: str | Iterable[str] = "",
    ) -> "Pipeline":
        """Open one or two checkpoint folders, ours or Hugging Face's; see `mtad_jax.load`.

        On a mesh every device holds the whole draft, unless `shard_draft`: a small model's layers
        are done before its devices could have talked to each other. `target_int8` and `draft_int8`
        are each model's `int8`: "weights", "kv" or "weights,kv".

        Raises:
          ValueError: as `mtad_jax.load`, and as `Pipeline`. What the configs tell is refused
            before any weights are read.
        """
        if shard_draft and (mesh is None or draft is None):
            missing = "draft" if draft is None else "mesh"
            raise ValueError(f"shard_draft=True needs a {missing}: give one or leave it out")
        if draft is None and draft_int8:
            raise ValueError(f"draft_int8={draft_int8!r} needs a draft: give one or leave it out")
        compilation.enable()  # int8 weights are compiled for as they are read
        folders: list[tuple[Any, dict[str, Any]]] = [
            (target, {"mesh": mesh, "int8": target_int8}),
            (draft, {"mesh": mesh, "int8": draft_int8, "replicated": not shard_draft}),
        ]
        folders = [(path, how) for path, how in folders if path is not None]
        for path, how in folders:
            checkpoint.open_model(path, **how)
        return cls(*(checkpoint.load(path, dtype=dtype, **how) for path, how in folders))

    @classmethod
    def shipped(
        cls,
        *,
        mesh: Mesh | None = None,
        shard_draft: bool = False,
        target_int8: str | Iterable[str] = "",
        draft_int8: str | Iterable[str] = "",
    ) -> "Pipeline":
        """Open the trained pair that comes with the package; `docs/training.md` has its recipe."""
        with resources.as_file(resources.files("mtad_jax") / "assets") as folder:
            return cls.load(
                folder / "target", folder / "draft", mesh=mesh, shard_draft=shard_draft,
                target_int8=target_int8, draft_int8=draft_int8,
            )  # fmt: skip

    def __call__(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        strategy: Strategy,
        stop: Sequence[str] = (),
        **settings: Unpack[Settings],
    ) -> list[Completion]:
        """Continue prompts as one batch.

        Args:
          prompts: texts, or token ids taken as they are.
          strategy: the decoding rule; see `mtad_jax.recipes`.
          stop: strings that end a text, each text at its own first one; it is cut right before
            it, and ids, log-probabilities and counters with it. One may be a special token, or
            hold one: they are looked for in the text with special tokens. `min_new_tokens` holds
            back end tokens only, not these (as Hugging Face's).
          **settings: see `mtad_jax.decode.settings.Settings`; here `eos_id` None means the
            checkpoint's end tokens, and () none.

        Returns:
          `len(prompts) * samples` completions: the first prompt's samples, then the second's, ...

        Raises:
          ValueError: as `mtad_jax.generate`; an empty prompt; text without a tokenizer.
        """
        rounds = _ROUNDS_BETWEEN_STOP_CHECKS if stop else ALL_ROUNDS
        return list(self._run(prompts, strategy, stop, rounds, settings))[-1][1]

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        strategy: Strategy,
        stop: Sequence[str] = (),
        rounds: int = 1,
        **settings: Unpack[Settings],
    ) -> TextStream:
        """Continue one prompt piece by piece; never half a character, never part of a stop string.

        Args:
          prompt: as an item of `__call__`'s.
          strategy: as `__call__`.
          stop: as `__call__`.
          rounds: rounds between two pieces.
          **settings: as `__call__`.

        Raises:
          ValueError: as `__call__`; several samples.
        """
        if settings.get("samples", 1) != 1:
            raise ValueError(
                f"samples={settings.get('samples')}: a stream is one text: call the pipeline itself"
            )
        run = self._run([prompt], strategy, stop, rounds, settings)
        return TextStream((pieces[0], (done or [None])[0]) for pieces, done in run)

    def results(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        strategy: Strategy,
        rounds: int,
        **settings: Unpack[Settings],
    ) -> Iterator[DecodeResult]:
        """Continue prompts as `mtad_jax.stream` does: ids and counters after every `rounds` rounds.

        Args and raises: as `__call__` and `stream`.
        """
        ids, length = self.padded(prompts)
        return engine.stream(
            self.target.lm,
            ids,
            length,
            strategy=strategy,
            draft=self._draft_of(strategy),
            rounds=rounds,
            **self._with_ends(settings),
        )

    def check(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        strategy: Strategy,
        stop: Sequence[str] = (),
        **settings: Unpack[Settings],
    ) -> None:
        """Check a call on the host, for those who want to know before they do other work.

        Args and raises: as `__call__`; nothing is compiled.
        """
        self._check_stop(stop)
        target = self.target.lm
        _, length = check_prompts(*self.padded(prompts), target.vocab_size)
        draft = check_draft(target, self._draft_of(strategy), strategy)
        settings = self._with_ends(settings)
        check_settings(settings, length, strategy=strategy, target=target, draft=draft)

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Return a prompt's token ids.

        Raises:
          ValueError: no token is left, an id is out of range, or text is given and there is no
            tokenizer.
        """
        if isinstance(prompt, str):
            if self.target.tokenizer is None:
                raise ValueError("the checkpoint has no tokenizer files: give prompts as token ids")
            ids = self.target.tokenizer.encode(prompt)
        else:
            ids = [int(i) for i in prompt]
        if not ids:
            raise ValueError("the prompt is empty and the tokenizer has no start token: give text")
        vocab = self.target.lm.vocab_size
        bad = next((i for i in ids if not 0 <= i < vocab), None)
        if bad is not None:  # some are too large for an array, which could say so otherwise
            raise ValueError(f"the prompt holds id {bad}, outside [0, {vocab - 1}]")
        return ids

    def padded(
        self, prompts: Sequence[str | Sequence[int]]
    ) -> tuple[Int[np.ndarray, "B P"], Int[np.ndarray, " B"]]:
        """Return prompts as ids [B, P], padded on the right, and their lengths [B].

        Raises:
          ValueError: as `encode`; there is no prompt.
        """
        if not prompts:
            raise ValueError("prompts is empty: give at least one")
        ids = [self.encode(prompt) for prompt in prompts]
        length = np.array([len(prompt) for prompt in ids])
        padded = np.zeros((len(ids), length.max()), np.int64)
        for row, prompt in zip(padded, ids, strict=True):
            row[: len(prompt)] = prompt
        return padded, length

    def _run(
        self,
        prompts: Sequence,
        strategy: Strategy,
        stop: Sequence[str],
        rounds: int,
        settings: Settings,
    ) -> Iterator[tuple[list[str], list[Completion]]]:
        """Check and start a call; see `follow`."""
        self._check_stop(stop)
        results = self.results(prompts, strategy=strategy, rounds=rounds, **settings)
        samples, tokenizer = int(settings.get("samples", 1)), self.target.tokenizer
        ids = [ids for ids in map(self.encode, prompts) for _ in range(samples)]
        trimmers = [StopTrimmer(tokenizer, stop) if tokenizer else None for _ in ids]
        ends = check_ends(self._with_ends(settings).get("eos_id"), self.target.lm.vocab_size)
        return follow(results, ids, trimmers, ends.tolist())

    def _check_stop(self, stop: Sequence[str]) -> None:
        """Raise ValueError on stop strings that cannot be used."""
        if isinstance(stop, str):
            raise ValueError(f"stop={stop!r} must be a list of strings: write [{stop!r}]")
        if not isinstance(stop, Collection) or not all(isinstance(text, str) for text in stop):
            raise ValueError(f"stop={stop!r} must be a list of strings: write () for none")
        if stop and self.target.tokenizer is None:
            raise ValueError("stop strings need a tokenizer, and the checkpoint has none")
        if "" in stop:
            raise ValueError("stop holds an empty string: give strings that can end a text")

    def _draft_of(self, strategy: Strategy) -> BoundLM | None:
        """Return the draft where the rule uses one."""
        return self.draft.lm if self.draft and strategy.needs_draft else None

    def _with_ends(self, settings: Settings) -> Settings:
        """Return settings whose end tokens are the checkpoint's where none were given."""
        ends = settings.get("eos_id")
        return cast(Settings, settings | {"eos_id": self.target.eos_ids if ends is None else ends})


def _same_vocabulary(target: LoadedModel, draft: LoadedModel) -> LoadedModel:
    """Return the draft, cut to the target's real vocabulary where it has no tokenizer itself."""
    if target.tokenizer and draft.tokenizer:
        tokenizers.same_vocabulary(target.tokenizer, draft.tokenizer)
    vocab, rows = target.lm.vocab_size, draft.lm.model.vocab_size
    if draft.lm.vocab_size != vocab and not draft.tokenizer and target.tokenizer and rows >= vocab:
        return dataclasses.replace(draft, lm=dataclasses.replace(draft.lm, vocab=vocab))
    return draft
