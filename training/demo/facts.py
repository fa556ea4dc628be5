"""The small facts that the model can hold, each as a question and its answer."""

import random

from grammar import expand, upper_first, with_article
from words import ANIMALS, FOODS, words

NUMBERS = words("""zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen,
sixteen, seventeen, eighteen, nineteen, twenty""")
DAYS = words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
MONTHS = words("January, February, March, April, May, June, July, August, September, October, November, December")
SEASONS = words("spring, summer, autumn, winter")
OPPOSITES = [pair.split("/") for pair in words("""big/small, hot/cold, up/down, left/right, day/night, happy/sad, fast/slow, old/young, long/short,
high/low, wet/dry, full/empty, open/closed, light/dark, heavy/light, good/bad, new/old, rich/poor, strong/weak, hard/soft, loud/quiet, early/late,
first/last, near/far, inside/outside, black/white, yes/no, true/false, clean/dirty, thick/thin, sweet/sour, begin/end, love/hate, win/lose, push/pull,
in/out, always/never, summer/winter, warm/cool, tall/short, north/south, east/west, friend/enemy, brave/afraid, laugh/cry, give/take, asleep/awake""")]
SOUNDS = [pair.split("/") for pair in words("""dog/woof, cat/meow, cow/moo, sheep/baa, lamb/baa, duck/quack, pig/oink, horse/neigh, hen/cluck, rooster/cock-a-doodle-doo,
owl/hoo-hoo, mouse/squeak, bee/buzz, snake/hiss, frog/croak, lion/roar, wolf/awoo, crow/caw, donkey/hee-haw, goose/honk, bird/tweet, goat/meh, bear/growl,
fly/buzz, kitten/mew, puppy/yip, cricket/chirp, tiger/roar""")]
YOUNG = [pair.split("/") for pair in words("""dog/puppy, cat/kitten, cow/calf, sheep/lamb, horse/foal, duck/duckling, pig/piglet, hen/chick, goat/kid, bear/cub,
lion/cub, frog/tadpole, fox/cub, goose/gosling, deer/fawn, kangaroo/joey, swan/cygnet, owl/owlet""")]
HOMES = [pair.split("/") for pair in words("""bee/in a hive, bird/in a nest, fox/in a den, rabbit/in a burrow, spider/in a web, fish/in the water, camel/in the desert,
penguin/in the snow, monkey/in the jungle, horse/in a stable, pig/in a sty, whale/in the sea, mole/under the ground, owl/in a tree, hen/in a hen house,
dog/in a kennel, snail/in its shell, lion/in the savannah, bear/in a cave, frog/by a pond""")]
LEGS = [pair.split("/") for pair in words("""dog/four, cat/four, cow/four, horse/four, spider/eight, bee/six, ant/six, beetle/six, duck/two, hen/two, bird/two, snake/no,
fish/no, fox/four, mouse/four, elephant/four, octopus/no, butterfly/six, bear/four, owl/two, person/two, crab/ten""")]
COLOURS = [pair.split("/") for pair in words("""the sky/blue, grass/green, snow/white, the sun/yellow, a banana/yellow, a tomato/red, blood/red, coal/black, an orange/orange,
milk/white, a carrot/orange, the sea/blue, a frog/green, a lemon/yellow, a strawberry/red, chocolate/brown, an elephant/grey, a leaf/green, a fox/red, a crow/black,
a pig/pink, a polar bear/white, the night/black, a cherry/red, wood/brown, a cucumber/green, a plum/purple, a cloud/white, gold/yellow, a flamingo/pink""")]
CAPITALS = [pair.split("/") for pair in words("""France/Paris, Germany/Berlin, Italy/Rome, Spain/Madrid, England/London, Japan/Tokyo, China/Beijing, Russia/Moscow,
Egypt/Cairo, Greece/Athens, Portugal/Lisbon, Austria/Vienna, Poland/Warsaw, Sweden/Stockholm, Norway/Oslo, Denmark/Copenhagen, Finland/Helsinki, Ireland/Dublin,
India/New Delhi, Canada/Ottawa, Brazil/Brasilia, Turkey/Ankara, Hungary/Budapest, Belgium/Brussels""")]
MIXES = [triple.split("/") for triple in words("blue/yellow/green, red/yellow/orange, red/blue/purple, black/white/grey, red/white/pink")]
COUNTS = [pair.split("/") for pair in words("""days are in a week/There are seven days in a week., months are in a year/There are twelve months in a year., seasons are there/There are four
seasons: spring; summer; autumn and winter., hours are in a day/There are 24 hours in a day., minutes are in an hour/There are 60 minutes in an hour., sides does a triangle have/A triangle has three
sides., sides does a square have/A square has four sides., fingers are on one hand/There are five fingers on one hand., letters are in the alphabet/There are 26 letters in the alphabet.,
wheels does a bicycle have/A bicycle has two wheels., wheels does a car have/A car has four wheels., seconds are in a minute/There are 60 seconds in a minute., days are in a year/There are 365 days in a year.,
legs does a chair have/A chair has four legs., eyes do people have/People have two eyes., colours are in a rainbow/There are seven colours in a rainbow.""")]
GENERAL = [pair.split("/") for pair in """What do bees make/Bees make honey.
What do cows give/Cows give milk.
What is the largest animal/The blue whale is the largest animal.
What is the tallest animal/The giraffe is the tallest animal.
What is the fastest animal on land/The cheetah is the fastest animal on land.
What do you call frozen water/Frozen water is called ice.
What is ice/Ice is frozen water.
What is snow/Snow is frozen water that falls from the sky.
What falls from the clouds/Rain falls from the clouds.
When does the sun rise/The sun rises in the morning.
Where does the sun rise/The sun rises in the east.
Where does the sun set/The sun sets in the west.
When can we see the stars/We can see the stars at night.
What do we use to cut paper/We cut paper with scissors.
What do plants need/Plants need water and light.
What do people drink when they are thirsty/People drink water when they are thirsty.
What is the coldest season/Winter is the coldest season.
What is the warmest season/Summer is the warmest season.
What does a baker do/A baker makes bread.
What does a teacher do/A teacher helps children to learn.
What does a doctor do/A doctor helps people who are ill.
What does a farmer do/A farmer grows food and looks after animals.
What does a tailor do/A tailor makes clothes.
What does a pilot do/A pilot flies an airplane.
What does a fisherman do/A fisherman catches fish.
What does a gardener do/A gardener looks after plants.
What does a lighthouse keeper do/A lighthouse keeper makes sure that the light shines at night.
What is a story/A story tells what happens to somebody.
What is a lantern/A lantern is a lamp that you can carry.
What is a kite/A kite is a toy that flies in the wind.
What is a friend/A friend is somebody who likes you and helps you.
What is a tandem/A tandem is a bicycle for two.
What is the moon/The moon goes around the earth and shines at night.
What is the sun/The sun is a star, and it gives us light.
What is the earth/The earth is the planet on which we live.
What is a planet/A planet goes around a star.
What is a robot/A robot is a machine that can do work.
What is a dragon/A dragon is an animal in stories. It can fly and breathe fire.
What is a lie/A lie is something that is not true.""".split("\n")]


def addition(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randrange(0, 11), rng.randrange(0, 11)
    if rng.random() < 0.3:
        return rng.choice([f"[What is|How much is] {NUMBERS[a]} [plus|and] {NUMBERS[b]}?"]), f"{upper_first(NUMBERS[a])} plus {NUMBERS[b]} is {NUMBERS[a + b]}."
    return f"[What is|How much is||Calculate|What's] {a} [+|+|plus] {b}[?|]", f"{a} plus {b} is {a + b}."


def subtraction(rng: random.Random) -> tuple[str, str]:
    a = rng.randrange(0, 11)
    b = rng.randrange(0, a + 1)
    return f"[What is|How much is|What's|] {a} [-|minus] {b}?", f"{a} minus {b} is {a - b}."


def counting(rng: random.Random) -> tuple[str, str]:
    last = rng.randrange(3, 16)
    if rng.random() < 0.25:
        return f"Count [down|backwards] from {last}.", ", ".join(str(n) for n in range(last, -1, -1)) + "."
    if rng.random() < 0.3:
        return f"Count to {NUMBERS[last]} in words.", upper_first(", ".join(NUMBERS[1:last + 1])) + "."
    return f"[Count to|Can you count to|Please count to|Count from 1 to] {rng.choice([str(last), NUMBERS[last]])}[.|?]", ", ".join(map(str, range(1, last + 1))) + "."


def next_number(rng: random.Random) -> tuple[str, str]:
    n = rng.randrange(0, 20)
    if rng.random() < 0.5:
        return f"[What|Which number] comes after {n}?", f"{n + 1} comes after {n}."
    return f"[What|Which number] comes before {n + 1}?", f"{n} comes before {n + 1}."


def order(rng: random.Random) -> tuple[str, str]:
    what, items = rng.choice([("day", DAYS), ("month", MONTHS), ("season", SEASONS)])
    position = rng.randrange(len(items))
    item, following = items[position], items[(position + 1) % len(items)]
    roll = rng.random()
    if roll < 0.2:
        return rng.choice([f"[What are|Name|Tell me] the {what}s[| of the {'week' if what == 'day' else 'year'}][.|?]", f"List the {what}s."]), upper_first(", ".join(items[:-1]) + " and " + items[-1] + ".")
    if roll < 0.6:
        return f"[What|Which {what}] comes after {item}?", upper_first(f"{following} comes after {item}.")
    return f"[What|Which {what}] comes before {following}?", upper_first(f"{item} comes before {following}.")


def opposite(rng: random.Random) -> tuple[str, str]:
    a, b = rng.choice(OPPOSITES)
    if rng.random() < 0.4 and sum(b in pair for pair in OPPOSITES) == 1:
        a, b = b, a
    return f"[What is the opposite of|What's the opposite of|The opposite of|Tell me the opposite of|opposite of] [{a}|\"{a}\"]?", f"The opposite of {a} is {b}."


def animal_fact(rng: random.Random) -> tuple[str, str]:
    roll = rng.randrange(6)
    if roll == 0:
        animal, sound = rng.choice(SOUNDS)
        return f"[What does {with_article(animal)} say|What sound does {with_article(animal)} make|How does {with_article(animal)} go|What does the {animal} say]?", f"{upper_first(with_article(animal))} says {sound}."
    if roll == 1:
        animal, young = rng.choice(YOUNG)
        return f"[What is a young {animal} called|What is a baby {animal} called|What do you call a baby {animal}]?", f"A young {animal} is called {with_article(young)}."
    if roll == 2:
        animal, home = rng.choice(HOMES)
        return f"Where does {with_article(animal)} live?", f"{upper_first(with_article(animal))} lives {home}."
    if roll == 3:
        animal, legs = rng.choice(LEGS)
        return f"How many legs does {with_article(animal)} have?", f"{upper_first(with_article(animal))} has {legs} legs."
    if roll == 4:
        young, animal = [(young, animal) for animal, young in YOUNG if young not in ("cub", "kid")][rng.randrange(14)]
        return f"What is {with_article(young)}?", f"{upper_first(with_article(young))} is a young {animal}."
    animal = rng.choice([animal for animal in ANIMALS if animal not in ("puppy", "kitten", "lamb")])
    return f"[What is {with_article(animal)}|What kind of thing is {with_article(animal)}|Is {with_article(animal)} an animal]?", f"{upper_first(with_article(animal))} is an animal."


def general(rng: random.Random) -> tuple[str, str]:
    roll = rng.randrange(7)
    if roll == 0:
        thing, colour = rng.choice(COLOURS)
        return f"[What colour is|What color is|Which colour is|What is the colour of] {thing}?", upper_first(f"{thing} is {colour}.")
    if roll in (1, 2):
        country, capital = rng.choice(CAPITALS)
        if rng.random() < 0.2:
            return f"[Where is {capital}|In which country is {capital}]?", f"{capital} is in {country}."
        return f"[What is the capital of|What's the capital of|Name the capital of|Which city is the capital of|capital of|Capital of|Do you know the capital of] {country}?", f"The capital of {country} is {capital}."
    if roll == 3:
        a, b, mixed = rng.choice(MIXES)
        if rng.random() < 0.5:
            a, b = b, a
        return f"What [colour|color] do {a} and {b} make?", f"{upper_first(a)} and {b} make {mixed}."
    if roll == 4:
        what, answer = rng.choice(COUNTS)
        return f"How many {what}?", answer.replace(";", ",")
    if roll == 5 and rng.random() < 0.3:
        food = rng.choice([food for food in FOODS if " " not in food])
        return f"What is {with_article(food)}?", f"{upper_first(with_article(food))} is something to eat."
    question, answer = rng.choice(GENERAL)
    return question + "?", answer


FAMILIES = [(addition, 20), (subtraction, 8), (counting, 8), (next_number, 6), (order, 10), (opposite, 12), (animal_fact, 20), (general, 34)]


def fact(rng: random.Random) -> tuple[str, str]:
    """A question of one of the families, and its answer."""
    makers, weights = zip(*FAMILIES)
    question, answer = rng.choices(makers, weights=weights)[0](rng)
    question = expand(question, {}, rng).strip()
    return upper_first(question), answer
