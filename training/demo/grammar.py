"""The small template language of the corpus: `[a|b]` chooses, `{slot}` fills."""

import random
import re

CHOICE = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"\{(\w+)\}")
SENTENCE_START = re.compile(r'(^"?|[.?!] "?|\." "?|\n)([a-z])')


def choose(template: str, rng: random.Random) -> str:
    """Resolve every `[a|b]`, innermost first."""
    while "[" in template:
        template = CHOICE.sub(lambda match: rng.choice(match.group(1).split("|")), template)
    return template


def expand(template: str, slots, rng: random.Random) -> str:
    """Resolve the choices, then fill the slots; `slots` is a mapping or a function of the slot's name."""
    lookup = slots if callable(slots) else slots.__getitem__
    return SLOT.sub(lambda match: lookup(match.group(1)), choose(template, rng))


def capitalise(text: str) -> str:
    """Start every sentence with a capital; after `?"` or `!"` the sentence goes on (`asked the fox`)."""
    return SENTENCE_START.sub(lambda match: match.group(1) + match.group(2).upper(), text)


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def with_article(noun: str) -> str:
    """`a fox`, `an owl`; by the sound of the words in the lists."""
    vowel = noun[0].lower() in "aeiou" and not noun.startswith(("uni", "uku", "one"))
    return ("an " if vowel or noun.startswith("hour") else "a ") + noun


def plural(noun: str) -> str:
    """The plural of a hero, for prompts such as "a story about foxes"."""
    irregular = {"mouse": "mice", "goose": "geese", "wolf": "wolves", "sheep": "sheep", "deer": "deer", "fish": "fish",
                 "moose": "moose", "dwarf": "dwarves", "witch": "witches", "octopus": "octopuses"}
    if noun in irregular:
        return irregular[noun]
    if noun.endswith("man"):
        return noun[:-3] + "men"
    if noun.endswith(("x", "ch", "sh", "s")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
