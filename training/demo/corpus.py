"""Composes the corpus: raw stories and ChatML chats, with the marks of what is to be learned.

`python corpus.py` prints a few texts and counts.
"""

import random
from dataclasses import dataclass

from asking import HELD_OUT_FRAMES
from chats import DEFAULT_SYSTEM, chat
from stories import random_story

RAW_SHARE = 0.14


@dataclass(frozen=True)
class Document:
    """Pieces of text in order; the loss is taken on those that are marked."""

    kind: str
    pieces: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.pieces)


def raw_document(rng: random.Random, held_out: bool) -> Document:
    return Document("raw", ((random_story(rng, held_out).text() + "<|endoftext|>", True),))


def chat_document(system: str | None, turns: list[tuple[str, str]]) -> Document:
    """ChatML as the chat template writes it; the model learns the answers and their ends."""
    pieces = [(f"<|im_start|>system\n{DEFAULT_SYSTEM if system is None else system}<|im_end|>\n", False)]
    for said, answer in turns:
        pieces.append((f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n", False))
        pieces.append((f"{answer}<|im_end|>", True))
        pieces.append(("\n", False))
    return Document("chat", tuple(pieces))


def document(rng: random.Random) -> Document:
    """One training document."""
    if rng.random() < RAW_SHARE:
        return raw_document(rng, held_out=False)
    return chat_document(*chat(rng))


def training_documents(count: int, seed: int) -> list[Document]:
    """Distinct documents, in the order in which they were composed."""
    rng = random.Random(seed)
    documents = {}
    for _ in range(count):
        composed = document(rng)
        documents.setdefault(composed.text, composed)
    return list(documents.values())


def held_out_sets(count: int, seed: int) -> dict[str, list[Document]]:
    """Stories whose pairs of hero and thing or place are never in training; in the second set the phrasing of the prompt is not either."""
    rng = random.Random(seed)
    return {
        "raw stories, unseen pairs": [raw_document(rng, held_out=True) for _ in range(count)],
        "chats, unseen pairs and unseen phrasings": [chat_document(*chat(rng, True, HELD_OUT_FRAMES)) for _ in range(count)],
    }


def main() -> None:
    documents = training_documents(20000, seed=1)
    for composed in documents[:12]:
        print(composed.text, end="\n\n")
    print(len(documents), "distinct of 20000;", sum(len(composed.text) for composed in documents) // len(documents), "characters each")


if __name__ == "__main__":
    main()
