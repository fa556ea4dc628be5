//! Broken safetensors, GGUF files and configurations are errors that name the file, and loading them allocates little: a counting allocator
//! enforces a cap.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a failed test is a panic")]
#![allow(unsafe_code, reason = "an allocator is unsafe by nature")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tandem_backend_candle::CandleBackend;
use tandem_core::conformance::{GgufWriter, WrittenTensor, describe};
use tandem_core::files::ModelFiles;
use tandem_core::gguf::TensorType;
use tandem_core::{Backend, LoadOptions};

/// The most that loading may hold at any time, ten times the whole model: a file that claims to be larger must not be believed.
const CAP: usize = 4 << 20;

/// Counts the bytes that are allocated, and their peak since the last reset.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

impl Counting {
    fn add(n: usize) {
        let held = HELD.fetch_add(n, Ordering::Relaxed) + n;
        PEAK.fetch_max(held, Ordering::Relaxed);
    }
}

// SAFETY: every call is forwarded to the system allocator with unchanged arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::add(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is that of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::add(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is that of the system allocator.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is that of the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        Self::add(new_size);
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is that of the system allocator.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// A broken file: its description, the change to a directory with a good model, and a part of the error.
type Case = (&'static str, Box<dyn Fn(&Path)>, &'static str);

/// All cases in one test, since allocations are counted for the whole process.
#[test]
fn broken_files_are_errors_and_allocate_little() {
    check(None, |_| {});
    let cases = configurations()
        .into_iter()
        .chain(indexes())
        .chain(safetensors_files())
        .chain(weights())
        .chain(gguf_files())
        .chain(gguf_headers());
    let mut n = 0;
    for (what, spoil, expected) in cases {
        check(Some((what, expected)), spoil);
        n += 1;
    }
    assert!(n > 70, "{n} cases");
}

/// Loads a good model after `spoil` has changed it, and expects the error.
fn check(error: Option<(&str, &str)>, spoil: impl Fn(&Path)) {
    let directory = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden().join(name), directory.path().join(name)).unwrap();
    }
    spoil(directory.path());
    let options = LoadOptions::default();
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let loaded = ModelFiles::discover(directory.path(), "model").and_then(|files| CandleBackend::new().load(&files, &options));
    let taken = PEAK.load(Ordering::Relaxed) - before;
    let (what, expected) = error.unwrap_or(("the good model", ""));
    assert!(taken <= CAP, "{what}: {taken} bytes");
    match (loaded, error) {
        (Err(error), Some(_)) => {
            let text = describe(&error);
            assert!(text.contains(expected), "{what}: no `{expected}` in {text}");
            assert!(
                text.contains(&directory.path().display().to_string()) || text.contains("`model`"),
                "{what}: no file in {text}"
            );
            assert!(text.len() < 2000, "{what}: a message of {} bytes", text.len());
        }
        (Err(error), None) => panic!("{what} loads: {}", describe(&error)),
        (Ok(_), Some(_)) => panic!("{what} is an error"),
        (Ok(_), None) => assert!(taken > 100_000, "the allocator counts: {taken}"),
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/qwen2-untied")
}

fn case(what: &'static str, spoil: impl Fn(&Path) + 'static, expected: &'static str) -> Case {
    (what, Box::new(spoil), expected)
}

fn configurations() -> Vec<Case> {
    let bytes = |what, bytes: fn() -> Vec<u8>, expected| {
        case(what, move |dir: &Path| fs::write(dir.join("config.json"), bytes()).unwrap(), expected)
    };
    let field = |name: &'static str, value: Value, expected: &'static str| {
        let spoil = move |dir: &Path| {
            let mut config: Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
            config[name] = value.clone();
            fs::write(dir.join("config.json"), config.to_string()).unwrap();
        };
        case(name, spoil, expected)
    };
    vec![
        bytes("an empty configuration", Vec::new, "truncated JSON"),
        bytes("half a configuration", || br#"{"model_type": "qwen2", "hidden"#.to_vec(), "truncated JSON"),
        bytes("a configuration that is a list", || b"[]".to_vec(), "not a JSON object"),
        bytes("a configuration of bytes", || vec![0xFF; 100], "not valid JSON"),
        bytes("a configuration that nests", || [&br#"{"a":"#[..], &vec![b'['; 200_000]].concat(), "not valid JSON"),
        bytes("a configuration of 17 MiB", || vec![b' '; 17 << 20], "larger than"),
        bytes("a configuration of nothing", || b"{}".to_vec(), "`model_type`"),
        field("model_type", json!("mamba"), "`mamba`"),
        field("model_type", json!("albert"), "encoder-only"),
        field("model_type", json!(7), "`model_type`"),
        field("hidden_size", json!(1 << 20), "the configuration makes it"),
        field("hidden_size", json!(u64::MAX), "`hidden_size`"),
        field("hidden_size", json!(-1), "`hidden_size`"),
        field("hidden_size", json!("32"), "`hidden_size`"),
        field("hidden_size", json!(32.5), "`hidden_size`"),
        field("vocab_size", json!(1 << 24), "`model.embed_tokens.weight`"),
        field("intermediate_size", json!(1 << 24), "`model.layers.0.mlp.gate_proj.weight`"),
        field("num_hidden_layers", json!(1 << 12), "`model.layers.2."),
        field("num_hidden_layers", json!(1_u64 << 40), "`num_hidden_layers`"),
        field("num_attention_heads", json!(1 << 16), "`model.layers.0.self_attn.q_proj"),
        field("num_attention_heads", json!(0), "`num_attention_heads`"),
        field("num_key_value_heads", json!(3), "`num_key_value_heads`"),
        field("head_dim", json!(1 << 12), "`model.layers.0.self_attn.q_proj"),
        field("head_dim", json!(15), "`head_dim`"),
        field("max_position_embeddings", json!(0), "`max_position_embeddings`"),
        field("rms_norm_eps", json!(0.0), "`rms_norm_eps`"),
        field("rope_parameters", json!({"rope_type": "dynamic"}), "`dynamic`"),
        field("rope_parameters", json!({"rope_type": "factors", "factors": vec![1.0; 1000]}), "1000 entries"),
        field("hidden_act", json!("gelu"), "`gelu`"),
        field("quantization_config", json!({"quant_method": "awq"}), "`awq`"),
    ]
}

fn indexes() -> Vec<Case> {
    let index = |what, map: Value, expected| {
        let spoil = move |dir: &Path| {
            fs::remove_file(dir.join("model.safetensors")).unwrap();
            fs::write(dir.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
        };
        case(what, spoil, expected)
    };
    let bytes = |what, bytes: fn() -> Vec<u8>, expected| {
        let spoil = move |dir: &Path| {
            fs::remove_file(dir.join("model.safetensors")).unwrap();
            fs::write(dir.join("model.safetensors.index.json"), bytes()).unwrap();
        };
        case(what, spoil, expected)
    };
    vec![
        index(
            "a shard that is not there",
            json!({"lm_head.weight": "model-00001-of-00002.safetensors"}),
            "the checkpoint is incomplete",
        ),
        index("a shard above the directory", json!({"lm_head.weight": "../model.safetensors"}), "not a plain name"),
        index("a shard by its path", json!({"lm_head.weight": "/etc/passwd"}), "not a plain name"),
        index("a shard that is a number", json!({"lm_head.weight": 7}), "a file name"),
        index("no shards", json!({}), "names no file"),
        index("a map that is a list", json!([]), "`weight_map`"),
        bytes("an index cut short", || br#"{"weight_map": {"a""#.to_vec(), "truncated JSON"),
        bytes("an index of 17 MiB", || vec![b' '; 17 << 20], "larger than"),
    ]
}

/// The error for a file that is not a complete safetensors file.
const NO_FILE: &str = "not a complete safetensors file";

fn safetensors_files() -> Vec<Case> {
    let file = |what, spoil: fn(Vec<u8>) -> Vec<u8>, expected| {
        let spoil = move |dir: &Path| {
            let path = dir.join("model.safetensors");
            let bytes = spoil(fs::read(&path).unwrap());
            fs::write(path, bytes).unwrap();
        };
        case(what, spoil, expected)
    };
    let header = |what, header: &'static str, expected| {
        let spoil = move |dir: &Path| {
            let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 64]].concat();
            fs::write(dir.join("model.safetensors"), bytes).unwrap();
        };
        case(what, spoil, expected)
    };
    vec![
        file("no weights", |_| Vec::new(), NO_FILE),
        file("seven bytes", |bytes| bytes[..7].to_vec(), NO_FILE),
        file("a header cut short", |bytes| bytes[..100].to_vec(), NO_FILE),
        file("half the weights", |bytes| bytes[..bytes.len() / 2].to_vec(), NO_FILE),
        file("a byte too few", |bytes| bytes[..bytes.len() - 1].to_vec(), NO_FILE),
        file("a byte too many", |bytes| [bytes, vec![0]].concat(), NO_FILE),
        file("a header of all there is", |bytes| [&u64::MAX.to_le_bytes()[..], &bytes[8..]].concat(), NO_FILE),
        file("a header of 99 MB", |bytes| [&99_000_000_u64.to_le_bytes()[..], &bytes[8..]].concat(), NO_FILE),
        file(
            "a pointer of Git LFS",
            |_| b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n".to_vec(),
            "git lfs pull",
        ),
        file("a web page", |_| b"<!DOCTYPE html><html>".to_vec(), NO_FILE),
        file("zeros", |_| vec![0; 1 << 16], NO_FILE),
        header("no JSON", "no JSON, no JSON", NO_FILE),
        header("offsets past the end", r#"{"a":{"dtype":"F32","shape":[32],"data_offsets":[0,128]}}"#, NO_FILE),
        header("offsets that go back", r#"{"a":{"dtype":"F32","shape":[16],"data_offsets":[64,0]}}"#, NO_FILE),
        header(
            "a shape that overflows",
            r#"{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,64]}}"#,
            NO_FILE,
        ),
        header("another size than the shape's", r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,64]}}"#, NO_FILE),
        header("an unknown type", r#"{"a":{"dtype":"F31","shape":[16],"data_offsets":[0,64]}}"#, NO_FILE),
        header("other weights", r#"{"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}}"#, "there is no such weight"),
        case(
            "a sparse file that is all header",
            |dir| {
                let file = fs::File::create(dir.join("model.safetensors")).unwrap();
                std::io::Write::write_all(&mut &file, &99_000_000_u64.to_le_bytes()).unwrap();
                file.set_len(4 << 30).unwrap();
            },
            NO_FILE,
        ),
    ]
}

/// Valid files with weights that do not match the configuration.
fn weights() -> Vec<Case> {
    let tensor = |what, dtype: Dtype, shape: &'static [usize], expected| {
        case(what, move |dir: &Path| replace_norm(dir, Some((dtype, shape))), expected)
    };
    vec![
        tensor("a weight of whole numbers", Dtype::I64, &[32], "`model.norm.weight`: the weight is I64"),
        tensor("a weight of doubles", Dtype::F64, &[32], "F32, F16 or BF16"),
        tensor("a longer norm", Dtype::F32, &[33], "`model.norm.weight`: the weight is [33]"),
        tensor("a norm of two dimensions", Dtype::F32, &[32, 1], "`model.norm.weight`"),
        tensor("a norm of nothing", Dtype::F32, &[0], "`model.norm.weight`"),
        case("a missing norm", |dir| replace_norm(dir, None), "`model.norm.weight`: there is no such weight"),
    ]
}

/// The weights with another last norm, or with none.
fn replace_norm(dir: &Path, norm: Option<(Dtype, &[usize])>) {
    const NORM: &str = "model.norm.weight";
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let zeros = vec![0; 1 << 10];
    let mut all: Vec<(String, TensorView<'_>)> =
        tensors.iter().map(|(name, view)| (name.to_owned(), view)).filter(|(name, _)| name != NORM).collect();
    if let Some((dtype, shape)) = norm {
        let size = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        all.push((NORM.into(), TensorView::new(dtype, shape.to_vec(), &zeros[..size]).unwrap()));
    }
    safetensors::serialize_to_file(all, None, &dir.join("model.safetensors")).unwrap();
}

fn gguf_files() -> Vec<Case> {
    let bytes = |what, spoil: fn(Vec<u8>) -> Vec<u8>, expected| {
        case(what, move |dir: &Path| write_gguf(dir, &spoil(good_gguf().to_bytes())), expected)
    };
    vec![
        bytes("an empty GGUF", |_| Vec::new(), "not a GGUF file"),
        bytes("another magic", |bytes| [&b"GGML"[..], &bytes[4..]].concat(), "not a GGUF file"),
        bytes("half a GGUF", |bytes| bytes[..bytes.len() / 2].to_vec(), "obtain it again"),
        bytes("a header cut short", |bytes| bytes[..200].to_vec(), "that follow can hold"),
        bytes(
            "all the tensors there can be",
            |bytes| [&bytes[..8], &u64::MAX.to_le_bytes(), &bytes[16..]].concat(),
            "`tensor_count`",
        ),
        bytes(
            "all the keys there can be",
            |bytes| [&bytes[..16], &u64::MAX.to_le_bytes(), &bytes[24..]].concat(),
            "`metadata_kv_count`",
        ),
        bytes("a key without end", |bytes| [&bytes[..24], &u64::MAX.to_le_bytes(), &bytes[32..]].concat(), "ends within a key"),
        case(
            "a sparse file of 4 GiB",
            |dir| {
                let mut writer = GgufWriter::default();
                list(&mut writer, 8, 1 << 28);
                write_gguf(dir, &writer.to_bytes());
                fs::OpenOptions::new().write(true).open(dir.join("model.gguf")).unwrap().set_len(4 << 30).unwrap();
            },
            "more than 4194304",
        ),
    ]
}

/// Complete GGUF files with invalid contents.
fn gguf_headers() -> Vec<Case> {
    let edit = |what, change: fn(&mut GgufWriter), expected| {
        let spoil = move |dir: &Path| {
            let mut writer = good_gguf();
            change(&mut writer);
            write_gguf(dir, &writer.to_bytes());
        };
        case(what, spoil, expected)
    };
    vec![
        edit("an old version", |writer| writer.version = 1, "version 1"),
        edit("alignment 0", |writer| writer.u32("general.alignment", 0), "`general.alignment`"),
        edit("a key twice", |writer| writer.u32("general.architecture", 0), "twice"),
        edit("a list of all the strings there can be", |writer| list(writer, 8, u64::MAX), "`k`"),
        edit("a list of four million strings", |writer| list(writer, 8, 1 << 22), "ends within the list `k`"),
        edit("a list of all the numbers there can be", |writer| list(writer, 10, u64::MAX / 8), "ends within the list `k`"),
        edit("a list of lists", |writer| list(writer, 9, 1), "list of lists"),
        edit("a tensor twice", |writer| writer.tensors.push(writer.tensors[0].clone()), "twice"),
        edit("a tensor beyond the file", |writer| first(writer).dimensions = vec![32, 1 << 30], "of which there are"),
        edit("a tensor beyond 64 bits", |writer| first(writer).dimensions = vec![1 << 40, 1 << 40], "beyond 64 bits"),
        edit("an offset past the end", |writer| first(writer).offset = Some(1 << 40), "of which there are"),
        edit("an offset between", |writer| first(writer).offset = Some(7), "alignment"),
        edit("a type that is not read", |writer| first(writer).kind = 16, "IQ2_XXS"),
        edit("a type of its own", |writer| first(writer).kind = 1000, "type 1000"),
        edit("a missing tensor", |writer| writer.remove("output_norm.weight"), "`output_norm.weight`"),
        edit("layers beyond the file", |writer| number(writer, "qwen2.block_count", 4096), "`blk.2."),
        edit("a width beyond the file", |writer| number(writer, "qwen2.embedding_length", 1 << 20), "the metadata makes it"),
        edit("a form without a key", |writer| writer.remove("qwen2.context_length"), "`qwen2.context_length`"),
        edit(
            "another architecture",
            |writer| {
                writer.remove("general.architecture");
                writer.string("general.architecture", "rwkv7")
            },
            "`rwkv7`",
        ),
    ]
}

/// The golden checkpoint as a GGUF file.
fn good_gguf() -> GgufWriter {
    GgufWriter::of_checkpoint(&golden(), &|_, _, values| {
        (TensorType::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    })
}

fn write_gguf(dir: &Path, bytes: &[u8]) {
    fs::remove_file(dir.join("model.safetensors")).unwrap();
    fs::write(dir.join("model.gguf"), bytes).unwrap();
}

fn list(writer: &mut GgufWriter, kind: u32, n: u64) {
    writer.raw("k", 9, [&kind.to_le_bytes()[..], &n.to_le_bytes()].concat());
}

fn first(writer: &mut GgufWriter) -> &mut WrittenTensor {
    &mut writer.tensors[0]
}

fn number(writer: &mut GgufWriter, key: &str, value: u32) {
    writer.remove(key);
    writer.u32(key, value);
}
