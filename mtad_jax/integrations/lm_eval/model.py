"""`lm_eval --model mtad_jax`: any rule of ours on lm_eval's tasks.

Log-likelihoods are the target's own, as lm_eval's Hugging Face model gives them; answers are
decoded by the rule that `--model_args` names.
"""

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import jax
import lm_eval.models  # noqa: F401  lm_eval adds its own models to an empty registry only
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from mtad_jax.decode.checks import check_count
from mtad_jax.integrations.lm_eval import arguments, chat
from mtad_jax.integrations.lm_eval.answering import Answerer
from mtad_jax.integrations.lm_eval.generation import read_wanted
from mtad_jax.integrations.lm_eval.scoring import log_likelihoods

Tokens = tuple[Any, list[int], list[int]]
"""A request of log-likelihood: its texts (None: no request of its own), context, continuation."""

_log = logging.getLogger(__name__)


@register_model("mtad_jax")
class MtadLM(TemplateLM):
    """A target, its draft and a decoding rule as a model of lm_eval."""

    def __init__(
        self,
        target: str | None = None,
        draft: str | None = None,
        strategy: str = "mmtad",
        *,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        target_int8: str = "",
        draft_int8: str = "",
        mesh: str | None = None,
        shard_draft: bool = False,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int = 0,
        prefix_token_id: int | None = None,
        trust_remote_code: bool = False,
        **settings: Any,
    ):
        """Open the models; lm_eval calls this with `--model_args`.

        Args:
          target: checkpoint folder, ours or Hugging Face's; None: the shipped pair.
          draft: checkpoint folder of the small model, for rules that draft; or early_exit:N, the
            target's own first layers.
          strategy: decoding rule, one of `mtad_jax.recipes` or `module:name`.
          batch_size: requests decoded or scored together, or "auto" (`arguments.AUTO_BATCH`).
          max_batch_size: bound on "auto".
          device: must name the platform that JAX computes on.
          dtype: as `mtad_jax.load`'s.
          target_int8, draft_int8: "weights", "kv" or "weights,kv".
          mesh: as `mtad_jax.make_mesh` reads it.
          shard_draft: split the draft over the mesh like the target.
          max_length: most tokens that the model sees; None: all that it can.
          max_gen_toks: most tokens of an answer where the task does not say.
          temperature, top_k, top_p, min_p: sharpening where a request samples and does not say.
          seed: of answers that are drawn.
          prefix_token_id: what stands before a text without a context; None: the start token, or
            the end token where there is none.
          trust_remote_code: of data sets; no code of a model's folder is ever run.
          **settings: of the rule. Its `draft` is called `draft_kind` here.

        Raises:
          ValueError: unknown, contradictory or out of range; before any weights are read, where
            these need not be known.
        """
        super().__init__()
        del trust_remote_code
        warp = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        drawn = {name: value for name, value in warp.items() if value is not None} | {"seed": seed}
        read_wanted({"do_sample": temperature != 0}, drawn, max_gen_toks)  # is refused now
        self.batch_size = arguments.read_batch_size(batch_size, max_batch_size)
        arguments.check_device(device)
        own = [name for name in inspect.signature(MtadLM).parameters if name != "settings"]
        rule = arguments.read_strategy(strategy, settings, own, top_k or 0)
        pipeline = arguments.open_pipeline(
            target, draft, strategy, needs_draft=rule.needs_draft, dtype=dtype, mesh=mesh,
            shard_draft=shard_draft, target_int8=target_int8, draft_int8=draft_int8,
        )  # fmt: skip
        self._target = pipeline.target
        if self._target.tokenizer is None:
            raise ValueError(f"{target}: no tokenizer files, and lm_eval's tasks are text")
        self._tokenizer = self._target.tokenizer
        self._prefix = self._find_prefix(prefix_token_id)
        self.max_length = self._find_length(max_length)
        ends = {*self._target.eos_ids, self.eot_token_id} - {None}
        self._answerer = Answerer(
            pipeline, rule, self._context, tuple(sorted(ends)), drawn, self.max_length,
            max_gen_toks, self.batch_size,
        )  # fmt: skip
        self._template_name: str | None = None
        self._rule = {"strategy": strategy, "strategy_settings": settings}

    def _find_length(self, given: int | None) -> int:
        """Return the most tokens that the target sees.

        Raises:
          ValueError: more are asked for than it has positions.
        """
        most = self._target.lm.model.max_positions
        found = most if given is None else check_count("max_length", given, 2)
        if found > most:
            raise ValueError(f"max_length={given} must be <= {most}, the target's positions")
        return found

    def _find_prefix(self, given: int | None) -> int:
        """Return the token that stands before a text without a context."""
        for found in (given, self._tokenizer.bos_id, self.eot_token_id):
            if found is not None:
                return check_count("prefix_token_id", found, 0)
        raise ValueError(
            f"{self._target.folder}: no start or end token, and texts without a context need one: "
            "give prefix_token_id=ID"
        )

    @property
    def eot_token_id(self) -> int | None:  # type: ignore[override]
        """The end token by the tokenizer's files, else the model's; None: there is none."""
        own = self._tokenizer.eos_id
        return next(iter(self._target.eos_ids), None) if own is None else own

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        return self._prefix

    @property
    def max_gen_toks(self) -> int:
        """Most tokens of an answer where the task does not say."""
        return self._answerer.max_gen_toks

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Return a text's token ids, with the start token unless `add_special_tokens` is False."""
        del kwargs
        return self._tokenizer.encode(string, add_bos=add_special_tokens is not False)

    def _context(self, text: str) -> list[int]:
        """Return a context's token ids, the prefix where there are none."""
        return self.tok_encode(text) or [self._prefix]

    def tok_decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of token ids."""
        return self._tokenizer.decode(tokens, skip_special_tokens)

    def _loglikelihood_tokens(
        self, requests: list[Tokens], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Score continuations; see `TemplateLM.loglikelihood`, which splits texts into these."""
        del kwargs
        pairs = [(context or [self._prefix], wanted) for _, context, wanted in requests]
        found = [(0.0, False)] * len(pairs)
        scores = log_likelihoods(
            self._target.lm, pairs, longest=self.max_length, batch_size=self.batch_size
        )
        with _bar(len(pairs), "loglikelihood", disable_tqdm) as bar:
            for index, logp, greedy in scores:
                found[index] = (logp, greedy)
                texts = requests[index][0]
                if texts is not None:
                    self.cache_hook.add_partial("loglikelihood", texts, found[index])
                bar.update()
        return found

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return each continuation's log-likelihood, and whether greedy decoding would say it.

        Raises:
          ValueError: an empty continuation, or as `log_likelihoods`.
        """
        for index, request in enumerate(requests):
            texts: Any = request.args
            if not texts[1]:
                raise ValueError(f"{request.task_name} {index}: nothing to score: an empty text")
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return each text's log-likelihood, in windows of `max_length` as lm_eval cuts them."""
        windows: list[Tokens] = []
        counts = []
        for request in requests:
            cut = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]), prefix_token=self._prefix,
                max_seq_len=self.max_length, context_len=1,
            )  # fmt: skip
            own = [(None, *make_disjoint_window(window)) for window in cut]
            windows += own
            counts.append(len(own))
        scores = iter(self._loglikelihood_tokens(windows, disable_tqdm))
        found = []
        for request, count in zip(requests, counts, strict=True):
            found.append(float(sum(next(scores)[0] for _ in range(count))))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, found[-1])
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return an answer to each request, decoded by the rule.

        Raises:
          ValueError: as `Answerer.answers`.
        """
        found = [""] * len(requests)
        asked: list[Any] = [request.args for request in requests]
        answers = self._answerer.answers(asked)
        with _bar(len(requests), "generate_until", disable_tqdm) as bar:
            for index, text in answers:
                found[index] = text
                self.cache_hook.add_partial("generate_until", asked[index], text)
                bar.update()
        return found

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as text; without its system message where the template refuses it.

        Raises:
          ValueError: there is no template, or it refuses the conversation.
        """
        template = chat.read_template(self._target, self._template_name)
        rest = [message for message in chat_history if message["role"] != "system"]
        try:
            return chat.render(
                self._target, template, chat_history, generation_prompt=add_generation_prompt
            )
        except ValueError as error:
            if len(rest) == len(chat_history):
                raise
            _log.warning("%s: going on without the system message", error)
        return chat.render(self._target, template, rest, generation_prompt=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the template that `--apply_chat_template` asks for; used from then on.

        Raises:
          ValueError: there is none, or none of that name.
        """
        if not chat_template:
            return None
        self._template_name = chat_template if isinstance(chat_template, str) else None
        return chat.read_template(self._target, self._template_name)

    @property
    def tokenizer_name(self) -> str:
        """A name for lm_eval's cache of requests: the target's folder."""
        return str(self._target.folder.resolve()).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm_eval writes beside its results: the rule, and what its answers cost."""
        leaves = jax.tree.leaves(self._target.lm.params)
        tokens, calls = self._answerer.tokens, self._answerer.calls
        return {
            **self._rule,
            "model_num_parameters": sum(leaf.size for leaf in leaves),
            "model_dtype": str(self._target.lm.dtype),
            "generated_tokens": tokens,
            "target_calls": calls,
            "tokens_per_call": tokens / calls if calls else None,
        }


def _bar(total: int, what: str, disable: bool) -> tqdm:
    """Return the bar that lm_eval's own models show."""
    return tqdm(total=total, desc=f"Running {what} requests", disable=disable)
