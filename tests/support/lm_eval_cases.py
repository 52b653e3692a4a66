"""A tiny Hugging Face pair with a tokenizer and a chat template, and local tasks for lm_eval."""

import json
from pathlib import Path
from typing import Any

import hf_folders
import numpy as np
import tiny_tokenizers

POSITIONS = 96
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
)
_CONFIG = hf_folders.LLAMA | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": POSITIONS,
}


def folder(path: Path, layers: int = 2, padding: int = 16, **tokenizer_config: Any) -> Path:
    """Write a model with weights large enough for one token to win clearly.

    It has `padding` more rows than the tokenizer has ids, as many models do.
    """
    tiny_tokenizers.json_byte_level_folder(path)
    tokens = json.loads((path / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in tokens}
    rows = max(ids.values()) + 1 + padding
    bos, eos = "<|begin_of_text|>", "<|end_of_text|>"
    ends = {"bos_token_id": ids[bos], "eos_token_id": ids[eos]}
    config = _CONFIG | ends | {"num_hidden_layers": layers, "vocab_size": rows}
    tensors = {
        key: (array if array.ndim == 1 else 0.3 * array).astype(np.float32)
        for key, array in hf_folders.random_tensors(config).items()
    }
    hf_folders.write_folder(path, config, tensors)
    kept = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    kept |= {"chat_template": TEMPLATE} | tokenizer_config
    (path / "tokenizer_config.json").write_text(json.dumps(kept))
    return path


_ROWS = [
    {"text": "The cat sat on the mat. The dog ran home.", "words": [" mat", " dog"], "right": 0},
    {"text": "def f(x):\n    return x + 1", "words": ["\n", " done", " cat sat"], "right": 1},
    {"text": "hello world, naïve café — two  spaces " * 20, "words": [" a", " b"], "right": 1},
]
_ANSWERS = """
task: tiny_answers
output_type: generate_until
doc_to_text: "{{text[:150]}}"
doc_to_target: "{{words[right]}}"
generation_kwargs: {until: ["\\n\\n", "ca"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
"""
_CHOICE = """
task: tiny_choice
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: "{{words}}"
doc_to_target: right
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
_ROLLING = """
task: tiny_rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
TASKS = ["tiny_answers", "tiny_choice", "tiny_rolling"]


def task_folder(path: Path) -> Path:
    """Write the tasks and their rows."""
    path.mkdir()
    rows = path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, _ROWS)))
    files = json.dumps({"data_files": {"test": str(rows)}})
    shared = f"dataset_path: json\ndataset_kwargs: {files}\ntest_split: test\n"
    for name, text in zip(TASKS, (_ANSWERS, _CHOICE, _ROLLING), strict=True):
        (path / f"{name}.yaml").write_text(text + shared)
    return path
