//! One call of the engine.
//!
//! The safe `Session::run` allocates every output anew, so a KV cache could not be appended to in place, and `IoBinding` ignores
//! LoRA adapters without a word. The C function takes the same value as input and output, which is what an in-place cache is.

use std::ffi::{CString, c_char};
use std::ptr::{self, NonNull};

use ort::AsPointer;
use ort::session::{NoSelectedOutputs, RunOptions, Session};
use ort::value::DynValue;

/// An input or output value of the engine, by pointer.
pub(crate) type RawValue = *mut ort::sys::OrtValue;

/// Names as the engine takes them. The pointers stay valid because the strings' heap memory does not move.
pub(crate) struct Names {
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

// SAFETY: the pointers point into strings that this struct owns and never changes.
#[expect(unsafe_code, reason = "raw pointers into owned, immutable strings")]
unsafe impl Send for Names {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "raw pointers into owned, immutable strings")]
unsafe impl Sync for Names {}

impl Names {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).collect();
        Self { _strings: strings, pointers }
    }
}

/// Runs the graph with one value for each name.
///
/// An output that is null on entry is allocated by the engine and must be taken with [`take`]; one that is not null is written
/// in place. On an error no output is left that was null on entry.
///
/// # Safety
/// Every value that is not null is alive and stays so during the call, no other call uses one that is written, and `session` is not
/// run by another thread unless its providers allow that.
#[expect(unsafe_code, reason = "the only way to give one value as input and output of a run")]
pub(crate) unsafe fn run(
    session: &Session,
    options: &RunOptions<NoSelectedOutputs>,
    (input_names, inputs): (&Names, &[RawValue]),
    (output_names, outputs): (&Names, &mut [RawValue]),
) -> ort::Result<()> {
    assert_eq!(input_names.pointers.len(), inputs.len(), "one value for each input");
    assert_eq!(output_names.pointers.len(), outputs.len(), "one place for each output");
    // SAFETY: names and values have the same lengths; the rest is the caller's promise. `Run` does not write through the session.
    unsafe {
        let status = (ort::api().Run)(
            session.ptr().cast_mut(),
            options.ptr(),
            input_names.pointers.as_ptr(),
            inputs.as_ptr().cast(),
            inputs.len(),
            output_names.pointers.as_ptr(),
            outputs.len(),
            outputs.as_mut_ptr(),
        );
        ort::Error::result_from_status(status)
    }
}

/// Takes a value that [`run`] allocated; the place is null afterwards.
pub(crate) fn take(session: &Session, place: &mut RawValue) -> Option<DynValue> {
    let value = NonNull::new(std::mem::replace(place, ptr::null_mut()))?;
    // SAFETY: the engine allocated the value for us, and the place that held it is cleared, so it has one owner.
    #[expect(unsafe_code, reason = "gives a value of the engine an owner")]
    Some(unsafe { DynValue::from_ptr(value, Some(session.allocator())) })
}
