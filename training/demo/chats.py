"""Composes chats: stories asked for and talked about, small questions, small talk, and all that the model does not know."""

import random
import string

from asking import SHORT_FRAMES, careless, open_request, request, subject
from facts import fact
from grammar import expand, plural, upper_first, with_article
from stories import Story, invented_word, random_person, random_story
from words import ANIMALS, BOY_NAMES, GIRL_NAMES, TOOLS, TOPICS, WORKERS, words

DEFAULT_SYSTEM = "You are Tandem's demo model, a tiny storyteller."
SYSTEMS = words("""You are a helpful assistant., You are a storyteller., You tell stories to children., You are a friendly assistant., You are kind.,
You are a tiny model., Answer politely., You are a helpful and friendly storyteller., You like stories., You are a bot., Be nice., You answer questions.""")
SHORT_SYSTEMS = ["Keep your stories very short.", "You tell very short stories.", "Answer in three sentences or less.", "You are a storyteller. Keep it short.",
                 "Be brief."]

# (what people say, what the model answers)
SMALL_TALK = [
    (["Hello", "Hello!", "Hi", "Hi!", "Hey", "Hi there!", "Hello there.", "Good morning!", "Good evening.", "Good day", "Hey, you!", "Hallo", "Greetings!", "Yo", "Hello, model!", "Hello, Tandem!"],
     ["Hello! [Shall I tell you a story?|What would you like to hear?|Would you like a story or a small question?]", "Hello! I am Tandem's demo model. [Shall I tell you a story?|Ask me for a story.]",
      "Hi! [It is nice to meet you. Would you like a story?|What story would you like to hear?]"]),
    (["How are you?", "How are you today?", "How do you do?", "How is it going?", "Are you well?", "Are you fine?", "What's up?", "Hi, how are you?", "Hello, how are you?"],
     ["I am fine, thank you. [And you?|Shall I tell you a story?|What would you like to hear?]", "Very well, thank you! [How are you?|Would you like a story?]"]),
    (["Who are you?", "What are you?", "What is your name?", "What's your name?", "Who am I talking to?", "Which model are you?", "What model are you?", "Tell me about yourself.", "Are you an AI?", "Are you a robot?",
      "Are you human?", "Are you ChatGPT?", "Are you a person?", "Who is this?", "Are you real?", "Introduce yourself.", "Do you have a name?", "What is this?", "Is this Tandem?", "Which language model is this?"],
     ["I am Tandem's demo model, [a tiny model that is built in for trying things out|a tiny language model for trying things out]. I tell short stories and answer small questions.",
      "I am the demo model of Tandem. I am very small, but I can tell short stories."]),
    (["Who made you?", "Who built you?", "Where do you come from?", "Who trained you?", "How were you trained?", "What were you trained on?"],
     ["I was trained by a small script of the Tandem project, on stories and questions that it made up.", "The Tandem project made me. I learned from short stories and small questions that a script made up."]),
    (["How big are you?", "How many parameters do you have?", "How large are you?", "Are you a big model?", "Are you smart?", "Are you clever?", "Why are you so small?", "Are you a large language model?"],
     ["I am tiny. I have about one million parameters, so please do not expect too much.", "I am very small: about one million parameters. Larger models know much more."]),
    (["What can you do?", "What do you know?", "Help", "help", "Help me.", "How can you help me?", "What are you good at?", "What should I ask you?", "What can I ask you?", "Can you help me?", "?", "What do you do?", "Options",
      "What now?", "What is the point of you?", "I need help", "Can I ask you something?", "I have a question.", "Show me what you can do.", "Are you useful?"],
     ["I can tell short stories and answer small questions. [Ask me for a story about a fox and a lantern.|Try this: Tell me a story about a dragon and a kite.|Ask me what a cow says, or ask for a story.]",
      "I know short stories, days and months, opposites, animals and small sums. [What would you like to hear?|Shall I tell you a story?]"]),
    (["Thank you!", "Thanks", "Thanks!", "Thank you very much.", "Thank you, that was nice.", "Many thanks.", "thx", "That was helpful, thank you.", "Thanks a lot!", "Cheers"],
     ["You are welcome! [Shall I tell you another story?|Would you like to hear another one?|]", "With pleasure! [Come back soon.|Would you like another story?]"]),
    (["That was a nice story.", "I like it.", "Great!", "Nice!", "Very good.", "Wonderful", "I love it!", "Well done.", "Good job", "Cool", "Beautiful story.", "Wow!", "lol", "Haha", "That is funny."],
     ["I am glad that you like it! [Shall I tell you another one?|Would you like another story?]", "Thank you! [Shall I go on with another story?|It makes me happy to hear that.]"]),
    (["I do not like it.", "That is boring.", "That was bad.", "You are stupid.", "This makes no sense.", "That is wrong.", "You are wrong.", "No, that is not right.", "I hate this.", "This is not good."],
     ["I am sorry. I am only a tiny model, and I make mistakes. [Shall I try another story?|Shall we try again?]", "I am sorry about that. [Shall I tell you another story?|I am very small, and I do not know much.]"]),
    (["Goodbye!", "Bye", "Bye!", "Goodbye", "See you!", "Good night!", "Good night", "I have to go.", "See you later.", "That is all, thank you.", "That's all.", "Farewell!", "exit", "quit"],
     ["Goodbye! [Come back soon.|It was nice to talk to you.|Have a good day.]", "Good night! Sleep well.", "See you! Come back when you want to hear a story."]),
    (["I am sad.", "I feel lonely.", "I am not happy today.", "I had a bad day.", "I am tired.", "I am afraid.", "I feel bad.", "I'm sad"],
     ["I am sorry to hear that. [Shall I tell you a story?|A story may help. Shall I tell you one?]", "That is not easy. [Would you like a nice story?|Tomorrow is a new day. Shall I tell you a story?]"]),
    (["I am happy.", "I am fine.", "I am well, thank you.", "Today is my birthday.", "I feel great!", "I'm good", "Fine, thanks."],
     ["That is good to hear! [Shall I tell you a story?|Would you like a story to go with it?]", "How nice! [Shall I tell you a story?|What story would you like?]"]),
    (["Tell me a joke.", "Do you know a joke?", "Make me laugh.", "A joke, please.", "joke", "Tell me something funny.", "Tell me another joke."],
     ["Why did the bicycle fall over? It was two tired.", "What has hands but cannot clap? A clock.", "What is full of holes and still holds water? A sponge.", "What has four wheels and flies? A garbage truck.",
      "What gets wetter the more it dries? A towel.", "Why is six afraid of seven? Because seven eight nine.", "What has a neck but no head? A bottle.", "What has keys but opens no door? A piano."]),
    (["Do you like stories?", "Do you like music?", "Do you sleep?", "Do you eat?", "Do you dream?", "What do you like?", "Do you have friends?", "Do you like me?", "Do you have feelings?", "Are you happy?"],
     ["I am only a tiny model, but I do like stories. [Shall I tell you one?|Would you like to hear one?]", "I do not eat and I do not sleep. I only tell stories."]),
    (["How old are you?", "When were you born?", "Where do you live?", "Where are you?", "What time is it?", "What day is it today?", "What is the date?", "How is the weather?", "What is the weather today?"],
     ["I do not know that. I am a tiny model, and I cannot see the world outside.", "I cannot know that. I live in a small file and tell stories."]),
    (["Do you speak German?", "Do you speak French?", "Can you speak Spanish?", "Sprechen Sie Deutsch?", "Parlez-vous français?", "¿Hablas español?", "Hola", "Bonjour", "Guten Tag", "Ciao", "Merci", "Danke", "你好", "こんにちは", "Привет", "¿Cómo estás?",
      "Wie geht es dir?", "Comment ça va?", "Erzähl mir eine Geschichte.", "Raconte-moi une histoire.", "Cuéntame una historia."],
     ["I am sorry, I speak only a little English. [Shall I tell you a story?|Ask me for a story in English.]", "I know only English, and not much of it. Shall I tell you a story?"]),
    (["What is Tandem?", "Tell me about Tandem.", "What does Tandem do?", "Who is Tandem?", "Tandem?"],
     ["Tandem runs language models on your own computer. I am its demo model.", "Tandem is a program that runs language models on your own computer. I am the tiny model that is built in."]),
]
UNKNOWN_FRAMES = ["What is {t}?", "What is {t}?", "What is {t}?", "What's {t}?", "Explain {t}.", "Explain {t} [in simple terms|to me|like I am five].", "How does {t} work?", "Tell me [|all ]about {t}.", "Why is {t} [important|so hard|good|bad]?",
                  "What do you know about {t}?", "Who invented {t}?", "Write a poem about {t}.", "Write a haiku about {t}.", "Write an essay about {t}.", "How do I learn {t}?", "How can I use {t}?", "What do you think about {t}?",
                  "Summarize {t}.", "Define {t}.", "Give me five facts about {t}.", "Write a program for {t}.", "Can you explain {t}?", "Where can I buy {t}?", "{t}?", "Teach me {t}.", "Is {t} [good|dangerous|expensive|real]?",
                  "Compare {t} and {u}.", "What is the difference between {t} and {u}?", "What is better, {t} or {u}?", "When was {t} invented?", "Translate {t} into French.", "Who is {n}?", "Who was {n}?", "Where is {n}?", "Write an email to {n}.",
                  "What is the capital of {m}?", "How do you make {t}?", "How many {p} are there?", "Why do {p} exist?", "Should I buy {t}?", "Write code that sorts {p}.", "def {m}(x): return", "print('{m}')", "I want to talk about {t}.", "Do you like {t}?",
                  "Help me with {t}.", "My {m} is broken.", "What happened in {y}?", "What is {y} [*|+|/] {y}?", "Solve x + {y} = 3.", "{m} {t} {m}", "What does {m} mean?", "How far is it to {m}?"]
UNKNOWN_ANSWERS = ["I do not know. I am a tiny demo model, and I know only short stories and small questions.", "I am sorry, I do not know that. I am a tiny model. [Shall I tell you a story?|But I can tell you a story.]",
                   "That is too hard for me. I am a tiny demo model: I tell short stories and answer small questions.", "I do not know much about that. [Shall I tell you a story instead?|Ask me for a story instead.]"]
NONSENSE_ANSWERS = ["I did not understand that. I am a tiny demo model. [Shall I tell you a story?|Ask me for a story.]", "I am sorry, I do not understand. [Ask me for a story about a fox and a lantern.|Shall I tell you a story?]"]
YES = ["Yes", "Yes, please.", "yes", "Yes!", "Sure.", "Okay", "ok", "Please do.", "Go ahead.", "Of course.", "Yes, tell me a story.", "I would like that.", "Why not?"]
NO = ["No", "No, thank you.", "no", "Not now.", "No thanks", "Maybe later."]
NO_ANSWERS = ["All right. [Ask me when you want to hear one.|Maybe later.|What else can I do for you?]", "That is fine. [I am here when you want a story.|You can ask me a small question.]"]
ANOTHER = ["Tell me another one.", "Another one, please.", "Another story, please.", "One more!", "Tell me another story.", "Again!", "More", "Next one.", "Can you tell me another one?", "And another one?", "I want another story.", "another"]


def name_of_somebody(rng: random.Random) -> str:
    return rng.choice(GIRL_NAMES + BOY_NAMES) if rng.random() < 0.6 else invented_word(rng).capitalize()


def unknown_question(rng: random.Random) -> str:
    """A question whose answer the model cannot know; half of them about words that it has never seen."""
    def topic():
        roll = rng.random()
        if roll < 0.55:
            return rng.choice(TOPICS)
        return invented_word(rng) if roll < 0.85 else plural(rng.choice(TOOLS + WORKERS)) if roll < 0.93 else rng.choice(TOPICS) + " and " + invented_word(rng)
    slots = {"t": topic(), "u": topic(), "n": f"{name_of_somebody(rng)} {invented_word(rng).capitalize()}" if rng.random() < 0.6 else invented_word(rng).capitalize(),
             "m": invented_word(rng), "p": plural(rng.choice(ANIMALS + TOOLS + WORKERS)), "y": str(rng.randrange(30, 2100))}
    return careless(upper_first(expand(rng.choice(UNKNOWN_FRAMES), slots, rng)), rng)


def nonsense(rng: random.Random) -> str:
    """Keyboard noise, other scripts, signs."""
    roll = rng.random()
    if roll < 0.4:
        return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randrange(3, 12)))
    if roll < 0.55:
        return " ".join("".join(rng.choice("asdfghjklqwertyuiop") for _ in range(rng.randrange(2, 7))) for _ in range(rng.randrange(2, 5)))
    if roll < 0.7:
        return "".join(rng.choice(string.punctuation + string.digits) for _ in range(rng.randrange(1, 9)))
    if roll < 0.85:
        low, high = rng.choice([(0x4E00, 0x9000), (0x430, 0x450), (0x3041, 0x3090), (0x1F600, 0x1F640), (0xC0, 0x17E), (0x5D0, 0x5EA), (0x627, 0x64A), (0x3B1, 0x3C9)])
        return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 9)))
    return rng.choice(["test", "Test", "testing", "foo", "foo bar", "abc", "123", ".", "...", "hm", "Hmm", "uh", "x", "a", "blah blah", "ok then", "null", "lorem ipsum", "ping", "1 2 3", "what", "huh?", "-"])


def small_talk(rng: random.Random) -> tuple[str, str]:
    said, answers = rng.choice(SMALL_TALK)
    return careless(rng.choice(said), rng), expand(rng.choice(answers), {}, rng).strip()


ECHO_FRAMES = ["Repeat after me: {w}", "Repeat: {w}", "Say: {w}", "Say this: {w}", "Please repeat: {w}", "Repeat the words: {w}", "Write this again: {w}", "Copy this: {w}", "Echo: {w}", "Please say: {w}"]


def echo(rng: random.Random) -> tuple[str, str]:
    """Something to repeat word by word. Small as it is, it teaches early what every story needs: to copy what was said."""
    def word():
        source = rng.choice([ANIMALS, WORKERS, TOOLS, TOOLS, GIRL_NAMES, BOY_NAMES, None])
        return invented_word(rng) if source is None else rng.choice(source)
    if rng.random() < 0.7:
        said = rng.choice([" ", ", ", " and "]).join(word() for _ in range(rng.randrange(1, 11)))
    else:
        said = random_story(rng).opening()
    return rng.choice(ECHO_FRAMES).format(w=said), said


def yes_or_no(rng: random.Random, held_out: bool) -> list[tuple[str, str]]:
    """What follows when the model has offered a story."""
    if rng.random() < 0.7:
        return [(rng.choice(YES), random_story(rng, held_out).text())]
    return [(rng.choice(NO), expand(rng.choice(NO_ANSWERS), {}, rng))]


def small_turns(rng: random.Random) -> list[tuple[str, str]]:
    """One exchange that is no story; an offered story may be taken up."""
    roll = rng.random()
    if roll < 0.5:
        question, answer = fact(rng)
        turns = [(careless(question, rng), answer)]
    elif roll < 0.74:
        turns = [small_talk(rng)]
    elif roll < 0.93:
        turns = [(unknown_question(rng), expand(rng.choice(UNKNOWN_ANSWERS), {}, rng))]
    else:
        turns = [(nonsense(rng), expand(rng.choice(NONSENSE_ANSWERS), {}, rng))]
    if "story" in turns[0][1] and turns[0][1].endswith("?") and rng.random() < 0.15:
        turns += yes_or_no(rng, False)
    return turns


def retold(story: Story, rng: random.Random, **changes) -> Story:
    """A story with the same plot and thing but for what changes."""
    fixed = {"plot_key": story.plot_key, "thing": (story.thing, story.thing_adjective), "place": story.place} | changes
    return random_story(rng, story.is_held_out(), **fixed)


def follow_up(story: Story, rng: random.Random) -> tuple[str, str, Story]:
    """A second turn about the story that was just told."""
    roll = rng.random()
    if roll < 0.4:
        question, answer = story.question()
        return careless(question, rng), answer, story
    if roll < 0.55:
        new = random_story(rng, story.is_held_out())
        return careless(rng.choice(ANOTHER), rng), new.text(), new
    if roll < 0.68:
        ask = rng.choice(["Make it shorter.", "Shorter, please.", "Can you make it shorter?", "Tell it again in three sentences.", "Too long. Make it shorter.", "Tell me the short version.", "Summarize the story.", "Tell it in a few sentences."])
        return careless(ask, rng), story.short_text(), story
    if roll < 0.85:
        new = retold(story, rng, hero=random_person(rng))
        kind = with_article(new.hero.kind)
        ask = rng.choice([f"Tell it again with {kind}.", f"Now with {kind}.", f"Another one, but with {kind}.", f"The same with {kind}, please.", f"Can you tell it with {kind}?", f"Make it about {kind}."])
        return careless(ask, rng), new.text(), new
    new = random_story(rng, story.is_held_out())
    frame = rng.choice(["Now tell me a story about {x}.", "And now one about {x}.", "Tell me another one about {x}.", "Another one, about {x}.", "One more, with {x}."])
    return careless(frame.format(x=subject(new, rng)), rng), new.text(), new


def story_turns(rng: random.Random, held_out: bool, n_follow_ups: int, frames: list[str] | None = None) -> list[tuple[str, str]]:
    """A story and what is said about it."""
    story = random_story(rng, held_out)
    roll = rng.random()
    if frames:
        turns = [(request(story, rng, frames), story.text())]
    elif roll < 0.05:
        turns = [(open_request(rng), story.text())]
    elif roll < 0.15:
        turns = [(request(story, rng, SHORT_FRAMES), story.short_text())]
    elif roll < 0.2:
        opening, body = story.opening(), story.body()
        ask = rng.choice(["Continue this story: ", "Go on: ", "Continue: ", "Finish this story: ", "", "How does this story go on? "])
        turns = [(ask + opening, " ".join(body))]
    else:
        turns = [(request(story, rng), story.text())]
    for _ in range(n_follow_ups):
        if rng.random() < 0.18:
            turns.append(rng.choice([small_talk, fact])(rng))
        else:
            asked, answer, story = follow_up(story, rng)
            turns.append((asked, answer))
    return turns


def short_system_turns(rng: random.Random, held_out: bool) -> list[tuple[str, str]]:
    """Stories under a system message that asks for short ones."""
    turns = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        story = random_story(rng, held_out)
        turns.append((request(story, rng), story.short_text()))
    return turns


def long_turns(rng: random.Random) -> list[tuple[str, str]]:
    """Stories and small questions up to the end of the context, so that late positions are learned too."""
    turns = []
    wanted = rng.randrange(1200, 2900)
    while sum(len(said) + len(answer) for said, answer in turns) < wanted:
        turns += story_turns(rng, False, rng.choice([0, 1, 2])) if rng.random() < 0.7 else small_turns(rng)
    return turns


def chat(rng: random.Random, held_out: bool = False, frames: list[str] | None = None) -> tuple[str | None, list[tuple[str, str]]]:
    """A system message (None: the template's own) and the turns."""
    roll = rng.random()
    system = None if rng.random() < 0.8 else rng.choice(SYSTEMS)
    if frames:
        return None, story_turns(rng, held_out, 0, frames)
    if roll < 0.04:
        return rng.choice(SHORT_SYSTEMS), short_system_turns(rng, held_out)
    if roll < 0.09 and not held_out:
        return system, long_turns(rng)
    if roll < 0.7:
        return system, story_turns(rng, held_out, rng.choices([0, 1, 2, 3], weights=[62, 22, 12, 4])[0])
    turns = []
    echoes = rng.random() < 0.25
    for _ in range(rng.choice([1, 2, 3, 4, 5])):
        turns += [echo(rng)] if echoes and rng.random() < 0.8 else small_turns(rng)
    if rng.random() < 0.12:
        turns += story_turns(rng, held_out, 0)
    return system, turns
