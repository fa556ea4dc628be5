//! What is chosen of a repository, from the names of its files.

use super::*;

const GGUFS: [&str; 9] = [
    "README.md",
    "Model-0.6B-BF16.gguf",
    "Model-0.6B-Q4_0.gguf",
    "Model-0.6B-Q4_K_M.gguf",
    "Model-0.6B-Q8_0.gguf",
    "Model-0.6B.Q6_K.gguf",
    "Q2_K/Model-0.6B-Q2_K-00001-of-00002.gguf",
    "imatrix.gguf",
    "mmproj-F16.gguf",
];

fn read(name: &str) -> Result<Vec<u8>> {
    Ok(match name {
        INDEX => {
            br#"{"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}}"#.to_vec()
        }
        GENAI_CONFIG => br#"{"model": {"decoder": {"filename": "model.onnx"}}}"#.to_vec(),
        "modules.json" => {
            br#"[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "3_Normalize"}, {"path": "../4"}, 5]"#
                .to_vec()
        }
        other => panic!("{other} is read"),
    })
}

fn listing<'l>(variant: Option<&'l str>, files: &'l [&'l str]) -> Listing<'l> {
    Listing { name: "owner/name", files, variant, read: &read }
}

#[track_caller]
fn check(chosen: Result<Vec<String>>, expected: std::result::Result<&str, &str>) {
    let chosen = chosen.map(|files| files.join(" ")).map_err(|error| error.to_string());
    match expected {
        Ok(names) => assert_eq!(chosen.unwrap(), names),
        Err(part) => assert!(chosen.as_ref().unwrap_err().contains(part), "{chosen:?}"),
    }
}

#[test]
fn the_dtype_chooses_the_gguf_file() {
    let of = |dtype, files: &[&str], expected| check(listing(None, files).gguf(dtype), expected);
    of(Some(DType::Int4), &GGUFS, Ok("Model-0.6B-Q4_K_M.gguf"));
    of(Some(DType::Int8), &GGUFS, Ok("Model-0.6B-Q8_0.gguf"));
    of(Some(DType::F32), &GGUFS, Ok("Model-0.6B-BF16.gguf"));
    of(Some(DType::F16), &GGUFS, Err("it has 5 GGUF files, and none of them is stored as f16: Model-0.6B-BF16.gguf, "));
    of(Some(DType::Int4), &["m.q4_0.gguf", "m.q8_0.gguf"], Ok("m.q4_0.gguf"));
    of(None, &GGUFS, Err("it is not said which of them is meant: "));
    of(None, &["only.gguf", "imatrix.gguf", "config.json", "tokenizer.json"], Ok("tokenizer.json only.gguf"));
    of(None, &["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], Err("are parts of a model"));
}

#[test]
fn the_reference_names_the_gguf_file() {
    let of = |variant, files: &[&str], expected| check(listing(Some(variant), files).gguf(Some(DType::Int8)), expected);
    of("Q4_0", &GGUFS, Ok("Model-0.6B-Q4_0.gguf"));
    of("q6_k", &GGUFS, Ok("Model-0.6B.Q6_K.gguf"));
    of("Model-0.6B-Q4_0.gguf", &GGUFS, Ok("Model-0.6B-Q4_0.gguf"));
    of("Model-0.6B-Q4_0", &GGUFS, Ok("Model-0.6B-Q4_0.gguf"));
    of("Q5_K_M", &GGUFS, Err("none of them is `Q5_K_M`: "));
    of("Q4_0", &["a/m-Q4_0.gguf", "b/m-Q4_0.gguf"], Err("more than one of them is `Q4_0`: "));
}

#[test]
fn a_gguf_file_is_meant_when_named_or_alone() {
    let of = |variant, files: &[&str]| listing(variant, files).is_gguf().map_err(|error| error.to_string());
    assert_eq!(of(None, &["m.gguf"]), Ok(true));
    assert_eq!(of(None, &["m.gguf", "model.safetensors"]), Ok(false));
    assert_eq!(of(Some("m"), &["m.gguf", "model.safetensors"]), Ok(true));
    assert!(of(Some("q4"), &["model.safetensors"]).unwrap_err().contains("`q4` of the repository `owner/name`"));
}

#[test]
fn small_files_are_those_of_the_modules_too() {
    let files = [
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "2_Dense/pytorch_model.bin",
        "9_Dense/config.json",
        "config.json",
        "modules.json",
        "sentence_roberta_config.json",
    ];
    let expected = "config.json modules.json sentence_roberta_config.json 1_Pooling/config.json 2_Dense/config.json \
                    2_Dense/model.safetensors";
    check(listing(None, &files).small(), Ok(expected));
}

#[test]
fn a_checkpoint_is_one_file_or_the_shards_of_its_index() {
    let of = |files: &[&str], expected| check(listing(None, files).checkpoint(), expected);
    of(&[SINGLE, INDEX], Ok(SINGLE));
    of(
        &["model-3.safetensors", "model-2.safetensors", "model-1.safetensors", INDEX],
        Ok("model.safetensors.index.json model-1.safetensors model-2.safetensors"),
    );
    of(&[INDEX, "model-1.safetensors"], Err("names `model-2.safetensors`, which the repository does not hold"));
    of(&["model.onnx"], Ok(""));
}

#[test]
fn weights_are_a_gguf_file_or_a_checkpoint() {
    let of =
        |files: &[&str], expected| check(listing(None, &[files, &["config.json", "README.md"]].concat()).weights(None), expected);
    of(&[SINGLE, "pytorch_model.bin", "model.q4.gguf", "onnx/model.onnx"], Ok("config.json model.safetensors"));
    of(&["model.q4.gguf"], Ok("model.q4.gguf"));
    of(&["onnx/model.onnx"], Err("it has ONNX graphs and no checkpoint"));
    of(&["pytorch_model.bin"], Err("pickle files are never opened"));
    of(&[], Err("neither safetensors nor ONNX graphs"));
    check(listing(None, &[SINGLE]).weights(None), Err("holds neither `config.json` nor `genai_config.json`"));
}

#[test]
fn names_are_enough_to_choose_a_graph() {
    let files = ["config.json", "onnx/model_q4.onnx", "onnx/model.onnx", "onnx/old/model_int8.onnx", SINGLE];
    let model = listing(None, &files).model().unwrap();
    let chosen = |dtype| model.graph_for(dtype).map(|graph| graph.file.name().into_owned()).ok();
    assert_eq!(chosen(Some(DType::Int4)).as_deref(), Some("onnx/model_q4.onnx"));
    assert_eq!(chosen(None).as_deref(), Some("onnx/model.onnx"));
    assert_eq!(chosen(Some(DType::Int8)), None);
    assert_eq!((model.weights.len(), model.tokenizer), (1, None));
    assert!(listing(None, &["model.onnx"]).model().is_err());
}

#[test]
fn genai_config_names_the_graph() {
    let files = ["config.json", GENAI_CONFIG, "other.onnx", "model.onnx", "model.onnx.data", "model.onnx_data_1"];
    let model = listing(None, &files).model().unwrap();
    assert_eq!(model.graphs.len(), 1);
    check(Ok(listing(None, &files).with_data(&model.graphs[0])), Ok("model.onnx model.onnx.data model.onnx_data_1"));
    check(
        listing(None, &["config.json", GENAI_CONFIG]).model().map(|_| Vec::new()),
        Err("names `model.onnx`, which the repository does not hold"),
    );
}
