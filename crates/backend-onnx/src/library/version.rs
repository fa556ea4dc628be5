//! The version that a loaded library reports.

use std::ffi::CStr;
use std::path::Path;

use libloading::{Library, Symbol};

/// The version of the library at `path`, such as `1.31.1`; `None` when it does not say.
///
/// The library is in use by this process already, so that this opens the same one once more and runs nothing new.
#[expect(unsafe_code, reason = "ort keeps the version string to itself")]
pub(super) fn version(path: &Path) -> Option<String> {
    // SAFETY: the library was checked and is loaded, so its initialisers have run. `OrtGetApiBase` has this type in every release, and the
    // string is a constant of the library, which this process never unloads.
    unsafe {
        let library = Library::new(path).ok()?;
        let entry: Symbol<'_, unsafe extern "system" fn() -> *const ort::sys::OrtApiBase> = library.get(b"OrtGetApiBase").ok()?;
        let base = entry().as_ref()?;
        let text = (base.GetVersionString)();
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}
