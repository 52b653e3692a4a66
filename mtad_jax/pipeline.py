"""Text in, text out: tokenizers, stop strings and streaming around `generate`."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Unpack, cast

import jax
import numpy as np
from jax.sharding import Mesh

from mtad_jax import compilation
from mtad_jax.batches import Batch, make_batches, with_progress
from mtad_jax.calibration import calibrate as calibration
from mtad_jax.calibration.report import Calibration
from mtad_jax.checkpoints import load as checkpoint
from mtad_jax.checkpoints.load import LoadedModel
from mtad_jax.checkpoints.pair import exit_early, exit_layers, with_one_vocabulary
from mtad_jax.completions import Completion, Piece, TextStream, TimedCompletions, follow
from mtad_jax.decode import arguments, engine
from mtad_jax.decode.arguments import as_prompt, as_prompts
from mtad_jax.decode.checks import check_count, check_draft, check_ends
from mtad_jax.decode.explain import check_explained, explain
from mtad_jax.decode.explained import ExplainedRound
from mtad_jax.decode.loop import ALL_ROUNDS
from mtad_jax.decode.protocols import Strategy
from mtad_jax.decode.result import DecodeResult
from mtad_jax.decode.settings import Settings, check_settings
from mtad_jax.models.early_exit import check_exit
from mtad_jax.models.protocol import BoundLM
from mtad_jax.text import chat as chats
from mtad_jax.text.chat import ChatTemplate, Message
from mtad_jax.text.stream import StopTrimmer
from mtad_jax.types import Int
from mtad_jax.views.tables import table_html

Prompts = str | Sequence[str | Sequence[int]]
"""One text; or texts and token ids, in any mixture."""

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
          TypeError: one is no `LoadedModel`.
        """
        for name, model in (("target", target), ("draft", draft)):
            if not isinstance(model, LoadedModel) and (model is not None or name == "target"):
                raise TypeError(
                    f"{name} is a {type(model).__name__}, not a LoadedModel: give "
                    f"{name}=mtad_jax.load(folder), or open folders by Pipeline.load"
                )
        compilation.enable()
        if draft is not None:
            target, draft = with_one_vocabulary(target, draft)
        self.target, self.draft = target, draft

    def __repr__(self) -> str:
        return f"Pipeline(target={self.target!r}, draft={self.draft!r})"

    def _repr_html_(self) -> str:
        """Return a table of the models; notebooks show it."""
        models = {"target": self.target} | ({} if self.draft is None else {"draft": self.draft})
        facts = {n: m.lm.facts() | {"folder": m.folder.name} for n, m in models.items()}
        head = list(dict.fromkeys(key for said in facts.values() for key in said))
        rows = [[n, *(said.get(key, "-") for key in head)] for n, said in facts.items()]
        return table_html(["", *head], rows)

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

        `draft="early_exit:N"` is the target's own first N layers, with its last norm and head: it
        shares the target's arrays, lies where they lie, and is int8 where they are.

        Raises:
          ValueError: as `mtad_jax.load`, as `Pipeline` and as `early_exit`. What the configs tell
            is refused before any weights are read.
        """
        layers = exit_layers(draft)
        if layers is not None:
            for name, value in (("shard_draft", shard_draft), ("draft_int8", draft_int8)):
                if value:
                    raise ValueError(
                        f"{name}={value!r} means nothing to draft={draft}, whose arrays are the "
                        "target's: leave it out"
                    )
            draft = None
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
        folders = folders[: 1 if draft is None else 2]
        opened = [checkpoint.open_model(path, **how)[1] for path, how in folders]
        if layers is not None:
            check_exit(opened[0], layers)
        models = [checkpoint.load(path, dtype=dtype, **how) for path, how in folders]
        return cls(*models) if layers is None else cls(models[0], exit_early(models[0], layers))

    @classmethod
    def shipped(
        cls,
        *,
        draft: str | None = None,
        mesh: Mesh | None = None,
        shard_draft: bool = False,
        target_int8: str | Iterable[str] = "",
        draft_int8: str | Iterable[str] = "",
    ) -> "Pipeline":
        """Open the trained pair that comes with the package; `docs/training.md` has its recipe.

        `draft="early_exit:N"` takes the target's own first layers instead of the draft; see `load`.

        Raises:
          ValueError: another name of a draft; as `load`.
        """
        if draft is not None and exit_layers(draft) is None:
            raise ValueError(f"draft={draft} must be early_exit:N: open other folders by load")
        with resources.as_file(resources.files("mtad_jax") / "assets") as folder:
            return cls.load(
                folder / "target", draft or folder / "draft", mesh=mesh, shard_draft=shard_draft,
                target_int8=target_int8, draft_int8=draft_int8,
            )  # fmt: skip

    def __call__(
        self,
        prompts: Prompts,
        *,
        strategy: Strategy,
        stop: Sequence[str] = (),
        batch_size: int | None = None,
        **settings: Unpack[Settings],
    ) -> list[Completion]:
        """Continue prompts, in one batch or in several; on a terminal several show their progress.

        Args:
          prompts: texts, or token ids taken as they are; a text alone is one prompt.
          strategy: the decoding rule; see `mtad_jax.recipes`.
          stop: strings that end a text, each text at its own first one; it is cut right before
            it, and ids, log-probabilities and counters with it. One may be a special token, or
            hold one: they are looked for in the text with special tokens. `min_new_tokens` holds
            back end tokens only, not these (as Hugging Face's).
          batch_size: prompts decoded together; None: all. More where a mesh splits the rows of a
            batch. Every batch is filled up, with repeats that are dropped, to equally many rows;
            those whose longest prompts are padded to one size share a program. Texts are those of
            one batch of all prompts.
          **settings: see `mtad_jax.decode.settings.Settings`; here `eos_id` None means the
            checkpoint's end tokens, and () none.

        Returns:
          `len(prompts) * samples` completions: the first prompt's samples, then the second's, ...

        Raises:
          ValueError: as `mtad_jax.generate`; an empty prompt; text without a tokenizer.
          TypeError: an argument is not of its kind.
        """
        ids = self._ids(prompts)
        rounds = _ROUNDS_BETWEEN_STOP_CHECKS if stop else ALL_ROUNDS
        batches = self._batches(len(ids), batch_size, settings)
        if len(batches) > 1:  # what a late one would refuse is refused before the first
            self._check(ids, batches, strategy, stop, settings)
        found: list[Completion] = []
        for batch in with_progress(batches):
            steps = self._run(ids, batch, strategy, stop, rounds, settings)
            found += list(steps)[-1][1][: batch.rows]
        return found

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        *,
        strategy: Strategy,
        stop: Sequence[str] = (),
        batch_size: int | None = None,
        chat_template: str | ChatTemplate | None = None,
        variables: Mapping[str, Any] | None = None,
        **settings: Unpack[Settings],
    ) -> list[Completion]:
        """Answer conversations; to stream one answer, give `stream` what `encode_chat` returns.

        Args:
          messages: a conversation, as `render` takes it, or several.
          strategy, stop, batch_size: as `__call__`.
          chat_template, variables: as `render`.
          **settings: as `__call__`; the checkpoint's end tokens end an answer.

        Returns:
          As `__call__`: `[answer] = pipe.chat(messages, ...)`. A conversation goes on with
          `{"role": "assistant", "content": answer.text}` and the user's next message.

        Raises:
          ValueError: as `encode_chat` and `__call__`.
          TypeError: as `__call__`.
        """
        prompts = [
            self.encode_chat(said, chat_template=chat_template, variables=variables)
            for said in chats.as_conversations(messages)
        ]
        return self(prompts, strategy=strategy, stop=stop, batch_size=batch_size, **settings)

    def render(
        self,
        messages: Sequence[Message],
        *,
        chat_template: str | ChatTemplate | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return a conversation as the text that the model continues with its answer.

        Args:
          messages: `{"role": ..., "content": ...}` each, the last one the user's.
          chat_template: the text of a template, or the name of one of the checkpoint's; None: the
            checkpoint's default one.
          variables: what else the template takes, e.g. `{"enable_thinking": False}`.

        Raises:
          ValueError: messages that are none; no tokenizer or template; a template that is wrong,
            refuses these messages, or takes too much time or memory.
        """
        tokenizer = self.target.tokenizer
        if tokenizer is None:
            raise ValueError(
                f"{self.target.folder}: no tokenizer files, and conversations are text"
            )
        template = chats.choose_template(
            tokenizer.chat_templates, chat_template, self.target.folder
        )
        found = chats.check_messages(messages)
        return template.render(found, tokenizer.special_tokens, variables)

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        chat_template: str | ChatTemplate | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return a conversation's token ids, a prompt as all other methods take it.

        The template writes the start token, if there is to be one: none is added.

        Args and raises: as `render`; the text is empty, or has half of a surrogate pair.
        """
        return self.encode_rendered(
            self.render(messages, chat_template=chat_template, variables=variables)
        )

    def encode_rendered(self, text: str) -> list[int]:
        """Return the token ids of what `render` gave.

        Raises:
          ValueError: as `encode_chat`.
        """
        assert self.target.tokenizer is not None
        return self.encode(self.target.tokenizer.encode(text, add_bos=False))

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

        A piece is a string whose `spans` say which of it the draft proposed; see
        `mtad_jax.completions.Piece`.

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
        ids = [self.encode(prompt)]
        [batch] = self._batches(1, None, settings)
        run = self._run(ids, batch, strategy, stop, rounds, settings)
        return TextStream((pieces[0], (done or [None])[0]) for pieces, done in run)

    def results(
        self,
        prompts: Prompts,
        *,
        strategy: Strategy,
        rounds: int,
        **settings: Unpack[Settings],
    ) -> Iterator[DecodeResult]:
        """Continue prompts as `mtad_jax.stream` does: ids and counters after every `rounds` rounds.

        Args and raises: as `__call__` and `stream`; one batch, not filled up.
        """
        rounds = check_count("rounds", rounds, 1)
        return self._call(self._ids(prompts), strategy, settings).steps(rounds)

    def explain(
        self,
        prompt: str | Sequence[int],
        *,
        strategy: Strategy,
        round: int = 0,
        **settings: Unpack[Settings],
    ) -> ExplainedRound:
        """Lay one round of a prompt's text open: tree, log-ratios, verdict; `plots.tree` draws it.

        Args:
          prompt: as an item of `__call__`'s.
          strategy: a rule that drafts, such as `recipes.mmtad()`.
          round: its number, from 0 on.
          **settings: as `__call__`.

        Raises:
          ValueError: as `__call__`; a rule of the target's own beams, several samples, or the text
            ends before the round.
        """
        check_explained(strategy, settings.get("samples", 1))
        tokenizer = self.target.tokenizer

        def spell(token: int) -> str:
            if tokenizer is None:
                return str(token)
            return tokenizer.decode([token], skip_special=False, continuation=True)

        return explain(self._call([self.encode(prompt)], strategy, settings), round, spell)

    def timed(
        self,
        prompts: Prompts,
        *,
        strategy: Strategy,
        stop: Sequence[str] = (),
        **settings: Unpack[Settings],
    ) -> TimedCompletions:
        """Continue prompts in one batch against the clock; see `TimedCompletions`.

        Compiling is in the times of the first call of a size.

        Args:
          prompts: as `__call__`'s.
          strategy: as `__call__`'s.
          stop: as `__call__`'s.
          **settings: as `__call__`'s.

        Raises:
          ValueError: as `__call__`.
        """
        self._check_stop(stop)
        ids = self._ids(prompts)
        call = self._call(ids, strategy, settings)
        rounds = _ROUNDS_BETWEEN_STOP_CHECKS if stop else ALL_ROUNDS
        jax.block_until_ready(call.state)
        begin = time.perf_counter()
        call = call.prefilled()
        ready = time.perf_counter()
        *_, (_, completions) = self._follow(call.steps(rounds), ids, stop, settings)
        end = time.perf_counter()
        return TimedCompletions(completions, ready - begin, end - ready)

    def check(
        self,
        prompts: Prompts,
        *,
        strategy: Strategy,
        stop: Sequence[str] = (),
        batch_size: int | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        """Check a call on the host, for those who want to know before they do other work.

        Args and raises: as `__call__`; nothing is compiled.
        """
        ids = self._ids(prompts)
        batches = self._batches(len(ids), batch_size, settings)
        self._check(ids, batches, strategy, stop, settings)

    def calibrate(self, prompts: Prompts, **how: Any) -> Calibration:
        """Choose the rule that pays on these models and prompts, or none; see `mtad_jax.calibrate`.

        Args:
          prompts: as `__call__`'s.
          **how: as `mtad_jax.calibrate`: `max_new_tokens` must be given, `warp` should be; `eos_id`
            as here.

        Raises:
          ValueError: as `mtad_jax.calibrate`, and as `encode`.
          TypeError: an argument is not of its kind.
        """
        draft = self.draft.lm if self.draft else None
        ends = how.get("eos_id")
        how |= {"eos_id": self.target.eos_ids if ends is None else ends}
        return calibration.calibrate(self.target.lm, draft, *self.padded(prompts), **how)

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Return a prompt's token ids.

        Raises:
          ValueError: no token is left, or text is given and there is no tokenizer; an id that the
            model does not have.
          TypeError: neither text nor token ids.
        """
        return self._encode(as_prompt(prompt), "the prompt")

    def padded(self, prompts: Prompts) -> tuple[Int[np.ndarray, "B P"], Int[np.ndarray, " B"]]:
        """Return prompts as ids [B, P], padded on the right, and their lengths [B].

        Raises:
          ValueError: as `encode`; there is no prompt.
          TypeError: as `encode`.
        """
        return _pad(self._ids(prompts))

    def _ids(self, prompts: Prompts) -> list[list[int]]:
        """Return each prompt's token ids; the one place where a call's prompts are encoded."""
        return [self._encode(p, f"prompts[{i}]") for i, p in enumerate(as_prompts(prompts))]

    def _encode(self, prompt: str | list[int], name: str) -> list[int]:
        """Return a prompt's token ids, checked; errors call it by this name."""
        if not isinstance(prompt, str):
            ids = prompt
        elif self.target.tokenizer is None:
            raise ValueError("the checkpoint has no tokenizer files: give prompts as token ids")
        else:
            ids = self.target.tokenizer.encode(prompt)
        if not ids:
            raise ValueError(f"{name} is empty and the tokenizer has no start token: give text")
        vocab = self.target.lm.vocab_size
        for i in ids:
            if not 0 <= i < vocab:
                raise ValueError(f"{name} holds id {i}, outside [0, {vocab - 1}]")
        return ids

    def _batches(self, prompts: int, size: int | None, settings: Settings) -> list[Batch]:
        """Share out a call's prompts."""
        arguments.check_names(settings, Settings.__annotations__)
        seed, row_ids = settings.get("seed", 0), settings.get("row_ids")
        samples = check_count("samples", settings.get("samples", 1), 1)
        return make_batches(
            prompts, size, samples, seed=seed, row_ids=row_ids, mesh=self.target.lm.mesh
        )

    def _check(
        self,
        ids: list[list[int]],
        batches: list[Batch],
        strategy: Strategy,
        stop: Sequence[str],
        settings: Settings,
    ) -> None:
        """Check a call on the host; ids and batches are those of `_ids` and `_batches`."""
        self._check_stop(stop)
        target = self.target.lm
        draft = check_draft(target, self._draft_of(strategy), strategy)
        length = np.array([len(prompt) for prompt in ids], np.int32)
        check_settings(
            self._with_ends(settings), length, strategy=strategy, target=target, draft=draft,
            rows=len(batches[0].row_ids),
        )  # fmt: skip

    def _call(self, ids: list[list[int]], strategy: Strategy, settings: Settings) -> engine.Call:
        """Check a call on token ids and make it ready."""
        padded, length = _pad(ids)
        draft, settings = self._draft_of(strategy), self._with_ends(settings)
        return engine.prepare(
            self.target.lm, padded, length, strategy=strategy, draft=draft, **settings
        )

    def _run(
        self,
        ids: list[list[int]],
        batch: Batch,
        strategy: Strategy,
        stop: Sequence[str],
        rounds: int,
        settings: Settings,
    ) -> Iterator[tuple[list[Piece], list[Completion]]]:
        """Check and start the call of one batch of these prompts; see `follow`."""
        self._check_stop(stop)
        streams = {"seed": batch.seed, "row_ids": batch.row_ids}
        prompts = [ids[i] for i in batch.index]
        settings = cast(Settings, settings | streams)
        rounds = check_count("rounds", rounds, 1)
        steps = self._call(prompts, strategy, settings).steps(rounds)
        return self._follow(steps, prompts, stop, settings)

    def _follow(
        self,
        steps: Iterator[DecodeResult],
        prompts: list[list[int]],
        stop: Sequence[str],
        settings: Settings,
    ) -> Iterator[tuple[list[Piece], list[Completion]]]:
        """Turn the steps of a checked call into text; see `follow`."""
        samples, tokenizer = int(settings.get("samples", 1)), self.target.tokenizer
        ids = [ids for ids in prompts for _ in range(samples)]
        trimmers = [StopTrimmer(tokenizer, stop) if tokenizer else None for _ in ids]
        ends = check_ends(self._with_ends(settings).get("eos_id"), self.target.lm.vocab_size)
        return follow(steps, ids, trimmers, ends.tolist())

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
        arguments.check_strategy(strategy)
        return self.draft.lm if self.draft and strategy.needs_draft else None

    def _with_ends(self, settings: Settings) -> Settings:
        """Return settings whose end tokens are the checkpoint's where none were given."""
        arguments.check_names(settings, Settings.__annotations__)
        ends = settings.get("eos_id")
        return cast(Settings, settings | {"eos_id": self.target.eos_ids if ends is None else ends})


def _pad(ids: list[list[int]]) -> tuple[Int[np.ndarray, "B P"], Int[np.ndarray, " B"]]:
    """Return token ids as an array, padded on the right, and their lengths."""
    length = np.array([len(prompt) for prompt in ids])
    padded = np.zeros((len(ids), length.max()), np.int64)
    for row, prompt in zip(padded, ids, strict=True):
        row[: len(prompt)] = prompt
    return padded, length
