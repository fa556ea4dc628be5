//! Reading, mapping and hashing of a model's files, on disk and embedded.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use tandem_core::config::GenerationConfig;
use tandem_core::files::{ModelFile, ModelFiles};
use tandem_core::{DType, Error};

const LFS_POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";

fn on_disk(dir: &Path, content: &[u8]) -> ModelFile {
    let path = dir.join("file.json");
    fs::write(&path, content).unwrap();
    ModelFile::Path(path)
}

fn embedded(bytes: &'static [u8]) -> ModelFile {
    ModelFile::Embedded { name: "demo/file.json", bytes }
}

/// The same file in both places.
fn both(dir: &Path, content: &'static [u8]) -> [ModelFile; 2] {
    [on_disk(dir, content), embedded(content)]
}

#[track_caller]
fn check_error<T>(result: Result<T, Error>, file: &ModelFile, part: &str) {
    match result {
        Err(error @ Error::BadFile { .. }) => {
            let text = error.to_string();
            assert!(text.contains(&*file.name()) && text.contains(part), "{text}");
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was read"),
    }
}

#[test]
fn content_is_the_same_however_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for content in [&b""[..], b"{\"a\": 1}", &[0xff; 10_000]] {
        for file in both(dir.path(), content) {
            assert_eq!(file.len().unwrap(), content.len() as u64);
            assert_eq!(file.is_empty().unwrap(), content.is_empty());
            assert_eq!(&*file.read(content.len() as u64).unwrap(), content);
            assert_eq!(&*file.map().unwrap(), content);
            assert_eq!(file.file_name(), "file.json");
        }
    }
    assert!(matches!(embedded(b"x").read(1).unwrap(), Cow::Borrowed(_)));
}

#[test]
fn a_limit_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    for file in both(dir.path(), b"12345") {
        assert!(file.read(5).is_ok());
        check_error(file.read(4), &file, "larger than the 4 bytes");
        check_error(file.read_text(0), &file, "larger than the 0 bytes");
        assert_eq!(file.read_text(u64::MAX).unwrap(), "12345");
    }
}

#[test]
fn a_file_of_any_apparent_size_costs_no_more_than_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let file = ModelFile::Path(path);
    check_error(GenerationConfig::from_file(&file), &file, "larger than the 16777216 bytes");
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    for file in both(dir.path(), b"\xff\xfe") {
        check_error(file.read_text(10), &file, "not UTF-8");
    }
    for file in both(dir.path(), LFS_POINTER.as_bytes()) {
        check_error(file.read(1000), &file, "Git LFS pointer");
        check_error(file.map(), &file, "Git LFS pointer");
    }
    let all = |path: &Path, part: &str| {
        let file = ModelFile::Path(path.into());
        check_error(file.len(), &file, part);
        check_error(file.read(10), &file, part);
        check_error(file.map(), &file, part);
        check_error(file.sha256(&mut |_| {}), &file, part);
    };
    all(&dir.path().join("gone"), "is not there");
    all(dir.path(), "is a directory");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("gone", dir.path().join("link")).unwrap();
        all(&dir.path().join("link"), "a link to a file that is not there");
        all(Path::new("/dev/null"), "not a regular file");
    }
}

#[test]
fn hashes_are_those_of_sha256sum() {
    let dir = tempfile::tempdir().unwrap();
    let check = |file: &ModelFile, expected: &str, n_bytes: u64| {
        let mut seen = vec![0];
        assert_eq!(file.sha256(&mut |n| seen.push(n)).unwrap(), expected);
        assert!(seen.is_sorted(), "{seen:?}");
        assert_eq!(seen.last(), Some(&n_bytes));
    };
    for file in both(dir.path(), b"") {
        check(&file, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0);
    }
    for file in both(dir.path(), b"abc") {
        check(&file, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 3);
    }
    // The million `a` of FIPS 180-2, and three times as many, which are more than one block.
    let file = on_disk(dir.path(), &vec![b'a'; 1_000_000]);
    check(&file, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", 1_000_000);
    let file = on_disk(dir.path(), &vec![b'a'; 3_000_000]);
    check(&file, "2a152c894398719c0570f83fac34ac03a0f6e8e474b995c2403aa5434f7b9dd4", 3_000_000);
}

#[test]
fn an_embedded_model() {
    let content: &[(&str, &[u8])] = &[
        ("demo/model-00001-of-00002.safetensors", b"1"),
        ("demo/config.json", b"{}"),
        ("demo/tokenizer.json", b"{}"),
        ("demo/chat_template.jinja", b"{{ messages }}"),
        ("demo/onnx/model_q4.onnx", b"q4"),
        ("demo/onnx/model.onnx", b"f32"),
        ("demo/onnx/decoder_model.onnx", b"old"),
        ("demo/model-00002-of-00002.safetensors", b"2"),
    ];
    let files = ModelFiles::embedded("demo", content).unwrap();
    assert_eq!((files.name.as_str(), &*files.config.name()), ("demo", "demo/config.json"));
    assert!(files.tokenizer.is_some() && files.chat_template.is_some());
    assert!(files.tokenizer_config.is_none() && files.generation_config.is_none());
    let weights: Vec<_> = files.weights.iter().map(|file| file.read(1).unwrap()[0]).collect();
    assert_eq!(weights, *b"12");
    assert_eq!(&*files.graph_for(None).unwrap().file.map().unwrap(), b"f32");
    assert_eq!(&*files.graph_for(Some(DType::Int4)).unwrap().file.map().unwrap(), b"q4");
    assert_eq!((files.graphs.len(), files.skipped.len()), (2, 1));
    assert!(files.config.path().is_none());

    let error = ModelFiles::embedded("demo", &content[2..]).unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
}
