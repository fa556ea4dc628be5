"""How people ask for a story: the phrasings, and what each tells about the story."""

import random

from grammar import expand, plural, with_article
from stories import Story
from words import STORY_THEMES

# {x} is what the story is about. The phrasings in HELD_OUT_FRAMES are used in evaluation only.
FRAMES = [
    "Tell me a story about {x}.", "Tell me a story about {x}.", "Tell me a story about {x}.", "Tell me a [short|little|nice|funny|bedtime|good|new] story about {x}.",
    "Tell a story about {x}.", "Please tell me a story about {x}.", "Can you tell me a [|short ]story about {x}?", "Could you tell me a story about {x}, please?",
    "Write a [|short |little |nice ]story about {x}.", "Write me a [|short ]story about {x}.", "Please write a story about {x}.",
    "Can you write a [|short ]story about {x}?", "Give me a [|short ]story about {x}.", "I would like a story about {x}.", "I want a story about {x}.",
    "I'd like to hear a story about {x}.", "Make up a story about {x}.", "Story about {x}, please.", "A story about {x}.", "A story about {x}, please.",
    "Do you know a story about {x}?", "Let me hear a story about {x}.", "My daughter wants a story about {x}.", "We need a bedtime story about {x}.",
    "Now tell me a story about {x}.", "Compose a short story about {x}.", "Create a story about {x}.", "Generate a story about {x}.", "Hi! Tell me a story about {x}.",
    "Hello, can you tell me about {x}? A story, please.", "Tell us a tale about {x}.", "Write a tale about {x}.", "Invent a story about {x}.", "story about {x}",
    "I am bored. Tell me a story about {x}.", "What about a story about {x}?", "Tell me something about {x}.", "{x}", "Once upon a time there was {x}",
]
SHORT_FRAMES = [
    "Tell me a very short story about {x}.", "Tell me a story about {x} in three sentences.", "Write a very short story about {x}.",
    "Write a tiny story about {x}.", "In three sentences, tell me a story about {x}.", "A very short story about {x}, please.",
    "Tell me a story about {x}, but keep it very short.", "Three sentences about {x}, please.",
]
HELD_OUT_FRAMES = [
    "Could you write a little story about {x} for me?", "Do you have a story about {x}?", "I feel like hearing a tale about {x}.",
    "Will you tell us a story about {x}?", "Please make up a short tale about {x}.", "Story time! I want to hear about {x}.",
    "For my son: a story about {x}.",
]
OPEN_REQUESTS = [
    "Tell me a story.", "Tell me a [short|nice|funny|bedtime|good] story.", "Write a story.", "Can you tell me a story?", "A story, please.", "Please tell me a story.",
    "I want to hear a story.", "Do you know a story?", "Make up a story.", "story", "Once upon a time", "I am bored.", "I cannot sleep.", "Surprise me.", "Tell me something.",
    "Write something.", "Say something nice.", "Go on.", "Start.", "Entertain me.", "Give me a story", "Read me a story.", "Any story will do.",
]
WITH_THING = [
    "Write a [|short ]story with {hero} and {thing} in it.", "Tell me a story with {hero} and {thing}.", "Write a [|short ]story with {thing} and {hero} in it.",
    "A story with {hero} and {thing}, please.", "Use these words in a story: {bare_hero}, {bare_thing}.", "Write a story with the words {bare_hero} and {bare_thing}.",
    "{hero} and {thing}: make a story of it.", "Please write a story in which {hero} has {thing}.", "Put {hero} and {thing} in a story.",
]


def hero_phrase(story: Story, rng: random.Random, adjective_used: bool) -> str:
    kind = story.hero.noun_phrase() if adjective_used else story.hero.kind
    return with_article(kind)


def subject(story: Story, rng: random.Random) -> str:
    """What a prompt says about the story: always something that the story then keeps to."""
    hero = hero_phrase(story, rng, rng.random() < 0.3)
    named = f"{hero} {rng.choice(['named', 'called'])} {story.hero.name}"
    doing = expand(rng.choice(story.plot.asks), story.slot, rng)
    thing = with_article(story.full_thing() if rng.random() < 0.5 else story.thing)
    place = " ".join(story.place)
    turns_on_thing = story.plot.things != "none"
    forms = [(hero, 14), (f"{hero} who {doing}", 30), (named, 6), (f"{named} who {doing}", 7), (f"{hero} {place}", 8), (story.hero.name, 3),
             (f"{story.hero.name} the {story.hero.kind}", 2), (f"{hero} and {with_article(story.helper.kind)}", 8), (place.split(" ", 1)[1], 2),
             (f"{hero} that {doing}", 3), (plural(story.hero.kind), 2), (f"my {story.hero.kind}", 1), (f"{hero} who lives {place}", 4), (f"how {hero} {doing}", 3)]
    if turns_on_thing:
        forms += [(f"{hero} and {thing}", 16), (f"{hero} with {thing}", 6), (thing, 5), (f"{hero}, {thing} and {with_article(story.helper.kind)}", 2),
                  (f"{named} and {thing}", 4), (f"{hero} and {thing} {place}", 5), (f"a magic {story.thing}" if not story.thing_adjective else thing, 2)]
    if story.helper_is_named:
        forms.append((f"{story.hero.name} and {story.helper.name}", 6))
    themes = [theme for theme, keys in STORY_THEMES.items() if story.plot_key in keys]
    if themes:
        forms += [(rng.choice(themes), 4), (f"{rng.choice(themes)} with {hero}", 2)]
    texts, weights = zip(*forms)
    return rng.choices(texts, weights=weights)[0]


def careless(text: str, rng: random.Random) -> str:
    """Type as people do: sometimes in lower case, without the full stop."""
    if rng.random() < 0.2:
        text = text.lower()
    if rng.random() < 0.2:
        text = text.rstrip(".?!")
    elif rng.random() < 0.04:
        text = text.rstrip(".") + rng.choice(["!", "...", " please", " :)", "!!"])
    return text


def request(story: Story, rng: random.Random, frames: list[str] = FRAMES) -> str:
    """A prompt that this story answers."""
    if frames is FRAMES and story.plot.things != "none" and rng.random() < 0.12:
        words = {"hero": with_article(story.hero.kind), "thing": with_article(story.full_thing()), "bare_hero": story.hero.kind, "bare_thing": story.thing}
        text = expand(rng.choice(WITH_THING), words, rng)
    else:
        text = expand(rng.choice(frames), {"x": subject(story, rng)}, rng)
    text = text[:1].upper() + text[1:] if rng.random() < 0.8 else text
    return text if frames is HELD_OUT_FRAMES else careless(text, rng)


def open_request(rng: random.Random) -> str:
    """A prompt that leaves everything open."""
    return careless(expand(rng.choice(OPEN_REQUESTS), {}, rng), rng)
