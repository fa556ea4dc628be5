"""Measures onnxruntime-genai: reads a request from standard input and prints one line of JSON."""

import json
import sys
import time


def peak_rss_bytes():
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None


def milliseconds(start):
    return (time.perf_counter() - start) * 1e3


def generator(og, model, length):
    """Greedy, and never at an end before `length` tokens."""
    options = og.GeneratorParams(model)
    options.set_search_options(do_sample=False, min_length=length, max_length=length)
    return og.Generator(model, options)


def prefill(og, model, prompt):
    one = generator(og, model, len(prompt) + 2)
    start = time.perf_counter()
    one.append_tokens(prompt)
    # Some versions compute when tokens are appended, others when the first is asked for; the logits are there after both.
    one.get_logits()
    ms = milliseconds(start)
    one.generate_next_token()
    return {"n_tokens": len(prompt), "ms": ms, "first_token_ms": milliseconds(start)}


def decode(og, model, prompt, depth, n_generated):
    one = generator(og, model, len(prompt) + n_generated + 2)
    one.append_tokens(prompt)
    # The first token comes from the prompt's logits; each one after it needs a step.
    one.generate_next_token()
    steps = []
    for _ in range(n_generated):
        start = time.perf_counter()
        one.generate_next_token()
        steps.append(milliseconds(start))
    return {"depth": depth, "n_tokens": n_generated, "ms": sum(steps), "step_ms": steps}


def main():
    request = json.load(sys.stdin)
    import onnxruntime_genai as og

    start = time.perf_counter()
    config = og.Config(request["directory"])
    session = {"intra_op_num_threads": request["threads"]}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    model = og.Model(config)
    load_ms = milliseconds(start)
    tokens = request["tokens"]
    prefill(og, model, tokens[:1])
    answer = {
        "version": og.__version__,
        "load_ms": load_ms,
        "prefill": [prefill(og, model, tokens[:n]) for n in sorted(request["prompts"])],
        "decode": [decode(og, model, tokens[: max(1, n)], n, request["n_generated"]) for n in request["depths"]],
    }
    print(json.dumps({**answer, "peak_rss_bytes": peak_rss_bytes()}))


main()
