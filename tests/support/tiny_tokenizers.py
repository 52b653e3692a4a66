"""Small tokenizers of every supported kind, trained on the spot so that tests need no data."""

import io
import json
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre

CORPUS = [
    "The cat sat on the mat.  The dog ran home fast, and the cat did not.",
    "def f(x):\n    return x + 1\n\n\tprint('done')",
    "hello world, naïve café — two  spaces and   three",
    "日本語 😀 STOP END ### Human: what is 12345?",
] * 10


def sentencepiece_folder(folder: Path) -> Path:
    """`tokenizer.model` alone, with byte fallback, as Llama 2's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in CORPUS for line in text.splitlines()),
        model_writer=model,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


def byte_level_folder(folder: Path, tokens=("<s>", "<pad>", "</s>", "<unk>"), **config) -> Path:
    """`vocab.json` and `merges.txt`, by default with OPT's ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(tokens),
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    folder.mkdir(parents=True)
    tokenizer.model.save(str(folder))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def json_byte_level_folder(folder: Path) -> Path:
    """`tokenizer.json` in the shape of Llama 3's: byte level, start token by post-processor."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    tokenizer.decoder = decoders.ByteLevel()
    start = (names[0], tokenizer.token_to_id(names[0]))
    template = processors.TemplateProcessing(single=f"{names[0]} $A", special_tokens=[start])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), template])
    folder.mkdir(parents=True)
    tokenizer.enable_truncation(5)  # a saved truncation must not shorten prompts
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def json_byte_fallback_folder(folder: Path) -> Path:
    """`tokenizer.json` in the shape of Llama 2's: dummy prefix, byte fallback."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(spaces)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        limit_alphabet=60,
        special_tokens=["<unk>", "<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([w for text in CORPUS for w in text.split()], trainer)
    spec = json.loads(tokenizer.to_str())
    first = 1 + max(spec["model"]["vocab"].values())
    spec["model"]["vocab"] |= {f"<0x{byte:02X}>": first + byte for byte in range(256)}
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


FOLDERS = {
    "sentencepiece": sentencepiece_folder,
    "byte_level": byte_level_folder,
    "json_byte_level": json_byte_level_folder,
    "json_byte_fallback": json_byte_fallback_folder,
}
