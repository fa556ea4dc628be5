"""Which adapters `goldens/adapters/` has, and what each is there for."""

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]

# `lora` are the arguments of PEFT's LoraConfig; `dtype` is what the factors are stored in; `seed` is the first that `adapters.py --search`
# finds lively (see reference.py). `also` are other forms of the same adapter, in directories of their own; `gguf` comes from llama.cpp's converter
# (training/gguf/adapters.py), which knows one alpha for all modules and takes no rsLoRA; `gguf-q8_0` is its `--outtype q8_0`.
SPECS = {
    "qwen2-all-linear": {
        "why": "`all-linear`, a scale of 2.5; rank 4",
        "base": "qwen2-tied",
        "seed": 6,
        "dtype": "float32",
        "lora": {"r": 4, "lora_alpha": 10, "target_modules": "all-linear"},
        "also": ["onnx", "gguf", "gguf-q8_0"],
    },
    "qwen2-rslora": {
        "why": "query and value only, rsLoRA: alpha over the root of rank 3",
        "base": "qwen2-tied",
        "seed": 12,
        "dtype": "float32",
        "lora": {"r": 3, "lora_alpha": 4, "use_rslora": True, "target_modules": ["q_proj", "v_proj"]},
        "also": [],
    },
    "qwen2-saved": {
        "why": "a norm and biases trained whole beside the factors: to be merged",
        "base": "qwen2-tied",
        "seed": 8,
        "dtype": "float32",
        "lora": {
            "r": 2,
            "lora_alpha": 4,
            "target_modules": ["q_proj", "k_proj", "down_proj"],
            "bias": "lora_only",
            "modules_to_save": ["model.norm"],
        },
        "also": [],
    },
    "qwen3-layers": {
        "why": "the last layer alone, by `layers_to_transform`; alpha below the rank",
        "base": "qwen3",
        "seed": 14,
        "dtype": "float32",
        "lora": {"r": 4, "lora_alpha": 3, "target_modules": ALL, "layers_to_transform": [1], "layers_pattern": "layers"},
        "also": ["mlx"],
    },
    "qwen3-dora": {
        "why": "DoRA, a magnitude for each row",
        "base": "qwen3",
        "seed": 6,
        "dtype": "float32",
        "lora": {"r": 4, "lora_alpha": 8, "use_dora": True, "target_modules": [*ATTENTION, "up_proj", "down_proj"]},
        "also": ["mlx"],
    },
    "llama3-patterns": {
        "why": "ranks and alphas by pattern: a name's end, a layer, an anchored expression; a module left out; f16",
        "base": "llama3-rope",
        "seed": 4,
        "dtype": "float16",
        "lora": {
            "r": 4,
            "lora_alpha": 6,
            "target_modules": ALL,
            "exclude_modules": ["layers.0.mlp.up_proj"],
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.(gate|up)_proj": 6, "^model.layers.0.self_attn.v_proj": 1},
            "alpha_pattern": {"layers.0.self_attn.q_proj": 5, "mlp.down_proj": 2.5, ".*v_proj": 3},
        },
        "also": ["mlx"],
    },
    "llama3-all-linear": {
        "why": "`all-linear` where llama.cpp reorders the rows of queries and keys; rank 2",
        "base": "llama3-rope",
        "seed": 0,
        "dtype": "float32",
        "lora": {"r": 2, "lora_alpha": 3, "target_modules": "all-linear"},
        "also": ["gguf", "gguf-q8_0"],
    },
    "mistral-regex": {
        "why": "targets by one expression; a scale of 13/4; bf16",
        "base": "mistral",
        "seed": 0,
        "dtype": "bfloat16",
        "lora": {
            "r": 4,
            "lora_alpha": 13,
            "target_modules": r".*layers\.(0\.self_attn\.[qk]|1\.self_attn\.[vo]|\d+\.mlp\.down)_proj",
        },
        "also": ["onnx"],
    },
    "mistral-head": {
        "why": "the head adapted beside a projection",
        "base": "mistral",
        "seed": 1,
        "dtype": "float32",
        "lora": {"r": 4, "lora_alpha": 4, "target_modules": ["lm_head", "o_proj"]},
        "also": [],
    },
    "gemma2-all-linear": {
        "why": "`all-linear` between the norms of Gemma 2; rank 5",
        "base": "gemma2",
        "seed": 9,
        "dtype": "float32",
        "lora": {"r": 5, "lora_alpha": 10, "target_modules": "all-linear"},
        "also": ["gguf"],
    },
    "phi3-packed": {
        "why": "packed query, key and value, and packed gate and up, adapted as the checkpoint stores them",
        "base": "phi3",
        "seed": 0,
        "dtype": "float32",
        "lora": {"r": 4, "lora_alpha": 8, "target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]},
        "also": [],
    },
}
