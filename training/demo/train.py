"""Trains the demo model from nothing and writes it to models/demo in published form.

    python training/demo/train.py            the model as committed
    python training/demo/train.py --steps 200 --documents 8000 --out OUT    a quick look
    python training/demo/train.py --hidden-size 512 --layers 8 --device cuda --out OUT    25 million parameters: what width changes
"""

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from pathlib import Path

# These must stand in the environment before the process starts. Freed memory is kept: by default glibc maps and unmaps each
# large tensor anew. The tokenizer uses one thread, so that the process can fork. cuBLAS gives the same bits with work space of its own.
PROCESS_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592", "MALLOC_TRIM_THRESHOLD_": "17179869184", "TOKENIZERS_PARALLELISM": "false",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
if any(os.environ.get(name) != value for name, value in PROCESS_SETTINGS.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | PROCESS_SETTINGS)

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from corpus import Document, held_out_sets, training_documents
from tokenizer import VOCAB_SIZE, save_tokenizer, train_tokenizer

SEED = 20251
MAX_POSITIONS = 1024
MICRO_BATCH_TOKENS = 2048
MICRO_BATCHES_PER_STEP = 2
HIDDEN_SIZE = 128
LAYERS = 6
PEAK_LEARNING_RATE = 4e-3  # for HIDDEN_SIZE; divided by how many times wider a model is
COPIED_TOKENS = VOCAB_SIZE - 3  # all but the special ones
WEIGHT_DECAY = 0.05
WARMUP_STEPS = 100
LOOK_BACK_STRENGTH = 5.0
COPYING_STEPS = 400
COPYING_LEARNING_RATE = 2e-3
COPYING_LENGTH = 96
COPIED_LENGTHS = range(8, 41)

Example = tuple[torch.Tensor, torch.Tensor]  # token ids and, for each, whether it is to be learned


def model_config(hidden_size: int, layers: int, eos: int, pad: int) -> Qwen2Config:
    heads = max(4, hidden_size // 64)
    return Qwen2Config(
        vocab_size=VOCAB_SIZE, hidden_size=hidden_size, intermediate_size=3 * hidden_size, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads // 2,
        max_position_embeddings=MAX_POSITIONS, rope_theta=10000.0, rms_norm_eps=1e-6, tie_word_embeddings=True, attention_dropout=0.0,
        initializer_range=0.05, use_sliding_window=False, bos_token_id=None, eos_token_id=eos, pad_token_id=pad,
    )


@torch.no_grad()
def look_back(model: Qwen2ForCausalLM) -> None:
    """Starts the first heads of the first two layers as heads that look one and two tokens back.

    To copy a noun from the prompt a model needs such heads first (Olsson et al. 2022, "In-context learning and induction heads"), and
    to find them by chance took it longer than all the rest. The biases of queries and keys, turned by the rotary embedding,
    give a score that is highest at the wanted distance: sum over the frequencies of cos(frequency * (distance - wanted)).
    """
    size = model.config.hidden_size // model.config.num_attention_heads
    frequencies = 10000.0 ** (-torch.arange(size // 2) * 2 / size)
    for layer in model.model.layers[:2]:
        attention = layer.self_attn
        attention.k_proj.weight[:size] *= 0.1
        attention.k_proj.bias[:size] = torch.cat([torch.full_like(frequencies, LOOK_BACK_STRENGTH), torch.zeros_like(frequencies)])
        for head, distance in enumerate([1, 2]):  # both share the first key head
            rows = slice(head * size, (head + 1) * size)
            attention.q_proj.weight[rows] *= 0.1
            attention.q_proj.bias[rows] = LOOK_BACK_STRENGTH * torch.cat([torch.cos(distance * frequencies), -torch.sin(distance * frequencies)])


def encode(documents: list[Document], tokenizer) -> list[Example]:
    """Each piece on its own: pieces end at special tokens, so this is the tokenisation of the whole text."""
    pieces = [piece for document in documents for piece in document.pieces]
    encoded = iter(tokenizer.encode_batch_fast([text for text, _ in pieces], add_special_tokens=False))
    examples = []
    for document in documents:
        ids, learned = [], []
        for _, marked in document.pieces:
            piece = next(encoded).ids
            ids += piece
            learned += [marked] * len(piece)
        examples.append((torch.tensor(ids[:MAX_POSITIONS]), torch.tensor(learned[:MAX_POSITIONS])))
    return examples


def pad(examples: list[Example], pad_id: int) -> Example:
    """Right padding; what is padded is never learned and, the model being causal, never seen."""
    ids = torch.nn.utils.rnn.pad_sequence([ids for ids, _ in examples], batch_first=True, padding_value=pad_id)
    learned = torch.nn.utils.rnn.pad_sequence([learned for _, learned in examples], batch_first=True, padding_value=False)
    return ids, learned


def micro_batches(examples: list[Example], rng: random.Random, pad_id: int):
    """Endless batches of examples of like length, so that little is padded; positions always start at 0, as in use."""
    while True:
        order = rng.sample(examples, len(examples))
        for start in range(0, len(order), 512):
            batches, batch = [], []
            for example in sorted(order[start:start + 512], key=lambda example: len(example[0])):
                if batch and (len(batch) + 1) * len(example[0]) > MICRO_BATCH_TOKENS:
                    batches.append(batch)
                    batch = []
                batch.append(example)
            batches.append(batch)
            rng.shuffle(batches)
            for batch in batches:
                yield pad(batch, pad_id)


def copying_batches(rng: random.Random):
    """Endless batches of random tokens that come again and again; all but the first time is learned.

    A story takes its nouns from the prompt. Nothing but copying lowers this loss, so that the heads for it form in some 300 steps; on
    stories alone they had not formed after a thousand. Each row has a period of its own, or the model learns a distance instead.
    """
    while True:
        rows = []
        for _ in range(MICRO_BATCH_TOKENS // COPYING_LENGTH):
            period = rng.choice(COPIED_LENGTHS)
            piece = [rng.randrange(COPIED_TOKENS) for _ in range(period)]
            ids = (piece * (COPYING_LENGTH // period + 1))[:COPYING_LENGTH]
            rows.append((torch.tensor(ids), torch.tensor([place > period for place in range(COPYING_LENGTH)])))
        yield pad(rows, 0)


def token_losses(model: Qwen2ForCausalLM, ids: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each learned token; logits are computed only where they count."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    marked = learned[:, 1:]
    return cross_entropy(model.lm_head(hidden[marked]), ids[:, 1:][marked], reduction="none")


def learning_rate(step: int, steps: int) -> float:
    """Warm-up and a level for copying; then, for stories, warm-up, a plateau, and over the last half a straight line to zero."""
    if step < COPYING_STEPS:
        return COPYING_LEARNING_RATE * min(1.0, (step + 1) / (WARMUP_STEPS / 2))
    step -= COPYING_STEPS
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return PEAK_LEARNING_RATE * warm * min(1.0, (steps - step) / (0.5 * steps))


def make_optimizer(model: Qwen2ForCausalLM) -> torch.optim.Optimizer:
    """AdamW; no decay on norms and biases."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    others = [weight for weight in model.parameters() if weight.dim() == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), fused=True)


def train(model: Qwen2ForCausalLM, examples: list[Example], options: argparse.Namespace, pad_id: int, rank: int) -> int:
    """Runs the steps as one of the workers and returns the number of tokens that all of them have seen."""
    optimizer = make_optimizer(model)
    stories = micro_batches(examples, random.Random(SEED), pad_id)
    copying = copying_batches(random.Random(SEED))
    started, n_tokens, recent = time.time(), 0, []
    total = COPYING_STEPS + options.steps
    for step in range(total):
        batches = copying if step < COPYING_STEPS else stories
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps) * HIDDEN_SIZE / options.hidden_size
        parts = [next(batches) for _ in range(MICRO_BATCHES_PER_STEP)]
        n_learned = sum(int(learned[:, 1:].sum()) for _, learned in parts)
        n_tokens += sum(int((ids != pad_id).sum()) for ids, _ in parts)
        loss = torch.zeros((), device=options.device)
        for ids, learned in share(parts, rank, options.workers):
            # Weights and sums stay float32; measured 1.45 times faster with AVX512-BF16.
            with torch.autocast(options.device, dtype=torch.bfloat16):
                part = token_losses(model, ids.to(options.device), learned.to(options.device)).sum() / n_learned
            part.backward()
            loss += part.detach()
        recent.append(add_up(model, loss).item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if rank == 0 and ((step + 1) % 25 == 0 or step + 1 == total):
            elapsed = time.time() - started
            print(f"step {step + 1}/{total}  loss {sum(recent) / len(recent):.4f}  {n_tokens / elapsed:.0f} tokens/s  {elapsed:.0f} s", flush=True)
            recent = []
        if rank == 0 and options.interim and (step + 1) % 100 == 0:
            torch.save(model.state_dict(), options.interim)
    return n_tokens


def share(parts: list[Example], rank: int, workers: int) -> list[Example]:
    """The rows of each micro-batch that this worker computes; the step is the same however many workers there are."""
    return [(ids[rank::workers], learned[rank::workers]) for ids, learned in parts if len(ids) > rank]


def add_up(model: Qwen2ForCausalLM, loss: torch.Tensor) -> torch.Tensor:
    """Sums the gradients and the loss over the workers, which so take the same step."""
    if not torch.distributed.is_initialized():
        return loss
    gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in model.parameters()]
    flat = torch.cat([loss.view(1), *(gradient.view(-1) for gradient in gradients)])
    torch.distributed.all_reduce(flat)
    parts = flat[1:].split([gradient.numel() for gradient in gradients])
    for weight, part in zip(model.parameters(), parts):
        weight.grad = part.view_as(weight)
    return flat[0]


def train_with_workers(model: Qwen2ForCausalLM, examples: list[Example], options: argparse.Namespace, pad_id: int) -> int:
    """One process a core, each with a single thread: on a busy machine that loses far less than threads that wait for one another in every operation."""
    if options.workers == 1:
        return train(model, examples, options, pad_id, rank=0)
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = f"file://{folder}/rendezvous"
        rank = next((worker for worker in range(1, options.workers) if os.fork() == 0), 0)
        torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=options.workers)
        seen = train(model, examples, options, pad_id, rank)
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        if rank != 0:
            os._exit(0)
    return seen


@torch.no_grad()
def perplexity(model: Qwen2ForCausalLM, examples: list[Example], pad_id: int) -> dict:
    """Perplexity of the learned tokens, and of those at positions from 512 on."""
    total, count, late, late_count = 0.0, 0, 0.0, 0
    for start in range(0, len(examples), 8):
        ids, learned = pad(examples[start:start + 8], pad_id)
        losses = token_losses(model, ids, learned).double()
        is_late = (torch.arange(1, ids.shape[1]).expand(ids.shape[0], -1) >= 512)[learned[:, 1:]]
        total, count = total + losses.sum().item(), count + losses.numel()
        late, late_count = late + losses[is_late].sum().item(), late_count + int(is_late.sum())
    result = {"perplexity": round(math.exp(total / count), 4), "tokens": count}
    if late_count:
        result |= {"perplexity_from_512": round(math.exp(late / late_count), 4), "tokens_from_512": late_count}
    return result


def save_model(model: Qwen2ForCausalLM, tokenizer, folder: Path) -> None:
    """config.json, model.safetensors (float16), generation_config.json and the tokenizer's files."""
    end_of_turn, end_of_text = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=40, top_p=0.9, repetition_penalty=1.0, eos_token_id=[end_of_turn, end_of_text], pad_token_id=end_of_text)
    model.half().save_pretrained(folder)
    save_tokenizer(tokenizer, folder, MAX_POSITIONS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1900, help="steps on the corpus, after those on copying")
    parser.add_argument("--documents", type=int, default=40000)
    parser.add_argument("--hidden-size", type=int, default=HIDDEN_SIZE)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--workers", type=int, default=2, help="processes that share a step on the processor")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "models" / "demo")
    parser.add_argument("--interim", type=Path, help="a file for the weights every 100 steps, to look at samples meanwhile")
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        arguments.workers = 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    started = time.time()
    documents = training_documents(arguments.documents, SEED)
    tokenizer = train_tokenizer(documents[:10000])
    examples = encode(documents, tokenizer)
    pad_id = tokenizer.token_to_id("<|endoftext|>")
    corpus_tokens = sum(len(ids) for ids, _ in examples)
    print(f"{len(examples)} distinct documents, {corpus_tokens} tokens, {time.time() - started:.0f} s", flush=True)

    end_of_turn = tokenizer.token_to_id("<|im_end|>")
    model = Qwen2ForCausalLM(model_config(arguments.hidden_size, arguments.layers, eos=end_of_turn, pad=pad_id))
    look_back(model)
    model.to(arguments.device)
    print(f"{model.num_parameters()} parameters", flush=True)
    seen = train_with_workers(model, examples, arguments, pad_id)
    trained_seconds = time.time() - started
    save_model(model.cpu(), tokenizer, arguments.out)

    model = Qwen2ForCausalLM.from_pretrained(arguments.out, dtype=torch.float32).eval()  # the float16 weights, as published
    report = {"parameters": model.num_parameters(), "documents": len(examples), "corpus_tokens": corpus_tokens, "tokens_seen": seen,
              "steps": arguments.steps, "seconds": round(trained_seconds)}
    sets = held_out_sets(250, SEED + 1) | {"training documents": random.Random(1).sample(documents, 250)}
    for name, held_out in sets.items():
        report[name] = perplexity(model, encode(held_out, tokenizer), pad_id)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
