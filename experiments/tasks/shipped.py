"""Prompts of the benchmark: story openings, and questions about databases not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.tasks import stories, text_to_sql

# Used unless a data folder is given: written for this purpose, so in no training text. The
# benchmark's default takes each once.
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
    "A shoemaker lived with his wife in a town where nobody wore shoes. They had eaten their last "
    "bread when a stranger came to the door, put a gold coin on the table, and said,",
    "In the garden of a rich merchant stood a pear tree that bore fruit only once in ten years. "
    "The merchant told his servants to watch it day and night, but in the morning",
    "Two sisters were picking berries on the mountain when a thick fog came down. They held each "
    "other by the hand and walked until they saw a light. It came from a cave, and in the cave",
    "A young hunter followed a stag for three days and could not catch it. On the third evening "
    "the stag stood still beside a lake, turned its head, and spoke to him:",
    "There was a bell in the old tower that had not rung for a hundred years. The people said that "
    "it would ring again when an honest thief came to the town. One winter night",
    "An old sailor had a parrot that knew the way to an island full of silver. Before he died he "
    "gave the bird to his only daughter and told her never to",
    "The wolf had been hungry for a week when he met a goat on a narrow bridge. 'I am old and "
    "thin,' said the goat, 'but if you let me go home first, I will",
    "A widow had a lazy son who slept behind the stove all day long. At last she gave him a stick "
    "and a bag of peas and sent him away. He had not gone far when he met",
    "Once the moon came down from the sky to see how people live. She knocked at the door of a "
    "castle, but the servants laughed and sent her away. Then she went to a hut, where",
    "The emperor promised a horse to the man who could tell him a story without an end. Many came "
    "and all of them failed, until a farmer walked into the hall, bowed, and began:",
    "Deep under the hill lived a dwarf who mended clocks. Every year on the longest night he came "
    "up to the village with his hammer and his lamp. But this year the baker's little girl",
    "A prince was lost in the desert with nothing but a ring and an empty bottle. When he rubbed "
    "the sand from the bottle, he heard a small voice inside it, which said,",
)


@dataclass(frozen=True)
class Task:
    """A prompt, and how its answer is judged.

    Attributes:
      kind: "story" or "sql"; "own" for a prompt of the user's.
      prompt: the text to continue.
      example: what a query is judged by; None for stories.
    """

    kind: str
    prompt: str
    example: text_to_sql.Example | None = None

    def judge(self, text: str) -> bool | None:
        """Return whether the query gives the right rows; None for stories."""
        return None if self.example is None else text_to_sql.is_correct(self.example, text)


def make_tasks(
    openings: int, questions: int, seed: int, data_dir: str | Path | None = None
) -> list[Task]:
    """Return story openings and questions about databases, spread evenly.

    Args:
      openings: how many of the one.
      questions: how many of the other.
      seed: of their choice.
      data_dir: folder with held-out stories; None: the built-in openings, repeated as needed (a
        prompt's random stream is that of its index, so a repeat is drawn anew).
    """
    if data_dir is None:
        texts: Sequence[str] = [OPENINGS[i % len(OPENINGS)] for i in range(openings)]
    else:
        texts = stories.prompts("test", openings, seed, data_dir)
    tasks = [Task("story", text) for text in texts]
    examples = text_to_sql.examples("held_out", questions, seed)
    tasks += [Task("sql", example.prompt, example) for example in examples]
    # Spread, so that every pass gets both kinds in the same shares.
    place = [(i + 0.5) / count for count in (openings, questions) for i in range(count)]
    return [tasks[i] for i in sorted(range(len(tasks)), key=place.__getitem__)]


def find_stories(folder: str | None) -> Path | None:
    """Return the data folder, checked; None if none is given.

    Raises:
      FileNotFoundError: the folder given holds no stories.
    """
    if folder is None:
        return None
    path = Path(folder)
    if not (path / stories.FOLDER / "test.txt").is_file():
        raise FileNotFoundError(f"--data_dir={folder}: no {stories.FOLDER / 'test.txt'} in it")
    return path
