"""The prompts of the goldens and the text their tokenizers are trained on.

The four short prompts are the ones every backend must reproduce. The fifth is long, so that a
prefill in chunks and the llama3 rope scaling have something to act on.
"""

PROMPTS = [
    ("ascii", "The fox and the lazy dog run to the river in the rain, 7 times."),
    ("code", "fn add(a: i32, b: i32) -> i32 {\n    a + b\n}\n"),
    # Chinese, Arabic, a combining mark that NFC composes, one that it cannot, a family with joiners.
    ("multilingual", "你好 مرحبا e\u0301 q\u0303 नि 👨‍👩‍👧 🙂!"),
    ("single", "x"),
    (
        "long",
        "The fox and the dog run to the river in the rain, and the river runs to the sea. "
        "In the sun the dog sleeps; the fox thinks of 12 fish, 7 birds and 305 stones.\n"
        'fn main() {\n    let total = add(12, 7);\n    println!("{total}");\n}\n'
        "你好, good night, and then the rain came back to the river and the dog ran home.",
    ),
]

# Logits of this many last positions are stored for the long prompt; all of them for the others.
LONG_POSITIONS = 8

TRAINING_TEXT = [
    "The fox and the dog run to the river in the rain and the river runs to the sea.",
    "In the sun the dog sleeps and the fox thinks of the fish in the river.",
    "fn add(a: i32, b: i32) -> i32 {\n    a + b\n}\n",
    'fn main() {\n    let total = add(12, 7);\n    println!("{total}");\n}\n',
    "你好 你好 مرحبا مرحبا 👨‍👩‍👧 👨‍👩‍👧",
    "the rain came back to the river and then the dog ran home in the rain",
]
