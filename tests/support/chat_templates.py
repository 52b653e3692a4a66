"""Chat templates in the shapes that real models have, and a tokenizer that knows their tokens.

Each is written for these tests; what is kept of the models is what makes their templates differ:
where the start token is, white space and its control, defaults, loops, macros, and what is refused.
"""

import json
from pathlib import Path

from tiny_tokenizers import CORPUS
from tokenizers import AddedToken, Tokenizer, decoders, models, processors, trainers
from tokenizers import pre_tokenizers as pre

LLAMA_2 = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set turns = messages[1:] %}
    {%- set intro = '<<SYS>>\\n' + messages[0]['content'] | trim + '\\n<</SYS>>\\n\\n' %}
{%- else %}
    {%- set turns = messages %}
    {%- set intro = '' %}
{%- endif %}
{%- for turn in turns %}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate: user, assistant, user, ...') }}
    {%- endif %}
    {%- set text = intro + turn['content'] if loop.first else turn['content'] %}
    {%- if turn['role'] == 'user' %}
        {{- bos_token + '[INST] ' + text | trim + ' [/INST]' }}
    {%- elif turn['role'] == 'assistant' %}
        {{- ' ' + text | trim + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}
"""

LLAMA_3 = """\
{{- bos_token }}
{%- macro head(role) -%}
<|start_header_id|>{{ role }}<|end_header_id|>

{% endmacro %}
{%- if tools is not none %}{{ raise_exception('no tools here') }}{% endif %}
{%- set ns = namespace(turns=0) %}
{%- for message in messages %}
    {%- set ns.turns = ns.turns + 1 %}
    {{- head(message.role) + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- head('assistant') }}{% endif %}
"""

CHATML = """\
{% if messages[0].role != 'system' %}
<|im_start|>system
You are a helpful assistant named {{ {'name': 'Tiny <&>'} | tojson }}.<|im_end|>
{% endif %}
{% for message in messages %}
    {% if message.content is not string %}{% continue %}{% endif %}
<|im_start|>{{ message.role }}
{% generation %}{{ message.content }}{% endgeneration %}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}
<think>

</think>

{% endif %}
{% endif %}
"""

ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

MISTRAL = """\
{{ bos_token }}{% for message in messages if message['role'] != 'system' -%}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('After the optional system message, roles must alternate user and assistant') }}\
{% endif %}
{%- if message.role == 'user' -%}
[INST] {% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}{{ message.content }} [/INST]
{%- else %} {{ message.content }}{{ eos_token }}{% endif -%}
{% endfor %}"""

GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}\
{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""

TEMPLATES = {
    "llama_2": LLAMA_2,
    "llama_3": LLAMA_3,
    "chatml": CHATML,
    "zephyr": ZEPHYR,
    "mistral": MISTRAL,
    "gemma": GEMMA,
}

PLAIN = """\
{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}assistant:"""
"""One for any model."""

SPECIAL = (
    "<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>",
    "<|im_end|>", "<start_of_turn>", "<end_of_turn>",
)  # fmt: skip
CONFIG = {
    "bos_token": "<s>",
    "eos_token": {"__type": "AddedToken", "content": "</s>"},
    "pad_token": None,
    "tokenizer_class": "PreTrainedTokenizerFast",
}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def tokenizer_folder(folder: Path, **config) -> Path:
    """`tokenizer.json`, byte level with a start token by post-processor, and its configuration."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=380, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    tokenizer.decoder = decoders.ByteLevel()
    start = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[start]
    )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG | config))
    return folder
