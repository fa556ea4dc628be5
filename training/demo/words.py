"""The word lists that the stories and chats are composed from.

The lists are long on purpose: with hundreds of heroes, things, names and places the model cannot
learn one story by heart. It has to learn to take the nouns from the prompt.
"""


def words(text: str) -> list[str]:
    """Split a comma-separated list that may run over several lines."""
    return [" ".join(word.split()) for word in text.split(",")]


ANIMALS = words("""fox, cat, dog, rabbit, mouse, bear, wolf, owl, duck, frog, hedgehog, squirrel, badger, otter,
beaver, deer, goat, sheep, lamb, horse, pony, cow, pig, hen, rooster, goose, swan, crow, robin, sparrow, parrot,
penguin, seal, whale, dolphin, turtle, tortoise, snail, bee, ant, beetle, butterfly, spider, cricket, firefly,
lizard, snake, crocodile, lion, tiger, elephant, giraffe, zebra, monkey, panda, koala, kangaroo, camel, donkey,
mole, bat, raccoon, hamster, kitten, puppy, crab, octopus, fish, gull, stork, moose, hippo, llama, peacock""")

WORKERS = words("""baker, farmer, fisherman, gardener, tailor, painter, teacher, doctor, nurse, pilot, sailor,
shepherd, blacksmith, carpenter, clockmaker, lighthouse keeper, librarian, cook, postman, miller, beekeeper,
shoemaker, potter, musician, dancer, singer, drummer, knight, explorer, astronaut, inventor, engineer, scientist,
captain, fireman, train driver, gatekeeper, weaver, toymaker, writer, student, hunter, merchant, juggler, clown,
soldier, programmer, poet, detective, mechanic""")

CREATURES = words("""dragon, giant, ghost, elf, fairy, wizard, witch, unicorn, snowman, goblin, troll, mermaid,
dwarf, monster, scarecrow, phoenix, pirate, alien""")

MACHINES = words("robot, little train, toy soldier, tin robot, old tractor, small boat, rocket, computer, clockwork bird")

GIRL_KINDS = words("girl, little girl, princess, queen, grandmother, young woman, old woman, sister, mother")
BOY_KINDS = words("boy, little boy, prince, king, grandfather, young man, old man, brother, father")

GIRL_NAMES = words("""Mia, Lily, Anna, Emma, Rosa, Clara, Nora, Ella, Ruby, Lucy, Alice, Sara, Maya, Zoe, Ivy, Luna,
Nina, Tess, Hanna, Freya, Ada, Mina, Greta, Lena, Molly, Poppy, Daisy, Hazel, Olive, Wren, Iris, Pearl, Stella,
Vera, June, Elsa, Ines, Leila, Amina, Yuki, Mei, Priya, Tara, Sofia, Eva, Marta, Olga, Tilda, Bella, Penny, Grace,
Ruth, Fern, Willow, Juno, Kira, Lotte, Mabel, Nell, Opal, Petra, Rita, Selma, Thea, Una, Wanda, Yara, Zara, Dora,
Edith, Fiona, Gwen""")

BOY_NAMES = words("""Tom, Ben, Max, Leo, Sam, Jack, Finn, Noah, Oscar, Hugo, Otto, Felix, Emil, Anton, Theo, Luca,
Milo, Paul, Karl, Peter, Henry, George, Arthur, Oliver, Jonas, Elias, Omar, Ali, Ravi, Kenji, Chen, Diego, Pablo,
Marco, Ivan, Boris, Erik, Lars, Nils, Sven, Bruno, Carlo, Dario, Enzo, Frank, Gus, Hans, Igor, Jasper, Kofi, Louis,
Martin, Ned, Owen, Percy, Quinn, Rufus, Simon, Toby, Victor, Walter, Yusuf, Zack, Adam, Bert, Caleb, Dan, Edgar,
Fred, Gregor, Harry, Jim""")

MACHINE_NAMES = words("""Bolt, Rusty, Pip, Beep, Cog, Tik, Zip, Dot, Chip, Spark, Widget, Gizmo, Tock, Nut, Rivet,
Buzz, Clank, Pixel, Bit, Sprocket""")

TOOLS = words("""lantern, kite, key, map, drum, flute, bell, clock, compass, umbrella, hat, scarf, coat, boot, glove,
button, ring, necklace, crown, cup, teapot, kettle, bowl, spoon, basket, bucket, rope, ladder, hammer, shovel, broom,
brush, pencil, pen, book, notebook, letter, postcard, picture, mirror, lamp, candle, torch, candlestick, box, chest,
trunk, bag, backpack, suitcase, purse, coin, whistle, trumpet, violin, guitar, harp, piano, music box, doll, puppet,
teddy bear, ball, marble, spinning top, toy boat, toy train, toy car, paper boat, paper crane, balloon, sled, wagon,
bicycle, wheel, skateboard, swing, tent, blanket, pillow, quilt, rug, curtain, chair, stool, table, telescope,
magnifying glass, camera, radio, telephone, computer, machine, engine, rocket, boat, raft, oar, anchor, flag, sail, net,
fishing rod, bow, shield, sword, helmet, wand, potion, crystal, gem, pearl, shell, stone, feather, wing, horn, mask,
cloak, apron, shoe, sock, sweater, ribbon, thread, needle, ball of wool, pair of glasses, pair of boots, watch,
hourglass, calendar, globe, snow globe, vase, flower pot, bird house, nest, bench, door, window, gate, bridge, wheelbarrow,
windmill, scale, jar, bottle, cork, barrel, saw, nail, magnet, lens, battery, light bulb, glass star, wooden horse,
tin whistle, silver spoon, treasure chest, magic carpet, golden coin, paper plane, story book""")

FOODS = words("""cake, pie, apple, pear, peach, pumpkin, carrot, cherry, lemon, melon, turnip, mushroom, cookie, loaf of bread,
jar of honey, bowl of soup, basket of apples, pot of jam, bag of nuts, cup of tea, chocolate, sandwich, pancake,
muffin, pizza, cheese, pot of stew, bunch of grapes, bowl of rice, strawberry""")

NATURE = words("""flower, rose, sunflower, seed, leaf, acorn, pine cone, egg, branch, daisy, tulip, clover, tree, star,
cloud, snowflake, rainbow""")

# Preposition and noun. "in the forest" is where one is, "to the forest" is where one goes.
PLACES = [tuple(place.split(" ", 1)) for place in words("""in the forest, in the garden, in the village, in the town,
in the city, in the valley, in the meadow, in the orchard, in the barn, in the castle, in the tower, in the cave,
in the desert, in the jungle, in the swamp, in the snow, in the park, in the kitchen, in the library, in the school,
in the attic, in the cellar, in the workshop, in the mill, in the old house, in the museum, in the bakery, in the
harbour, in the field, in the woods, in the mountains, in the palace, in the greenhouse, in the theatre, in the zoo,
in the tree house, in the train station, in the bookshop, in the rain forest, in the space station, by the river,
by the lake, by the sea, by the pond, by the lighthouse, by the well, by the waterfall, by the bridge, by the stream,
by the railway, by the old oak, by the windmill, on the hill, on the beach, on the farm, on the island, on the mountain,
on the moon, on the ship, on the cliff, on the roof, on the road, at the market, at the fair, at the gate, at the
harbour wall, at the circus, at the playground, near the waterfall, near the old mine, under the bridge, behind the church,
at the end of the lane, at the edge of the forest""")]

HERO_ADJECTIVES = words("""little, small, young, brave, shy, kind, clever, curious, quiet, cheerful, lonely, gentle, old,
tiny, proud, patient, merry, careful, sleepy, hungry, busy, friendly, clumsy, polite""")

THING_ADJECTIVES = words("""red, blue, green, yellow, white, black, silver, golden, purple, orange, old, new, small, tiny, big,
shiny, strange, beautiful, dusty, simple, magic, lovely, plain, odd, heavy, pretty""")

# (to do it, doing it)
SKILLS = [tuple(skill.split("/")) for skill in words("""sing/singing, dance/dancing, swim/swimming, read/reading,
write/writing, paint/painting, draw/drawing, skate/skating, juggle/juggling, knit/knitting, sew/sewing, cook/cooking,
bake bread/baking bread, ride a bicycle/riding a bicycle, fly a kite/flying a kite, play the drum/playing the drum,
play the flute/playing the flute, play the violin/playing the violin, play the piano/playing the piano, row a boat/rowing a boat,
climb trees/climbing trees, tell jokes/telling jokes, whistle/whistling, jump high/jumping high, run fast/running fast,
catch a ball/catching a ball, count to a hundred/counting to a hundred, tie knots/tying knots, build a wall/building a wall,
plant seeds/planting seeds, fix clocks/fixing clocks, make soup/making soup, tell stories/telling stories,
read a map/reading a map, walk on a rope/walking on a rope, play chess/playing chess, ski/skiing, dive/diving,
write code/writing code, speak to strangers/speaking to strangers, make paper boats/making paper boats, fly/flying""")]

FEARS = words("""the dark, thunder, deep water, high places, loud noises, the wind, big dogs, shadows, the night, storms,
spiders, strangers, the cold, the cellar, fire, the sea, bad dreams, getting lost""")

STORY_THEMES = {
    "friendship": ["friend"], "sharing": ["share"], "honesty": ["truth"], "courage": ["fear", "storm"],
    "being brave": ["fear", "storm"], "patience": ["seed", "skill"], "learning": ["skill"], "a storm": ["storm"],
    "a race": ["race"], "a secret": ["secret"], "a gift": ["gift"], "a birthday": ["gift"], "a journey": ["journey"],
    "an adventure": ["journey", "secret"], "kindness": ["stranger", "share"], "helping others": ["stranger", "mend"],
    "telling the truth": ["truth"], "a mystery": ["noise"], "a treasure": ["secret"], "a wish": ["wish"],
    "being lonely": ["friend"], "never giving up": ["skill", "seed"], "a new friend": ["friend"],
    "an invention": ["invent"], "love": ["gift", "friend"], "a strange noise": ["noise"], "saving money": ["wish"],
    "a garden": ["seed"], "music": ["skill"], "fear": ["fear"], "being lost": ["way"], "losing something": ["lose"],
    "finding something": ["find"], "hope": ["seed", "wish"], "bedtime": ["noise", "fear"], "winter": ["stranger", "journey"],
    "a party": ["gift", "share"], "teamwork": ["mend", "invent"],
}

SYLLABLES = words("""ba, bo, bri, da, dor, el, fa, fen, gli, gor, ha, il, jo, ka, kel, la, lum, ma, mil, mo, na, nor, o, pa,
pim, qua, ra, ril, ro, sa, sil, ta, tor, u, va, vel, wa, wim, xa, yo, za, zem, zi, plo, gru, sna, fro, tri, ble, cra""")
ENDINGS = words("n, r, l, k, t, x, m, ng, sh, p, th, ck, st, lo, ra, nia, bit, dle, mer, ton, ket, ling, zo, by, sy")

# Ordinary words that the chats use where the model should say that it does not know.
TOPICS = words("""Rust, Python, quantum physics, gravity, history, politics, chemistry, the stock market, algebra, biology,
football, economics, philosophy, a compiler, the law, medicine, evolution, a black hole, electricity, machine learning,
the internet, a neural network, photosynthesis, grammar, an atom, inflation, cooking, chess, poetry, opera, a database,
JavaScript, Linux, a transformer, the Roman Empire, DNA, a volcano, an earthquake, taxes, a virus, the universe, love,
happiness, time, music theory, jazz, basketball, architecture, astronomy, a leap year, recursion, encryption, cancer,
global warming, democracy, a mortgage, the meaning of life, blockchain, Shakespeare, Mozart, Napoleon, Einstein, a pronoun,
geometry, a tensor, a GPU, ONNX, a tokenizer, tomorrow's weather, the news, the weather, my computer, the best phone,
marketing, accounting, engineering, a haiku, a poem, the president, the second world war, sushi, bitcoin, calculus""")
