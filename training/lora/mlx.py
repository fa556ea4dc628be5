"""Trains an adapter with mlx-lm on Apple silicon, from the same data and by the same options as `tandem adapter train`.

It was NOT run: it needs a Mac with Apple silicon and `pip install mlx-lm==0.32.2`. What it writes is what `tandem run BASE --adapter DIR`
takes (`adapters.safetensors` beside `adapter_config.json`).

usage: mlx.py BASE --data chats.jsonl -o DIR [--rank 8] [--steps 200] [...]

mlx-lm wants `train.jsonl` and `valid.jsonl` in one directory, with `messages` in each line; it masks the question by itself
(`--mask-prompt`). Its schedule has a warm-up and half a cosine as well. The last layers have factors: all of them here.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HELD_OUT = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=float, help="default: twice the rank")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--warmup", type=int, help="default: a twentieth of the steps")
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    lines = [json.loads(line) for line in args.data.read_text(encoding="utf-8").splitlines() if line.strip()]
    pair = lambda line: [{"role": "user", "content": line["prompt"]}, {"role": "assistant", "content": line["completion"]}]
    chats = [{"messages": line["messages"] if "messages" in line else pair(line)} for line in lines]
    alpha = args.alpha if args.alpha is not None else 2 * args.rank
    warmup = args.warmup if args.warmup is not None else args.steps // 20
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        for name, held in (("train", False), ("valid", True)):
            own = [chat for i, chat in enumerate(chats) if (i % HELD_OUT == HELD_OUT - 1) == held]
            (directory / f"{name}.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in own), encoding="utf-8")
        config = {
            "model": str(args.base),
            "train": True,
            "data": str(directory),
            "adapter_path": str(args.output),
            "fine_tune_type": "lora",
            "num_layers": -1,
            "lora_parameters": {"rank": args.rank, "scale": alpha / args.rank, "dropout": 0.0},
            "iters": args.steps,
            "batch_size": args.batch,
            "learning_rate": args.learning_rate,
            "lr_schedule": {"name": "cosine_decay", "warmup": warmup, "arguments": [args.learning_rate, args.steps]},
            "max_seq_length": args.max_tokens,
            "mask_prompt": True,
            "seed": args.seed,
        }
        file = directory / "lora.yaml"
        # JSON is YAML.
        file.write_text(json.dumps(config), encoding="utf-8")
        subprocess.run([sys.executable, "-m", "mlx_lm", "lora", "--config", str(file)], check=True)


if __name__ == "__main__":
    main()
