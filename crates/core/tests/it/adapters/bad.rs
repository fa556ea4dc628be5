//! Damaged, hostile and contradicting adapters: errors that name the file and what is wrong in it.

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tandem_core::adapter::{Adapter, AdapterFiles, AdapterFormat};
use tandem_core::conformance::GgufWriter;
use tandem_core::files::ModelFile;
use tandem_core::gguf::TensorType;
use tandem_core::{Error, Result};

use super::Golden;

const Q: &str = "base_model.model.model.layers.0.self_attn.q_proj";

/// A tensor of values 0, 1, 2, ...
type Tensor<'t> = (&'t str, &'t [usize]);

fn files(format: AdapterFormat) -> AdapterFiles {
    let file = |name| ModelFile::Embedded { name, bytes: &[] };
    AdapterFiles { name: "mine".into(), format, weights: file("weights"), config: Some(file("config")) }
}

fn safetensors(tensors: &[Tensor<'_>]) -> Vec<u8> {
    let count = |shape: &[usize]| shape.iter().product::<usize>();
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, shape)| (0..count(shape)).flat_map(|i| (i as f32).to_le_bytes()).collect()).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape), bytes)| (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

fn peft(tensors: &[Tensor<'_>], config: &Value) -> Result<Adapter> {
    let mut all = json!({ "peft_type": "LORA", "r": 4, "lora_alpha": 8 });
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    files(AdapterFormat::Peft).parse(safetensors(tensors).into(), all.to_string().as_bytes(), None)
}

fn assert_names<T>(result: Result<T>, expected: &[&str]) {
    let error = result.map(|_| ()).unwrap_err().to_string();
    assert!(expected.iter().all(|part| error.contains(part)), "{error} lacks one of {expected:?}");
}

#[test]
fn peft_tensors_that_do_not_make_an_adapter() {
    let (a, b) = (format!("{Q}.lora_A.weight"), format!("{Q}.lora_B.weight"));
    let good: [Tensor<'_>; 2] = [(&a, &[4, 8]), (&b, &[6, 4])];
    assert_eq!(peft(&good, &json!({})).unwrap().factors()[0].scale, 2.0);
    let check = |tensors: &[Tensor<'_>], expected: &[&str]| assert_names(peft(tensors, &json!({})), expected);
    check(&good[..1], &["weights", "model.layers.0.self_attn.q_proj", "factor B", "missing"]);
    check(&good[1..], &["weights", "factor A", "missing"]);
    check(&[(&a, &[5, 8]), (&b, &[6, 5])], &["q_proj", "rank 5", "`config` says 4"]);
    check(&[(&a, &[4, 8]), (&b, &[6, 3])], &["one rank", "4 x 8", "6 x 3"]);
    // Square, and transposed: A is then [inputs, rank] and B [rank, outputs].
    check(&[(&a, &[8, 4]), (&b, &[4, 8])], &["q_proj", "rank 8", "says 4"]);
    check(&[(&a, &[4, 8, 1]), (&b, &[6, 4])], &[&a, "[4, 8, 1]"]);
    check(&[(&a, &[0, 8]), (&b, &[6, 0])], &[&a, "empty"]);
    check(&[(&a, &[20_000, 1]), (&b, &[1, 20_000])], &["rank 20000"]);
    check(&[], &["weights", "has no factors"]);
    let odd = ["one", "two", "three", "four", "five", "six", "seven"].map(|name| format!("{Q}.{name}"));
    let tensors: Vec<Tensor<'_>> = odd.iter().map(|name| (name.as_str(), &[1_usize][..])).chain(good).collect();
    check(&tensors, &["q_proj.five`", "q_proj.four`", "and 2 others", "weights"]);
    check(&[("model.layers.0.self_attn.q_proj.lora_A.weight", &[4, 8])], &["`model.layers.0.self_attn.q_proj.lora_A.weight`"]);
    let (other_a, norm) = (format!("{Q}.lora_A.other.weight"), "base_model.model.model.norm.weight");
    check(&[good[0], good[1], (&other_a, &[4, 8])], &["twice"]);
    check(&[good[0], good[1], (norm, &[8])], &[norm]);
    assert_eq!(peft(&[good[0], good[1], (norm, &[8])], &json!({ "modules_to_save": ["norm"] })).unwrap().replaced().len(), 1);
    let copy = format!("{Q}.base_layer.weight");
    assert!(peft(&[good[0], good[1], (&copy, &[6, 8])], &json!({})).unwrap().replaced().is_empty());
    let magnitude = format!("{Q}.lora_magnitude_vector");
    let dora = [good[0], good[1], (magnitude.as_str(), &[6_usize][..])];
    assert!(peft(&dora, &json!({ "use_dora": true })).is_ok());
    assert_names(peft(&dora, &json!({})), &["q_proj", "use_dora"]);
    assert_names(peft(&good, &json!({ "use_dora": true })), &["q_proj", "magnitudes", "missing"]);
    assert_names(peft(&[dora[0], dora[1], (&magnitude, &[5])], &json!({ "use_dora": true })), &["5 magnitudes for 6 outputs"]);
    assert_names(peft(&[good[0], good[1], (&format!("{Q}.lora_B.bias"), &[6])], &json!({})), &["`lora_bias`", "config"]);
}

#[test]
fn values_that_are_not_finite_are_named() {
    let (a, b) = (format!("{Q}.lora_A.weight"), format!("{Q}.lora_B.weight"));
    let config = br#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8}"#;
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut bytes = safetensors(&[(&a, &[4, 8]), (&b, &[6, 4])]);
        let end = bytes.len();
        bytes[end - 8..end - 4].copy_from_slice(&value.to_le_bytes());
        assert_names(files(AdapterFormat::Peft).parse(bytes.into(), config, None), &["weights", &b, "value 22", shown]);
    }
    assert_names(
        files(AdapterFormat::Peft).parse(
            safetensors(&[(&a, &[4, 8]), (&b, &[6, 4])]).into(),
            b"{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 1e300}",
            None,
        ),
        &["config", "lora_alpha"],
    );
}

#[test]
fn mlx_tensors_and_settings_that_do_not_make_an_adapter() {
    const UP: &str = "model.layers.1.mlp.up_proj";
    let (a, b) = (format!("{UP}.lora_a"), format!("{UP}.lora_b"));
    let good: [Tensor<'_>; 2] = [(&a, &[8, 4]), (&b, &[4, 6])];
    let read = |tensors: &[Tensor<'_>], config: &Value| {
        files(AdapterFormat::Mlx).parse(safetensors(tensors).into(), config.to_string().as_bytes(), None)
    };
    let config = |keys: Value| json!({ "fine_tune_type": "lora", "num_layers": 4, "lora_parameters": { "rank": 4, "scale": 20.0, "keys": keys } });
    let adapter = read(&good, &config(Value::Null)).unwrap();
    let factors = &adapter.factors()[0];
    assert_eq!((factors.rank, factors.inputs(), factors.outputs(), factors.scale), (4, 8, 6, 20.0));
    assert_eq!((factors.a[..3].to_vec(), factors.b[..3].to_vec()), (vec![0.0, 4.0, 8.0], vec![0.0, 6.0, 12.0]));
    assert!(read(&good, &config(json!(["mlp.up_proj"]))).is_ok());
    assert_names(read(&good, &config(json!(["mlp.down_proj"]))), &[UP, "lora_parameters.keys", "leaves this module out"]);
    // As PEFT has them, which is the transpose.
    assert_names(read(&[(&a, &[4, 8]), (&b, &[8, 4])], &config(Value::Null)), &[UP, "rank 8", "says 4"]);
    assert_names(read(&[(&a, &[4, 8]), (&b, &[6, 4])], &config(Value::Null)), &[UP, "one rank"]);
    assert_names(read(&[good[0], good[1], ("model.embed_tokens.lora_a", &[8, 4])], &config(Value::Null)), &["embed_tokens"]);
    assert_names(read(&good, &json!({ "fine_tune_type": "full" })), &["`full`", "config"]);
    assert_names(read(&good, &json!({ "fine_tune_type": "lora" })), &["`lora_parameters`", "missing"]);
    assert_names(read(&good, &json!({ "lora_parameters": { "rank": 4 } })), &["`lora_parameters.scale`", "missing"]);
    assert_names(read(&good, &json!({ "lora_parameters": { "rank": 1_000_000, "scale": 1.0 } })), &["`lora_parameters.rank`"]);
    assert_names(read(&[good[0], good[1], (&format!("{UP}.m"), &[6])], &config(Value::Null)), &[UP, "does not say `dora`"]);
}

#[test]
fn gguf_adapters_that_cannot_be_read() {
    let read = |edit: &dyn Fn(&mut GgufWriter)| {
        let mut writer = GgufWriter::default();
        edit(&mut writer);
        files(AdapterFormat::Gguf).parse(writer.to_bytes().into(), &[], None)
    };
    let head = |writer: &mut GgufWriter, architecture: &str, kind: &str, adapter: &str| {
        writer.string("general.architecture", architecture);
        writer.string("general.type", kind);
        writer.string("adapter.type", adapter);
        writer.f32("adapter.lora.alpha", 8.0);
    };
    let factor = |writer: &mut GgufWriter, name: &str, shape: &[usize], kind: TensorType| {
        let bytes = shape.iter().product::<usize>() / kind.block_values() * kind.block_bytes();
        writer.tensor(name, shape, kind, vec![0; bytes]);
    };
    let good = |writer: &mut GgufWriter| {
        head(writer, "qwen2", "adapter", "lora");
        factor(writer, "blk.0.attn_q.weight.lora_a", &[4, 32], TensorType::F32);
        factor(writer, "blk.0.attn_q.weight.lora_b", &[6, 4], TensorType::F16);
    };
    assert_eq!(read(&good).unwrap().factors()[0].scale, 2.0);
    assert_names(read(&|w| head(w, "qwen2", "model", "lora")), &["weights", "`model`"]);
    assert_names(read(&|w| head(w, "qwen2", "adapter", "control_vector")), &["control_vector"]);
    assert_names(read(&|w| head(w, "phi3", "adapter", "lora")), &["`phi3`"]);
    assert_names(read(&|w| head(w, "qwen2", "adapter", "lora")), &["has no factors"]);
    let with = |name: &'static str, kind| {
        move |w: &mut GgufWriter| {
            good(w);
            factor(w, name, &[4, 32], kind);
        }
    };
    assert_names(read(&with("blk.0.attn_norm.weight", TensorType::F32)), &["`blk.0.attn_norm.weight`"]);
    assert_names(read(&with("token_embd.weight.lora_a", TensorType::F32)), &["`token_embd.weight.lora_a`"]);
    for kind in TensorType::ALL {
        // Rows of 32 values are not blocks of 256.
        if kind.block_values() > 32 {
            continue;
        }
        let refused = format!("the type {kind} of `blk.0.attn_k.weight.lora_a`");
        let expected = match kind {
            TensorType::F32 | TensorType::F16 | TensorType::Bf16 | TensorType::Q8_0 => ["k_proj", "factor B"],
            _ => [refused.as_str(), "factors of F32, F16, BF16, Q8_0 are read"],
        };
        assert_names(read(&with("blk.0.attn_k.weight.lora_a", kind)), &expected);
    }
}

/// Both factors of rank 32 in Q8_0: value `i` is `i % 7 - 3` times the block's scale.
fn eight_bits(scale: f32, rank: usize, cut: usize) -> Result<Adapter> {
    let mut writer = GgufWriter::default();
    for (key, value) in [("general.architecture", "qwen2"), ("general.type", "adapter"), ("adapter.type", "lora")] {
        writer.string(key, value);
    }
    writer.f32("adapter.lora.alpha", 32.0);
    for (name, shape) in [("lora_a", [rank, 64]), ("lora_b", [96, rank])] {
        let n = shape[0] * shape[1];
        let block = |first: usize| {
            let numbers = (first..first + 32).map(|i| ((i % 7) as i8 - 3).cast_unsigned());
            half::f16::from_f32(scale).to_le_bytes().into_iter().chain(numbers).collect::<Vec<u8>>()
        };
        let bytes = (0..n).step_by(32).flat_map(block).collect();
        writer.tensor(&format!("blk.0.attn_q.weight.{name}"), &shape, TensorType::Q8_0, bytes);
    }
    let mut bytes = writer.to_bytes();
    bytes.truncate(bytes.len() - cut);
    files(AdapterFormat::Gguf).parse(bytes.into(), &[], None)
}

#[test]
fn factors_in_blocks_of_eight_bits() {
    let adapter = eight_bits(0.5, 32, 0).unwrap();
    let factors = &adapter.factors()[0];
    assert_eq!((factors.rank, factors.inputs(), factors.outputs(), factors.scale), (32, 64, 96, 1.0));
    let expected = |n: usize| (0..n).map(|i| ((i % 7) as f32 - 3.0) * 0.5).collect::<Vec<_>>();
    assert_eq!((&factors.a, &factors.b), (&expected(32 * 64), &expected(96 * 32)));
    // The file ends in the last tensor, or in what aligns it.
    assert_names(eight_bits(0.5, 32, 40), &["weights", "blk.0.attn_q.weight.lora_b", "lies from byte"]);
    assert_names(
        eight_bits(0.5, 8, 0),
        &["weights", "blk.0.attn_q.weight.lora_b", "rows of 8 values are not whole blocks of 32"],
    );
    for (scale, shown) in [(f32::INFINITY, "inf"), (f32::NAN, "NaN")] {
        assert_names(eight_bits(scale, 32, 0), &["weights", "blk.0.attn_q.weight.lora_a", "value 0", shown]);
    }
}

#[test]
fn every_truncation_and_flipped_byte_is_an_error_or_an_adapter() {
    for (name, file, format) in [
        ("qwen2-rslora", "adapter_model.safetensors", AdapterFormat::Peft),
        ("qwen3-layers", "mlx/adapters.safetensors", AdapterFormat::Mlx),
        ("mistral-regex", "onnx/adapter.onnx_adapter", AdapterFormat::OnnxAdapter),
        ("llama3-all-linear", "gguf/adapter.gguf", AdapterFormat::Gguf),
        ("llama3-all-linear", "gguf-q8_0/adapter.gguf", AdapterFormat::Gguf),
    ] {
        let golden = Golden::named(name);
        let path = golden.directory.join(file);
        let bytes = std::fs::read(&path).unwrap();
        let config = std::fs::read(path.with_file_name("adapter_config.json")).unwrap_or_default();
        let (files, base) = (files(format), golden.config());
        let read = |bytes: Vec<u8>| files.parse(bytes.into(), &config, Some(&base));
        let whole = read(bytes.clone()).unwrap();
        for n in (0..bytes.len()).step_by(bytes.len() / 300).chain(bytes.len() - 8..bytes.len()) {
            let error = match read(bytes[..n].to_vec()) {
                // Formats with alignment may end in padding.
                Ok(adapter) if bytes.len() - n < 32 && adapter.factors() == whole.factors() => continue,
                result => result.map(|_| ()).unwrap_err(),
            };
            assert!(error.to_string().contains("`weights`"), "{name} cut to {n}: {error}");
            assert!(matches!(error, Error::BadFile { .. } | Error::BadField { .. } | Error::Unsupported { .. }));
        }
        for n in (0..bytes.len().min(6000)).step_by(7) {
            let mut damaged = bytes.clone();
            damaged[n] ^= 1 << (n % 8);
            let _ = read(damaged);
        }
    }
}

#[test]
fn settings_cut_short_name_their_file() {
    let golden = Golden::named("qwen2-rslora");
    let weights = std::fs::read(golden.directory.join("adapter_model.safetensors")).unwrap();
    let config = std::fs::read(golden.directory.join("adapter_config.json")).unwrap();
    for n in (0..config.len() - 3).step_by(40) {
        let error =
            files(AdapterFormat::Peft).parse(weights.clone().into(), &config[..n], None).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("`config`"), "{error}");
    }
}
