//! Directories as published tools write them, with nothing added. `python -m onnxruntime_genai.models.builder` writes no `config.json`, only
//! `genai_config.json`, the graph and the tokenizer; optimum puts the graph beside the files of the checkpoint.

use std::fs;
use std::path::Path;

use tandem_backend_onnx::{OnnxBackend, library};
use tandem_core::config::GenerationConfig;
use tandem_core::conformance::{self, Fixture, Golden, with_fixture};
use tandem_core::files::ModelFiles;
use tandem_core::tokenizer::Tokenizer;
use tandem_core::{DType, LoadOptions};
use tempfile::TempDir;

use super::export::checkpoints::{GOLDENS, golden};

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A copy of what the builder wrote for the golden `name`, apart from the golden's own files.
fn genai_directory(name: &str, export: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_files(&golden(name).join("onnx").join(export), dir.path());
    assert!(!dir.path().join("config.json").exists() && dir.path().join("tokenizer.json").exists());
    dir
}

fn check(dir: &TempDir, name: &str, export: &str, dtype: DType, case: impl Fn(&Fixture)) {
    let fixture = || {
        library::find(None).map_err(|error| conformance::describe(&error))?;
        let golden = Golden::read(&golden(name), export);
        Ok(Fixture {
            backend: Box::new(OnnxBackend::new(None)),
            files: ModelFiles::discover(dir.path(), name).unwrap(),
            options: LoadOptions::default(),
            tolerance: 2.0 * golden.tolerance,
            golden: Some(golden),
        })
    };
    with_fixture(fixture, |fixture| {
        assert_eq!(fixture.load().info().dtype, dtype, "{name} {export}");
        conformance::logits_match_golden(fixture);
        case(fixture);
    });
}

#[test]
fn genai_f32_directory_gives_the_tokens_of_transformers() {
    for name in GOLDENS {
        check(&genai_directory(name, "genai_f32"), name, "genai_f32", DType::F32, conformance::greedy_tokens_match_golden);
    }
}

#[test]
fn genai_int4_directory_is_within_tolerance() {
    for name in GOLDENS {
        check(&genai_directory(name, "genai_int4"), name, "genai_int4", DType::Int4, conformance::prefill_equals_stepwise);
    }
}

#[test]
fn genai_tokenizer_and_end_tokens_are_those_of_the_checkpoint() {
    for name in GOLDENS {
        let dir = genai_directory(name, "genai_f32");
        let [written, published] = [dir.path(), &golden(name)].map(|path| ModelFiles::discover(path, name).unwrap());
        let ids = |files: &ModelFiles| {
            let file = files.tokenizer.as_ref().unwrap();
            let tokenizer = Tokenizer::from_json(&file.read(1 << 20).unwrap(), &file.name()).unwrap();
            tokenizer.encode_with_template("The 2 dogs run, and sie läuft \u{1f600}.").unwrap()
        };
        assert_eq!(ids(&written), ids(&published), "{name}");
        let end_tokens =
            |files: &ModelFiles| GenerationConfig::from_file(files.generation_config.as_ref().unwrap()).unwrap().eos_token_ids;
        assert_eq!(end_tokens(&written), end_tokens(&published), "{name}");
    }
}

#[test]
fn optimum_directory_gives_the_tokens_of_transformers() {
    for name in GOLDENS {
        let dir = tempfile::tempdir().unwrap();
        copy_files(&golden(name), dir.path());
        fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        copy_files(&golden(name).join("onnx/optimum_f32"), dir.path());
        check(&dir, name, "optimum_f32", DType::F32, conformance::greedy_tokens_match_golden);
    }
}
