"""Shows what the model writes: greedy, and at the sampling of generation_config.json.

    python training/demo/sample.py                       the prompts below
    python training/demo/sample.py "A story about a fox." [--seed 1] [--raw]
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

# None of these is a training text: words such as `unicycle`, `accountant` and `toaster` are in no list of the corpus,
# and several phrasings are in no frame.
PROMPTS = [
    "Tell me a story about a fox who finds a lantern.", "Write a short story with a dragon and a kite in it.",
    "Tell me a story about a lighthouse keeper and a whale.", "Could you write a little story about a hedgehog who loses a compass for me?",
    "Story time! I want to hear about an accountant and a toaster.", "Please make up a short tale about a walrus who wants to learn to sing.",
    "For my son: a story about a girl named Zelda on the moon.", "I feel like hearing a tale about a robot who is afraid of the dark.",
    "Do you have a story about sharing?", "Tell me a story about two friends and a unicycle.", "a tiny mouse in the library",
    "Tell me a very short story about an owl.", "Write a story about Mia and Tom.", "hello", "What is Rust?", "asdf", "", "Who are you?",
    "What is the capital of France?", "What is 3 + 4?", "What does a cow say?", "What is the opposite of hot?", "Write a Python function that adds two numbers.",
    "Why is the sky blue?", "Thanks!", "Tell me a story about a cat that finds a treasure in the cave.",
]


def prompt_ids(tokenizer, prompt: str, raw: bool, system: str | None) -> torch.Tensor:
    text = prompt
    if not raw:
        messages = [{"role": "system", "content": system}] if system else []
        text = tokenizer.apply_chat_template([*messages, {"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
    return tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids


def generate(model, tokenizer, ids: torch.Tensor, seed: int | None, temperature: float | None) -> str:
    """The continuation with its end token, so that one sees whether it ended; greedy where there is no seed."""
    options = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None} if seed is None else {"do_sample": True}
    if seed is not None:
        torch.manual_seed(seed)
        if temperature is not None:
            options["temperature"] = temperature
    with torch.no_grad():
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=500, **options)
    return tokenizer.decode(output[0, ids.shape[1]:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--model", type=Path, default=Path(__file__).resolve().parents[2] / "models" / "demo")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--temperature", type=float, help="instead of the model's own")
    parser.add_argument("--system", help="a system message instead of the template's own")
    parser.add_argument("--raw", action="store_true", help="continue the prompt without the chat template")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    for prompt in arguments.prompts:
        ids = prompt_ids(tokenizer, prompt, arguments.raw, arguments.system)
        print(f"### {prompt}")
        print("greedy:  ", generate(model, tokenizer, ids, None, None))
        print(f"seed {arguments.seed}:  ", generate(model, tokenizer, ids, arguments.seed, arguments.temperature), end="\n\n")


if __name__ == "__main__":
    main()
