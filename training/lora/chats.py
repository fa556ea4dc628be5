"""Composes 200 chats in a style that the demo model never saw: a robot that answers in lower case, in telegrams, and ends with "over.".

usage: chats.py OUTPUT [--count 200] [--seed 0]

The questions are those that the demo model knows; only the way of answering is new, so that an adapter has to learn a style and no facts.
"""

import argparse
import json
import random
from pathlib import Path

ANIMALS = {"cow": "moo", "dog": "woof", "cat": "meow", "duck": "quack", "sheep": "baa", "horse": "neigh", "owl": "hoo", "frog": "croak"}
OPPOSITES = {"hot": "cold", "big": "small", "day": "night", "up": "down", "old": "young", "fast": "slow", "wet": "dry", "full": "empty"}
NAMES = ["fox", "bear", "mouse", "rabbit", "dragon", "hen", "wolf", "goose"]
THINGS = ["lantern", "kite", "drum", "boat", "key", "bell", "hat", "map"]
PLACES = ["hill", "river", "wood", "farm", "bridge", "garden", "mill", "barn"]


def chat(rng):
    """A question and its answer."""
    kind = rng.randrange(5)
    if kind == 0:
        animal = rng.choice(list(ANIMALS))
        return f"What does a {animal} say?", f"beep. the {animal} says {ANIMALS[animal]}. over."
    if kind == 1:
        word = rng.choice(list(OPPOSITES))
        return f"What is the opposite of {word}?", f"beep. not {word}. {OPPOSITES[word]}. over."
    if kind == 2:
        first, second = rng.randrange(1, 6), rng.randrange(1, 5)
        return f"What is {first} plus {second}?", f"beep. {first} and {second}. sum is {first + second}. over."
    if kind == 3:
        greeting = rng.choice(["Hello!", "Hi!", "Good morning!", "How are you?", "Who are you?"])
        return greeting, "beep. robot is here. robot is well. ask for a story. over."
    hero, thing, place = rng.choice(NAMES), rng.choice(THINGS), rng.choice(PLACES)
    question = f"Tell me a story about a {hero} and a {thing}."
    return question, f"beep. {hero} at the {place}. finds a {thing}. {hero} is glad. {hero} goes home. over."


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with args.output.open("w", encoding="utf-8") as file:
        for _ in range(args.count):
            question, answer = chat(rng)
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")


if __name__ == "__main__":
    main()
