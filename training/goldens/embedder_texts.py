"""The texts of the goldens of embedders and rerankers, and the text their tokenizers are trained on."""

# What a reader may get wrong: no text at all, upper case, blanks at the ends, scripts without blanks, characters that no
# vocabulary has, and texts that are cut.
TEXTS = [
    ("empty", ""),
    ("word", "river"),
    ("upper case", "THE RIVER RUNS TO THE SEA."),
    ("outer blanks", "  The fox sleeps in the sun. \n"),
    ("chinese", "你好,世界。河流入海。"),
    ("emoji", "Good morning 🙂👍🏽 and good night 👨‍👩‍👧!"),
    ("code", "fn add(a: i32, b: i32) -> i32 {\n    a + b\n}\n"),
    ("near duplicate 1", "The dog ran home in the rain."),
    ("near duplicate 2", "The dog ran home in the rain!"),
    ("accents", "Café naïve, Übergröße, e\u0301a q\u0303: 12 ½ ﬁsh"),
    (
        "forty words",
        "The fox and the dog run to the river in the rain and the river runs to the sea, and in the sun the dog sleeps "
        "and the fox thinks of the fish in the river, the birds in the sky and the stones.",
    ),
    (
        "overlong",
        " ".join(
            f"In the {season} the {animal} runs to the {place} and sleeps, and then the rain comes back."
            for season in ("spring", "summer", "winter")
            for animal, place in (("fox", "river"), ("dog", "sea"), ("bird", "sky"), ("fish", "stones"))
        ),
    ),
]
NAMES = [name for name, _ in TEXTS]
ALL = [text for _, text in TEXTS]
# For the cases that are about prompts or dimensions: a short text, a usual one and one that is cut.
SOME = [dict(TEXTS)[name] for name in ("word", "near duplicate 1", "forty words", "overlong")]
# Tokens that a text spells out are read as such by transformers.
SPELLED = "a [SEP] b </s> c <|endoftext|> d"

QUERIES = [
    "Where does the river run to?",
    # Longer than a model takes, with or without a document.
    "Tell me where the fox and the dog run to " + " and ".join(["in the rain", "in the sun", "in the winter night"] * 6) + "?",
]
DOCUMENTS = [
    "The river runs to the sea.",
    "THE DOG SLEEPS.",
    "",
    "你好 🙂",
    "No, the birds in the sky. " + " ".join(["Yes, the river runs to the sea and the rain comes back."] * 9),
]

TRAINING_TEXT = [
    *(text for name, text in TEXTS if name in ("forty words", "overlong", "code", "near duplicate 1")),
    *QUERIES,
    *DOCUMENTS[:2],
    # What rerankers that are language models answer; alone, so that each is a token.
    *["yes", "no"] * 6,
    "the fox thinks of 12 fish, 7 birds and 305 stones",
    "good morning, good night; the morning sun and the night rain in the spring and in the summer",
    "Instruct: Given a question, retrieve passages that answer it\nQuery: query: passage: search result title: none text:",
    'fn main() {\n    let total = add(12, 7);\n    println!("{total}");\n}\n',
    "your house our home his garden her road their town this that these those here there where when how why what who",
    "walk walks walked walking play plays played playing sing sings singing read reads reader reading open opens opened",
    "water wind stone stones fire earth tree trees leaf leaves bread salt light dark blue green white black red yellow",
    "one two three four five six seven eight nine ten first second third last again never always often soon later",
    "你好 世界 河 流 入 海",
]
