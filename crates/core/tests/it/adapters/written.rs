//! What is written of every golden adapter, and for the check by other programs (`training/goldens/check_adapters.py`) where it is wanted.

use std::path::Path;

use tandem_core::DType;
use tandem_core::adapter::{MergeOptions, ScaledAdapter, write_merged, write_onnx_adapter, write_peft};
use tandem_core::files::ModelFiles;

use super::Golden;

#[test]
fn every_golden_is_written_in_every_form_that_holds_it() {
    let place = tempfile::tempdir().unwrap();
    let out = std::env::var_os("TANDEM_ADAPTERS_OUT");
    let out = out.as_deref().map_or(place.path(), Path::new);
    for golden in Golden::all() {
        let (adapter, directory) = (golden.adapter(), out.join(golden.name()));
        write_peft(&adapter, &directory.join("peft")).unwrap();
        let base = ModelFiles::discover(&golden.base, "base").unwrap();
        let options = MergeOptions { dtype: Some(DType::F32), ..Default::default() };
        write_merged(&base, &[ScaledAdapter::new(golden.adapter())], &directory.join("merged"), &options).unwrap();
        let onnx = write_onnx_adapter(&adapter, &directory.join(format!("{}.onnx_adapter", golden.name())), DType::F32);
        assert_eq!(onnx.is_ok(), !["qwen2-saved", "qwen3-dora"].contains(&golden.name()), "{}", golden.name());
    }
}
