//! What stands below the options in `--help`.

pub(super) const TANDEM: &str = "\
Examples:
  tandem setup                                   obtain ONNX Runtime, once
  tandem run demo 'Tell me a story about a fox'  generate text with the built-in model
  tandem chat ./my-model                         talk with a model in a directory
  tandem chat Qwen/Qwen2.5-0.5B-Instruct         with one of the Hugging Face hub, downloaded once
  tandem embed ./my-embedder 'What do foxes eat?' make vectors of texts
  tandem export ./my-model --dtype int4          make a smaller and faster copy of it
  tandem parity ./my-model --candidate onnx:int4 see what another engine or dtype changes
  tandem devices                                 see what can run here

`tandem COMMAND --help` says more about a command.";

macro_rules! run_examples {
    () => {
        "\
Examples:
  tandem run demo 'Tell me a story about a fox who finds a lantern.'
  tandem run demo --temperature 0 --raw 'Once upon a time'
  cat notes.txt | tandem run ./my-model --system 'Summarise what you are given.'
  tandem run ./my-model --dtype int4 --kv-dtype f32 - < notes.txt
  tandem run ./my-model 'Name three rivers.' --json | jq -r .text
  tandem run ./my-coder --lookup=main.rs 'Rename f to area in:' --temperature 0
  tandem run ./my-model --prompts prompts.jsonl --parallel 8 --json | jq -r '.results[].text'"
    };
}

pub(super) const RUN: &str = run_examples!();

pub(super) const RUN_LONG: &str = concat!(
    run_examples!(),
    "

Configuration:
  `tandem.toml` in the working directory, or in the user's configuration directory
  (`~/.config/tandem/tandem.toml`), sets the same options:

    execution_target = \"cpu\"     # auto, cpu, cuda, cuda:N or coreml: what --device sets
    threads = 4
    temperature = 0.7
    stop = [\"\\n\\n\"]
    logit_bias = [\"42=-inf\"]

  Flags win over the file in the working directory, which wins over the user's. `ort_library` and
  `coreml_cache` can be set in the user's file only.

Exit codes:
  0 done, 1 failed or cancelled, 2 wrong usage"
);

pub(super) const CHAT: &str = "\
Examples:
  tandem chat demo
  tandem chat ./my-model --system 'You answer in one sentence.' --temperature 0.7
  tandem chat ./my-model --load talk.json
  printf 'Hello!\\nTell me a story.\\n' | tandem chat demo

A line that ends in `\\` goes on in the next one, and lines between two lines of `\"\"\"` are one message.";

pub(super) const ADAPTER: &str = "\
Examples:
  tandem adapter train demo --data chats.jsonl -o ./my-adapter
  tandem run demo 'Tell me about your day.' --adapter ./my-adapter
  tandem adapter show ./my-adapter
  tandem adapter verify ./my-adapter --base ./my-model
  tandem adapter convert ./my-adapter --to mlx -o ./my-adapter-mlx
  tandem adapter convert ./my-adapter --to merged --base ./my-model -o ./my-adapted-model";

pub(super) const TRAIN: &str = "\
Examples:
  tandem adapter train demo --data chats.jsonl -o ./my-adapter
  tandem adapter train ./my-model --data chats.jsonl --rank 16 --targets q_proj,v_proj --steps 500 -o ./my-adapter
  tandem adapter train ./my-model --data chats.jsonl -o ./my-adapter --resume";

pub(super) const SCORE: &str = "\
Examples:
  tandem score demo 'Once upon a time there was a fox.'
  tandem score ./my-model --top 10 - < text.txt
  tandem score demo 'Once upon a time' --json | jq .perplexity";

pub(super) const EMBED: &str = "\
Examples:
  tandem embed ./all-MiniLM-L6-v2 'A fox eats mice.' 'Rain fell on the hill.' --similarity
  tandem embed Qwen/Qwen3-Embedding-0.6B --role query 'What do foxes eat?' --json
  tandem embed ./my-model --input documents.jsonl --field body -o documents.npy
  tandem embed ./my-model --role document --dtype int8 -o lines.jsonl < lines.txt
  tandem embed ./my-model --input documents.csv --field text -o vectors.jsonl --resume
  tandem embed ./my-model --input books.jsonl --chunk 256:32 -o chunks.jsonl";

pub(super) const RERANK: &str = "\
Examples:
  tandem rerank ./bge-reranker-base --query 'What do foxes eat?' 'A fox eats mice.' 'Rain fell.'
  tandem rerank ./bge-reranker-base --query 'What do foxes eat?' --input documents.jsonl --top 10
  tandem rerank ./my-reranker --query 'What do foxes eat?' --json < lines.txt | jq '.results[0].text'";

pub(super) const FINGERPRINT: &str = "\
Examples:
  tandem fingerprint ./my-embedder
  tandem fingerprint Qwen/Qwen3-Embedding-0.6B --role query --json | jq -r .id";

pub(super) const VERIFY_INDEX: &str = "\
Examples:
  tandem verify-index vectors.jsonl --model ./my-embedder
  tandem verify-index vectors.npy --input documents.txt --model ./my-embedder --role document
  tandem verify-index vectors.jsonl --vector-field vector --model ./my-embedder --json

Exit codes:
  0 the index is of this model, 1 that could not be found out, 2 wrong usage, 3 it is not";

pub(super) const BENCH: &str = "\
Examples:
  tandem bench demo
  tandem bench ./my-model --dtype f32,int8,int4 --threads 1,2 --html report.html
  tandem bench --shape qwen2.5-0.5b --dtype int4 --output before.json
  tandem bench --shape qwen2.5-0.5b --dtype int4 --baseline before.json --gate
  tandem bench ./my-model --dtype int4 --kv-dtype f16,f32 --depth 0,8192
  tandem bench ./all-MiniLM-L6-v2 --backend onnx,candle --dtype f32,int8 --length 16,128 --batch 1,32
  tandem bench ./my-model --peer llama-bench=./llama-bench --gguf my-model.Q4_0.gguf";

pub(super) const SHOW: &str = "\
Examples:
  tandem show demo
  tandem show ./my-model --no-load --hashes
  tandem show qwen2.5:1.5b --dtype int4 --context 8192
  tandem show auto --memory 16GiB
  tandem show ./my-model --dtype int4 --json | jq .loaded.placement";

pub(super) const EXPORT: &str = "\
Examples:
  tandem export ./my-model --dtype int4
  tandem export ./my-model --dtype int8 -o ./my-model-int8
  tandem export ./my-model --dtype int4 --block-size 128 --head-dtype int8
  tandem export demo -o ./demo-graph --json | jq .bytes";

pub(super) const PULL: &str = "\
Examples:
  tandem pull Qwen/Qwen2.5-0.5B-Instruct
  tandem pull onnx-community/Qwen2.5-0.5B-Instruct --dtype int4
  tandem pull owner/name-GGUF:Q4_K_M --backend candle
  tandem pull Qwen/Qwen2.5-0.5B-Instruct@main --lock && git add tandem.lock
  tandem pull --locked
  tandem pull Qwen/Qwen2.5-0.5B-Instruct --bundle qwen.tar
  tandem pull --from-bundle qwen.tar

Environment:
  HF_TOKEN        a token for private and gated models; `hf auth login` keeps one as well
  HF_HOME         where token and cache lie (HF_HUB_CACHE: the cache alone)
  HF_HUB_OFFLINE  open no connection; what is in the cache works
  HF_ENDPOINT     another hub
  HTTPS_PROXY     the way out; NO_PROXY names what needs none";

pub(super) const LIST: &str = "\
Examples:
  tandem list
  tandem list --json | jq -r '.models[] | \"\\(.bytes)\\t\\(.model)\"'";

pub(super) const RM: &str = "\
Examples:
  tandem rm Qwen/Qwen2.5-0.5B-Instruct
  tandem rm Qwen/Qwen2.5-0.5B-Instruct@refs/pr/3
  tandem rm --graphs

Environment:
  TANDEM_CACHE_SIZE  how large all of these may be together before those used longest ago are
                     removed by themselves [default: 30GB]";

pub(super) const DEVICES: &str = "\
Examples:
  tandem devices
  tandem devices --json | jq '.backends[].devices[] | select(.usable) | .device'";

pub(super) const DOCTOR: &str = "\
Examples:
  tandem doctor
  tandem doctor --verify
  tandem doctor --json | jq '.checks[] | select(.state == \"bad\")'";

pub(super) const SETUP: &str = "\
Examples:
  tandem setup
  tandem setup --wheel onnxruntime-1.31.1-cp311-cp311-manylinux_2_28_x86_64.whl";

pub(super) const COMPLETIONS: &str = "\
Examples:
  tandem completions bash > ~/.local/share/bash-completion/completions/tandem
  tandem completions zsh > ~/.zfunc/_tandem
  tandem completions fish > ~/.config/fish/completions/tandem.fish";

pub(super) const PARITY: &str = "\
Examples:
  tandem parity demo --reference candle:f32 --candidate onnx:f32
  tandem parity ./my-model --candidate onnx:int8 --candidate onnx:int4 --json > parity.json
  tandem parity ./my-model --reference onnx:f32 --candidate onnx=./my-model/onnx/model_q4.onnx
  tandem parity ./my-model --candidate candle:int4/f16 --candidate candle:int4/f32
  tandem parity ./all-MiniLM-L6-v2 --candidate onnx:f32 --candidate candle:int8
  tandem parity ./my-model --candidate onnx:int4@cuda --corpus prompts.txt --bisect

Exit codes:
  0 every candidate passes, 1 not everything could be measured, 2 wrong usage, 3 a candidate is not within its limits";
