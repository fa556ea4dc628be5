"""Saves a checkpoint as sentence-transformers does, in the form of whichever version runs this.

usage: embedder_modules.py RECIPE

`RECIPE` is a JSON file: `checkpoint` and `output` are directories, `modules` what follows the transformer. Run with
sentence-transformers 5.1 it writes the old form of the files, with 6.2 the one of 5.4 and later.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer, __version__

IS_OLD = int(__version__.split(".")[0]) < 6
if IS_OLD:
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
else:
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

# Without it a tokenizer with a chat template makes version 6 read every text as a message of a user.
TEXT_ONLY = {
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}


def transformer(checkpoint, max_seq_length, do_lower_case):
    if IS_OLD:
        return Transformer(checkpoint, max_seq_length=max_seq_length, do_lower_case=do_lower_case)
    # Version 6 takes the length from the tokenizer alone.
    return Transformer(checkpoint, do_lower_case=do_lower_case, **TEXT_ONLY)


def dense(generator, in_features, out_features, bias, activation):
    """Random weights in the order of the modules."""
    weight = generator.standard_normal((out_features, in_features)) / np.sqrt(in_features)
    module = Dense(in_features, out_features, bias=bias, activation_function=getattr(torch.nn, activation)())
    module.linear.weight.data = torch.from_numpy(weight.astype(np.float32))
    if bias:
        module.linear.bias.data = torch.from_numpy((0.3 * generator.standard_normal(out_features)).astype(np.float32))
    return module


def save(checkpoint, output, seed, modules, max_seq_length=None, do_lower_case=False, **options):
    generator = np.random.default_rng(seed)
    build = {"Pooling": Pooling, "Normalize": Normalize, "Dense": lambda **kwargs: dense(generator, **kwargs)}
    built = [build[name](**arguments) for name, arguments in modules]
    model = SentenceTransformer(
        modules=[transformer(checkpoint, max_seq_length, do_lower_case), *built], device="cpu", **options
    )
    model.save_pretrained(output, create_model_card=False)


def main():
    save(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
