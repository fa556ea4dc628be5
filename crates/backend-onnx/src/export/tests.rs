//! What cannot be brought about from outside: a disk without room.

use std::path::Path;

use tandem_core::files::ModelFiles;

use super::*;

#[test]
fn too_small_a_disk_is_said_before_anything_is_written() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/qwen3");
    let files = ModelFiles::discover(&golden, "qwen3").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = ExportOptions {
        directory: dir.path().join("made/for/it"),
        dtype: DType::F32,
        head_dtype: None,
        replace: false,
        progress: Progress::default(),
        cancel: CancelToken::new(),
    };
    let error = export_where(&files, &options, &|_| Ok(10_000)).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("made/for/it") && message.contains("there is not enough room: "), "{message}");
    assert!(message.ends_with("are needed, and 10 kB are free"), "{message}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let exported = export_where(&files, &options, &|_| Ok(10_000_000)).unwrap();
    assert!(exported.graph.is_file());
}
