"""Composes one story: who, where, what, which plot, and then sentence by sentence."""

import itertools
import random
import zlib
from dataclasses import dataclass, field

from grammar import capitalise, choose, expand, upper_first, with_article
from plots import DETAILS, ENDINGS, LEAD, OPENINGS, PLOTS
from words import (ANIMALS, BOY_KINDS, BOY_NAMES, CREATURES, ENDINGS as WORD_ENDINGS, FEARS, FOODS, GIRL_KINDS, GIRL_NAMES,
                   HERO_ADJECTIVES, MACHINE_NAMES, MACHINES, NATURE, PLACES, SKILLS, SYLLABLES, THING_ADJECTIVES, TOOLS, WORKERS)

PLOT_BY_KEY = {plot.key: plot for plot in PLOTS}
PRONOUNS = {
    "he": ("he", "him", "his", "himself"),
    "she": ("she", "her", "her", "herself"),
    "it": ("it", "it", "its", "itself"),
}
# Every twentieth pair of hero and thing, and of hero and place, is never shown in training.
HELD_OUT_EVERY = 20


def invented_word(rng: random.Random) -> str:
    """A word that is in no list, so that the model learns to copy what it has never seen."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.choice([1, 2, 2]))) + rng.choice(WORD_ENDINGS)


@dataclass
class Person:
    """A hero or a helper."""

    kind: str
    pronoun: str
    name: str
    adjective: str = ""

    def noun_phrase(self) -> str:
        return f"{self.adjective} {self.kind}".strip()


@dataclass
class Story:
    """All that is fixed before the first sentence; prompts and follow-up questions are about this."""

    hero: Person
    helper: Person
    helper_is_named: bool
    thing: str
    thing_adjective: str
    place: tuple[str, str]
    place2: tuple[str, str]
    skill: tuple[str, str]
    fear: str
    plot_key: str
    moral: str = ""
    rng: random.Random = field(default=None, repr=False)

    @property
    def plot(self):
        return PLOT_BY_KEY[self.plot_key]

    def is_held_out(self) -> bool:
        pairs = (f"{self.hero.kind}|{self.thing}", f"{self.hero.kind}|{self.place[1]}")
        return any(zlib.crc32(pair.encode()) % HELD_OUT_EVERY == 0 for pair in pairs)

    def slot(self, name: str) -> str:
        """The text of one slot; a capital in the slot's first letter asks for a capital in the text."""
        if name[0].isupper() and name not in ("N", "H"):
            return upper_first(self.slot(name[0].lower() + name[1:]))
        hero, helper = PRONOUNS[self.hero.pronoun], PRONOUNS[self.helper.pronoun]
        match name:
            case "name": return self.hero.name
            case "N": return self.hero.name if self.rng.random() < 0.65 else f"the {self.hero.kind}"
            case "hero": return self.hero.kind
            case "a_hero": return with_article(self.hero.noun_phrase())
            case "any_hero": return with_article(self.hero.kind)
            case "he" | "him" | "his" | "himself": return hero[["he", "him", "his", "himself"].index(name)]
            case "hhe" | "hhim" | "hhis": return helper[["hhe", "hhim", "hhis"].index(name)]
            case "H": return self.helper.name if self.helper_is_named and self.rng.random() < 0.6 else f"the {self.helper.kind}"
            case "helper": return self.helper.kind
            case "a_helper": return self.introduced_helper()
            case "a_helper0": return with_article(self.helper.kind)
            case "thing": return self.thing
            case "a_thing": return with_article(self.full_thing())
            case "any_thing": return with_article(self.thing)
            case "the_thing": return f"the {self.full_thing() if self.rng.random() < 0.25 else self.thing}"
            case "at": return " ".join(self.place)
            case "to": return f"to {self.place[1]}"
            case "place": return self.place[1]
            case "at2": return " ".join(self.place2)
            case "to2": return f"to {self.place2[1]}"
            case "place2": return self.place2[1]
            case "skill": return self.skill[0]
            case "doing": return self.skill[1]
            case "fear": return self.fear
            case "moral": return self.moral
        raise KeyError(name)

    def full_thing(self) -> str:
        return f"{self.thing_adjective} {self.thing}".strip()

    def introduced_helper(self) -> str:
        phrase = with_article(self.helper.noun_phrase())
        if self.helper_is_named:
            return f"{phrase} called {self.helper.name}"
        return phrase

    def fill(self, template: str) -> str:
        return capitalise(expand(template, self.slot, self.rng))

    def opening(self) -> str:
        return self.fill(self.rng.choice(OPENINGS))

    def body(self) -> list[str]:
        """Every sentence after the opening."""
        sentences = []
        if self.rng.random() < 0.4:
            sentences.append(self.fill(self.rng.choice(DETAILS)))
        sentences += [self.fill(self.rng.choice(step)) for step in self.plot.steps]
        if self.rng.random() < 0.35:
            sentences.append(self.fill(self.rng.choice(ENDINGS)))
        if self.rng.random() < 0.4:
            sentences.append(self.fill(LEAD))
        return sentences

    def text(self) -> str:
        """The whole story, in one paragraph or in three."""
        body = self.body()
        if self.rng.random() < 0.6:
            return " ".join([self.opening(), *body])
        middle = self.rng.randrange(2, 4)
        last = self.rng.randrange(len(body) - 3, len(body) - 1)
        parts = [[self.opening(), *body[:middle]], body[middle:last], body[last:]]
        return "\n\n".join(" ".join(part) for part in parts if part)

    def short_text(self) -> str:
        return " ".join(self.fill(self.rng.choice(step)) for step in self.plot.short)

    def question(self) -> tuple[str, str]:
        """A question about the story and its answer."""
        general = [("[What was the {hero} called|What is the name of the {hero}|What was the {hero}'s name]?", "The {hero} was called {name}."),
                   ("Who is [the story|it] about?", "It is about {name}, {a_hero}."),
                   ("Where did {name} live?", "{name} lived {at}."),
                   ("What is the moral[| of the story]?", "The moral is that {moral}."),
                   ("[Give the story a title|What could be the title|What would be a good title]?", self.title())]
        question, answer = self.rng.choice(general + self.plot.questions * 2)
        question, answer = self.fill(question), self.fill(answer)
        return question.replace("title?", "title.") if question.startswith("Give") else question, answer

    def title(self) -> str:
        return "{name} and the {helper}" if self.plot.things == "none" else "{name} and the {thing}"


def random_person(rng: random.Random, kind: str | None = None) -> Person:
    """A hero whose kind, pronoun and name fit one another."""
    if kind is None:
        lists = [ANIMALS, WORKERS, CREATURES, MACHINES, GIRL_KINDS, BOY_KINDS]
        kind = rng.choice(rng.choices(lists, weights=[46, 20, 10, 6, 9, 9])[0])
        if rng.random() < 0.04:
            kind = invented_word(rng)
    if kind in GIRL_KINDS or kind in ("mermaid", "witch"):
        pronoun = "she"
    elif kind in BOY_KINDS or kind in ("wizard", "snowman", "fireman", "fisherman", "postman"):
        pronoun = "he"
    elif kind in MACHINES:
        pronoun = "it"
    else:
        pronoun = rng.choice(["he", "she"])
    names = {"she": GIRL_NAMES, "he": BOY_NAMES, "it": MACHINE_NAMES}[pronoun]
    name = invented_word(rng).capitalize() if rng.random() < 0.06 else rng.choice(names)
    adjective = rng.choice(HERO_ADJECTIVES) if " " not in kind and rng.random() < 0.6 else ""
    return Person(kind, pronoun, name, adjective)


def random_thing(rng: random.Random, mendable: bool) -> tuple[str, str]:
    """A thing and an adjective that may be empty."""
    if rng.random() < 0.05:
        thing = invented_word(rng)
    elif mendable:
        thing = rng.choice(TOOLS)
    else:
        thing = rng.choice(rng.choices([TOOLS, FOODS, NATURE], weights=[78, 13, 9])[0])
    adjective = rng.choice(THING_ADJECTIVES) if " " not in thing and rng.random() < 0.55 else ""
    return thing, adjective


def random_story(rng: random.Random, held_out: bool = False, **fixed) -> Story:
    """A story in which the parts named in `fixed` are given and all others are drawn.

    `held_out` says on which side of the split its pairs have to lie.
    """
    for attempt in itertools.count():
        if attempt == 300:  # what was asked for lies wholly on the other side of the split
            fixed = {}
        plot = PLOT_BY_KEY[fixed.get("plot_key") or rng.choice(PLOTS).key]
        hero = fixed.get("hero") or random_person(rng)
        helper = fixed.get("helper") or random_person(rng)
        thing, adjective = fixed.get("thing") or random_thing(rng, plot.things == "mendable")
        place, place2 = rng.sample(PLACES, 2)
        story = Story(hero, helper, fixed.get("helper_is_named", rng.random() < 0.3), thing, adjective, fixed.get("place") or place, place2,
                      rng.choice(SKILLS), rng.choice(FEARS), plot.key, choose(rng.choice(plot.morals), rng), rng)
        clash = hero.kind == helper.kind or hero.name == helper.name or thing in (hero.kind, helper.kind) or story.place == place2
        if not clash and story.is_held_out() == held_out:
            return story
