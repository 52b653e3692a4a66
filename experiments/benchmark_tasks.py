"""Prompts of the benchmark: story openings, and questions about databases not trained on."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.tasks import stories, text_to_sql

# For where no data folder is at hand: written for this purpose, so in no training text.
OPENINGS = (
    "Once upon a time there was a miller who had three sons and no money at all. One evening the "
    "youngest of them said, 'Father, I will go out into the world and",
    "In a small house at the edge of the forest there lived an old woman with her grandson. Every "
    "morning the boy went to the well to fetch water, and one day he saw",
    "There was once a king whose daughter would neither laugh nor speak. He let it be known that "
    "whoever could make the princess laugh should have half of the kingdom, and",
    "Long ago, when animals could still talk, a fox and a crane lived by the same river. The fox "
    "was proud of his fine tail, and he said to the crane,",
    "A poor fisherman once caught a fish with scales of gold. 'Let me go,' said the fish, 'and I "
    "will give you whatever you wish.' The fisherman thought of his wife and",
    "The giant sat down upon a stone and began to weep. 'Why do you weep?' asked the tailor, "
    "who was not at all afraid of him. 'Because,' said the giant,",
    "On the night before her wedding the girl heard someone knock three times at the window. She "
    "took a candle and opened it, and there in the snow stood",
    "There were two brothers, one rich and one poor. The rich one was a goldsmith and had an evil "
    "heart; the poor one made brooms, and was good and honest. One day the poor brother",
    "The witch gave him a key and told him, 'You may open every door in this house but the last.' "
    "For seven days he obeyed her, but on the eighth day",
    "When the soldier came home from the war, nobody in the village knew him any more. He went to "
    "the inn, asked for a piece of bread, and sat down beside",
    "Far away in the north, where the sun does not set in summer, a young man was keeping his "
    "father's sheep. One day a white bear came over the hill and said to him,",
    "The queen had a mirror in which she could see everything that happened in the land. One "
    "morning she looked into it and saw a ship with black sails, and",
)


@dataclass(frozen=True)
class Task:
    """A prompt, and how its answer is judged.

    Attributes:
      kind: "story" or "sql".
      prompt: the text to continue.
      example: what a query is judged by; None for stories.
    """

    kind: str
    prompt: str
    example: text_to_sql.Example | None = None

    def judge(self, text: str) -> bool | None:
        """Return whether the query gives the right rows; None for stories."""
        if self.example is None:
            return None
        connection: sqlite3.Connection = text_to_sql.build_database(self.example.db_id)
        try:
            return text_to_sql.execution_match(text.strip(), self.example.sql, connection)
        finally:
            connection.close()


def make_tasks(count: int, seed: int, data_dir: str | Path | None) -> list[Task]:
    """Return `count` tasks, stories and queries in turn.

    Args:
      count: how many.
      seed: of their choice.
      data_dir: folder with held-out stories; None: the built-in openings, repeated as needed.
    """
    queries = text_to_sql.examples("held_out", count // 2, seed)
    needed = count - len(queries)
    if data_dir is None:
        openings: Sequence[str] = [OPENINGS[i % len(OPENINGS)] for i in range(needed)]
    else:
        openings = stories.prompts("test", needed, seed, data_dir)
    tasks = [Task("story", text) for text in openings]
    tasks += [Task("sql", example.prompt, example) for example in queries]
    # In pairs, so that every pass gets both kinds.
    return [tasks[i // 2 + (i % 2) * needed] for i in range(count)]


def find_stories(folder: str | None, default: str) -> Path | None:
    """Return the data folder: the one given, else the default if it is there, else None.

    Raises:
      FileNotFoundError: the folder given holds no stories.
    """
    path = Path(default if folder is None else folder)
    if (path / stories.FOLDER / "test.txt").is_file():
        return path
    if folder is not None:
        raise FileNotFoundError(f"--data_dir={folder}: no {stories.FOLDER / 'test.txt'} in it")
    return None
