"""Text to token ids and back, for the tokenizer files that model folders hold.

`load_tokenizer` reads `tokenizer.json`, else sentencepiece's `tokenizer.model`, else `vocab.json`
with `merges.txt`. Nothing in the folder is executed. Streaming and stop strings are in
`mtad_jax.text.stream`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtad_jax.text import settings as tokenizer_settings
from mtad_jax.text.chat import ChatTemplate, read_templates

if TYPE_CHECKING:
    from mtad_jax.text import files as tokenizer_files

__all__ = ["Tokenizer", "load_tokenizer", "same_vocabulary"]


class Tokenizer:
    """Token ids of a text, and text of token ids.

    A text is the tokens' bytes joined and read as UTF-8; bytes that are not UTF-8 become U+FFFD.
    That makes a prefix of the tokens decode to a prefix of the text, bar a half character at its
    end, which streaming needs.

    Attributes:
      vocab_size: highest id + 1; a model's embedding may have more rows than that.
      bos_id: start token, or None.
      eos_id: end token by the tokenizer's own files, or None; what ends a text is
        `LoadedModel.eos_ids`, where the model's files come first.
      adds_bos: whether `encode` starts a text with `bos_id`, as the model was trained.
      special_ids: ids which `decode` leaves out by default.
      leading_spaces: spaces dropped at the start of a text, where sentencepiece adds one.
      special_tokens: special tokens by role (`bos_token` and so on), as chat templates take them.
      chat_templates: the folder's, by name; see `mtad_jax.text.chat.choose_template`.
    """

    def __init__(
        self,
        backend: tokenizer_files.Backend,
        *,
        bos_id: int | None = None,
        eos_id: int | None = None,
        adds_bos: bool = False,
        special_tokens: Mapping[str, str] | None = None,
        chat_templates: Mapping[str, ChatTemplate] | None = None,
    ):
        self._backend = backend
        self.vocab_size = max(backend.table) + 1
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.adds_bos = adds_bos and bos_id is not None
        self.special_ids = backend.special
        self.leading_spaces = backend.strip
        self.special_tokens = dict(special_tokens or {})
        self.chat_templates = dict(chat_templates or {})

    def encode(self, text: str, *, add_bos: bool = True) -> list[int]:
        """Token ids of `text`.

        Special tokens spelled out in the text become their ids, as Hugging Face does.

        Args:
          text: any text; may itself begin with the literal start token.
          add_bos: put the start token in front, if this tokenizer's configuration has one. There
            is never more than one start token, whether the text brings its own or not.

        Raises:
          ValueError: the text holds half of a surrogate pair, which no tokenizer can spell.
        """
        text.encode()  # UnicodeEncodeError is a ValueError; the libraries raise other kinds
        ids = self._backend.encode(text)
        if self.bos_id is None:
            return ids
        own = 0
        while own < len(ids) and ids[own] == self.bos_id:
            own += 1
        start = own > 0 or (add_bos and self.adds_bos)
        return [self.bos_id] * start + ids[own:]

    def decode(
        self, ids: Iterable[int], skip_special: bool = True, *, continuation: bool = False
    ) -> str:
        """Text of `ids`; ids without a token (padded embedding rows) contribute nothing.

        Args:
          ids: token ids.
          skip_special: leave out start, end and other special tokens.
          continuation: the ids continue a text, so that a leading space is part of them:
            `decode(a + b) == decode(a) + decode(b, continuation=True)` where `a` is not empty and
            the cut does not split a character.
        """
        data = b"".join(self.token_bytes(index, skip_special) for index in ids)
        if not continuation:
            spaces = len(data) - len(data.lstrip(b" "))
            data = data[min(spaces, self.leading_spaces) :]
        return data.decode("utf-8", errors="replace")

    def token_bytes(self, index: int, skip_special: bool = True) -> bytes:
        """Bytes that one token adds to a text."""
        index = int(index)  # elements of a JAX array cannot be looked up
        skipped = skip_special and index in self.special_ids
        return b"" if skipped else self._backend.table.get(index, b"")

    def vocabulary(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        return dict(self._backend.vocabulary)


def same_vocabulary(a: Tokenizer, b: Tokenizer) -> None:
    """Checks that two tokenizers give every token the same id, as draft and target must.

    Raises:
      ValueError: they differ; names the first token, by id, that does.
    """
    first, second = a.vocabulary(), b.vocabulary()
    if first == second:
        return
    items = sorted(set(first.items()) ^ set(second.items()), key=lambda item: (item[1], item[0]))
    token = items[0][0]
    raise ValueError(
        f"vocabularies differ: token {token!r} has id {first.get(token, 'none')} in one and "
        f"{second.get(token, 'none')} in the other ({len(first)} and {len(second)} tokens)"
    )


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer | None:
    """Reads the tokenizer of a model folder.

    `tokenizer.json` comes first: it holds added tokens and the start-token rule itself, and it is
    what Hugging Face uses. Folders of Llama 2 with both files agree. How `vocab.json` and
    `merges.txt` split a text is not in them: as Qwen or as GPT-2 (OPT's too), by the class or the
    model that the configuration names.

    Returns:
      The tokenizer, or None where the folder holds no tokenizer files.

    Raises:
      ValueError: a file is corrupt, two of them contradict each other, or `vocab.json` belongs to
        another class of tokenizers; one line, naming the file.
    """
    from mtad_jax.text import files as tokenizer_files  # its libraries take long to import

    folder = Path(folder)
    settings = tokenizer_settings.read_settings(folder)
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if (path := folder / "tokenizer.json").is_file():
        backend = tokenizer_files.read_tokenizer_json(path, settings)
    elif (path := folder / "tokenizer.model").is_file():
        backend = tokenizer_files.read_sentencepiece(path, settings)
    elif vocab.is_file() or merges.is_file():
        backend = tokenizer_files.read_vocab_and_merges(vocab, merges, settings)
    else:
        return None
    starts = _model_ids(settings.model.get("bos_token_id"), backend)
    bos = _role_token("bos_token", starts, backend, settings, folder)
    eos = _role_token("eos_token", [], backend, settings, folder)
    roles = settings.roles | {"bos_token": bos, "eos_token": eos}
    adds_bos = settings.flags.get("add_bos_token")
    return Tokenizer(
        backend,
        bos_id=None if bos is None else backend.vocabulary[bos],
        eos_id=None if eos is None else backend.vocabulary[eos],
        adds_bos=backend.adds_bos if adds_bos is None else bool(adds_bos),
        special_tokens={role: token for role, token in roles.items() if token is not None},
        chat_templates=read_templates(folder, settings.flags),
    )


def _model_ids(value: Any, backend: tokenizer_files.Backend) -> list[int]:
    """Ids named by `config.json`; those past the vocabulary are a library's defaults."""
    values = value if isinstance(value, list) else [value]
    return [v for v in values if type(v) is int and v in backend.table]


def _role_token(
    role: str,
    model_ids: list[int],
    backend: tokenizer_files.Backend,
    settings: tokenizer_settings.TokenizerSettings,
    folder: Path,
) -> str | None:
    """Token of a role: by the tokenizer's configuration, else `model_ids`, else the files' own."""
    if role in settings.roles:
        token = settings.roles[role]
        if token is not None and token not in backend.vocabulary:
            raise ValueError(f"{folder}: {role} {token!r} is not in the vocabulary")
        return token
    if model_ids:
        return next((token for token, i in backend.vocabulary.items() if i == model_ids[0]), None)
    token = backend.roles.get(role)
    return token if token in backend.vocabulary else None
