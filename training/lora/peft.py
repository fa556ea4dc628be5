"""Trains an adapter with Hugging Face's PEFT, by the rules of `tandem adapter train`: the same data, options, losses and schedule.

usage: peft.py BASE --data chats.jsonl -o DIR [--rank 8] [--steps 200] [...]

BASE is a directory of a checkpoint with a chat template. A line of the data is `{"messages": [{"role": ..., "content": ...}, ...]}` or
`{"prompt": ..., "completion": ...}`. What is learned are the answers of the assistant up to the token that ends them. Without `--held-out`,
every tenth conversation is measured and not learned. The result is a directory that `tandem run BASE --adapter DIR` takes.

The order of the texts and the first factors are drawn by torch, so the adapter is not that of Tandem to the bit.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

# Python looks into this file's directory first, and would find it in the place of the package of its name.
sys.path.pop(0)

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

HELD_OUT = 10


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=float, help="default: twice the rank")
    parser.add_argument("--targets", default="all-linear", help="names separated by commas")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--warmup", type=int, help="default: a twentieth of the steps")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def conversations(path):
    """The messages of every line."""
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    pair = lambda line: [{"role": "user", "content": line["prompt"]}, {"role": "assistant", "content": line["completion"]}]
    return [line["messages"] if "messages" in line else pair(line) for line in lines]


def texts(tokenizer, messages, max_tokens):
    """`(ids, is_target)` of a conversation: one where the template only appends, else one for each answer."""
    ids_of = lambda messages, prompt: tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
    ends = {tokenizer.eos_token_id}
    found = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        question, whole = ids_of(messages[:i], True), ids_of(messages[: i + 1], False)
        if whole[: len(question)] != question:
            raise SystemExit("the template writes something else before an answer than before the cursor")
        end = next((n for n in range(len(question), len(whole)) if whole[n] in ends), len(whole) - 1)
        is_target = [len(question) <= n <= end for n in range(len(whole))]
        if found and whole[: len(found[-1][0])] == found[-1][0]:
            before = found.pop()[1]
            is_target[: len(before)] = [a or b for a, b in zip(is_target, before)]
        found.append((whole, is_target))
    cut = [(ids[:max_tokens], is_target[:max_tokens]) for ids, is_target in found]
    return [(ids, is_target) for ids, is_target in cut if any(is_target)]


def loss_of(model, batch, padding):
    """The sum of the losses of all targets in nats, and their number."""
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([ids + [padding] * (longest - len(ids)) for ids, _ in batch])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in batch])
    labels = torch.tensor(
        [[i if is_target else -100 for i, is_target in zip(ids, targets)] + [-100] * (longest - len(ids)) for ids, targets in batch]
    )
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
    return loss, int((labels[:, 1:] != -100).sum())


def mean_loss(model, all_texts, batch, padding):
    with torch.no_grad():
        parts = [loss_of(model, all_texts[i : i + batch], padding) for i in range(0, len(all_texts), batch)]
    return sum(loss.item() for loss, _ in parts) / sum(n for _, n in parts)


def learning_rate(args, warmup, step):
    if step < warmup:
        return args.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(args.steps - warmup, 1)
    return args.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1)))


def main():
    args = arguments()
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    of = lambda chats: [text for messages in chats for text in texts(tokenizer, messages, args.max_tokens)]
    chats = conversations(args.data)
    if args.held_out:
        learned, held_out = of(chats), of(conversations(args.held_out))
    else:
        learned = of(messages for i, messages in enumerate(chats) if i % HELD_OUT != HELD_OUT - 1)
        held_out = of(messages for i, messages in enumerate(chats) if i % HELD_OUT == HELD_OUT - 1)

    model = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
    targets = args.targets if args.targets == "all-linear" else args.targets.split(",")
    alpha = args.alpha if args.alpha is not None else 2 * args.rank
    config = LoraConfig(r=args.rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=args.weight_decay)
    warmup = args.warmup if args.warmup is not None else args.steps // 20

    before = mean_loss(model, held_out, args.batch, padding)
    order, n_tokens, seconds = [], 0, 0.0
    for step in range(args.steps):
        chosen = []
        while len(chosen) < args.batch * args.accumulate:
            order = order or torch.randperm(len(learned)).tolist()
            chosen.append(learned[order.pop()])
        started = time.monotonic()
        n_targets, total = 0, 0.0
        for i in range(0, len(chosen), args.batch):
            loss, n = loss_of(model, chosen[i : i + args.batch], padding)
            loss.backward()
            n_targets, total = n_targets + n, total + loss.item()
        for parameter in trained:
            parameter.grad /= n_targets
        if args.clip > 0:
            torch.nn.utils.clip_grad_norm_(trained, args.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args, warmup, step)
        optimizer.step()
        optimizer.zero_grad()
        n_tokens, seconds = n_tokens + sum(len(ids) for ids, _ in chosen), seconds + time.monotonic() - started
        if (step + 1) % 50 == 0:
            print(f"update {step + 1}: loss {total / n_targets:.4f}, {n_tokens / seconds:.0f} tokens/s", flush=True)
    after = mean_loss(model, held_out, args.batch, padding)
    model.save_pretrained(args.output)
    result = {"held_out_loss_before": before, "held_out_loss_after": after, "tokens_per_s": n_tokens / seconds, "steps": args.steps}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
