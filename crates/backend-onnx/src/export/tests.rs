//! Exports to a disk without space, which integration tests cannot simulate.

use std::path::Path;

use tandem_core::files::ModelFiles;
use tandem_core::{DType, GraphFormat, GraphOutputs};

use super::*;

#[test]
fn too_little_space_is_an_error_before_anything_is_written() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/qwen3");
    let files = ModelFiles::discover(&golden, "qwen3").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = ExportOptions::new(dir.path().join("made/for/it"), DType::F32);
    let error = export_where(&files, &options, &|_| Ok(10_000)).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("made/for/it") && message.contains("there is not enough room: "), "{message}");
    assert!(message.ends_with("are needed, 462 kB more than are free"), "{message}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let exported = export_where(&files, &options, &|_| Ok(10_000_000)).unwrap();
    assert!(exported.graph.is_file());
}

#[test]
fn export_size_does_not_exceed_the_estimate() {
    let dtypes = [DType::F32, DType::F16, DType::Int8, DType::Int4];
    let mut forms: Vec<_> = dtypes.map(GraphFormat::of).into();
    let int4 = GraphFormat::of(DType::Int4);
    forms.extend([16, 64, 128].map(|block_size| GraphFormat { block_size, zero_points: true, ..int4 }));
    forms.extend([GraphOutputs::HiddenStates, GraphOutputs::Both].map(|outputs| GraphFormat { outputs, ..int4 }));
    forms.push(GraphFormat { head_dtype: DType::Int8, adapter_inputs: true, ..int4 });
    for name in ["qwen2-tied", "qwen2-untied"] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name);
        let files = ModelFiles::discover(&golden, name).unwrap();
        for form in &forms {
            let dir = tempfile::tempdir().unwrap();
            let options =
                ExportOptions { format: *form, replace: true, ..ExportOptions::new(dir.path().join("graph"), form.dtype) };
            let exported = export(&files, &options).unwrap();
            let made = exported.files.iter().filter(|(name, _)| name != genai::FILE).map(|(_, n_bytes)| n_bytes).sum::<u64>();
            assert!(export_where(&files, &options, &|_| Ok(made - 1)).is_err(), "{name} {form:?}: {made} bytes");
            let has_genai_config = exported.files.iter().any(|(name, _)| name == genai::FILE);
            assert_eq!(has_genai_config, form.outputs != GraphOutputs::HiddenStates);
        }
    }
}
