"""Story continuation: texts and prompts from FairytaleQA.

FairytaleQA (Xu et al., 2022, arXiv:2203.13947) collects tales from Project Gutenberg. The data
folder has one story to a block, blocks separated by blank lines. Training reads only the `train`
split, so a prompt from `val` or `test` opens a story that the model has not seen.
"""

import random
import re
from pathlib import Path

FOLDER = Path("corpora") / "fairytaleqa"
PROMPT_WORDS = (40, 60)
MIN_REST = 200  # words of the story that must follow the prompt
ASCII = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u2032": "'", "\u00b4": "'",
    "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u201f": '"', "\u2033": '"',
    "\u00ab": '"', "\u00bb": '"',
    "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2015": "-",
    "\u2026": "...", "\u00a0": " ", "\u2009": " ", "\u200b": "", "\ufeff": "", "\u00ad": "",
})  # fmt: skip


def clean(text: str) -> str:
    """ASCII quotes, dashes and spaces; no runs of spaces; at most one blank line in a row."""
    text = text.translate(ASCII).replace("\r\n", "\n")
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def read_stories(split: str, data_dir: str | Path) -> list[str]:
    """The stories of a split (`train`, `val` or `test`), in the order of the file."""
    text = (Path(data_dir) / FOLDER / f"{split}.txt").read_text(encoding="utf-8")
    return [clean(story) for story in re.split(r"\n\s*\n", text) if story.strip()]


def training_texts(data_dir: str | Path) -> list[str]:
    """The stories to train on."""
    return read_stories("train", data_dir)


def passage_starts(story: str) -> list[int]:
    """Word indices at which a sentence begins and enough of the story follows."""
    words = story.split(" ")
    last = len(words) - PROMPT_WORDS[1] - MIN_REST
    ends = (index for index, word in enumerate(words) if re.search(r"[.!?][\"']?$", word))
    return [start for start in (0, *(index + 1 for index in ends)) if start <= max(last, 0)]


def prompts(split: str, count: int, seed: int, data_dir: str | Path) -> list[str]:
    """`count` passages of 40 to 60 words: the openings of the stories first, then others."""
    if split not in ("val", "test"):
        raise ValueError(f"prompts come from val or test, not {split!r}")
    rng = random.Random(f"stories/{split}/{seed}")
    stories = read_stories(split, data_dir)
    rng.shuffle(stories)
    openings = [(story, 0) for story in stories]
    others = [(story, start) for story in stories for start in passage_starts(story) if start]
    rng.shuffle(others)
    places = (openings + others)[:count]
    if len(places) < count:
        raise ValueError(f"the {split} stories give {len(places)} prompts, not {count}")
    return [
        " ".join(story.split(" ")[start : start + rng.randint(*PROMPT_WORDS)])
        for story, start in places
    ]
