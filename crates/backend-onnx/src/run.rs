//! One call of the engine.
//!
//! The safe `Session::run` allocates every output anew, so a KV cache could not be appended to in place, and `IoBinding` ignores
//! LoRA adapters without a word. The C function takes the same value as input and output, which is what an in-place cache is.

use std::ffi::{CString, c_char};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use ort::AsPointer;
use ort::session::{NoSelectedOutputs, RunOptions, Session};
use ort::value::DynValue;

use crate::engine::Engine;
use crate::operators::{Batch, with_batch};

/// An input or output value of the engine, by pointer.
pub(crate) type RawValue = *mut ort::sys::OrtValue;

/// Names as the engine expects them. The pointers stay valid because the heap memory of the strings does not move.
pub(crate) struct Names {
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

// SAFETY: the pointers point into strings that this struct owns and never modifies, on whichever thread it is.
#[expect(unsafe_code, reason = "raw pointers into owned, immutable strings")]
unsafe impl Send for Names {}
// SAFETY: shared access only reads the pointers and the strings, which nothing modifies.
#[expect(unsafe_code, reason = "raw pointers into owned, immutable strings")]
unsafe impl Sync for Names {}

impl Names {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).collect();
        Self { _strings: strings, pointers }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.pointers.len()
    }
}

/// Runs the graph with one value for each name, for the sequences of `batch` where these are several.
///
/// An output that is null on entry is allocated by the engine and must be taken with [`take`]; any other is written in place. After an
/// error the outputs that were null are null again.
///
/// # Safety
/// Every value that is not null stays alive during the call, no other call uses one that is written, and no other thread runs `engine`
/// unless its providers allow that. The same holds for the caches of `batch`, no two of which are the same memory.
#[expect(unsafe_code, reason = "the only way to give one value as input and output of a run")]
pub(crate) unsafe fn run(
    engine: &Engine,
    options: &RunOptions<NoSelectedOutputs>,
    batch: Option<&Arc<Batch>>,
    (input_names, inputs): (&Names, &[RawValue]),
    (output_names, outputs): (&Names, &mut [RawValue]),
) -> ort::Result<()> {
    assert_eq!(input_names.pointers.len(), inputs.len(), "one value for each input");
    assert_eq!(output_names.pointers.len(), outputs.len(), "one place for each output");
    #[cfg(test)]
    tests::count_run();
    let mut values = Values { inputs, outputs };
    let mut call = move || {
        // All of it crosses to the other thread.
        let Values { inputs, outputs } = &mut values;
        // SAFETY: names and values have equal lengths; that the values are alive and not shared is the caller's obligation. `Run` does not
        // write through the session pointer.
        unsafe {
            let status = (ort::api().Run)(
                engine.session.ptr().cast_mut(),
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
    };
    match &engine.threads {
        Some(threads) => threads.run(|| with_batch(batch, call)),
        None => call(),
    }
}

/// The values of one run.
struct Values<'v> {
    inputs: &'v [RawValue],
    outputs: &'v mut [RawValue],
}

// SAFETY: the caller of `run` waits while another thread runs the graph with them; values of the engine are bound to no thread.
#[expect(unsafe_code, reason = "pointers that one thread hands to another and waits for")]
unsafe impl Send for Values<'_> {}

/// Takes a value that [`run`] allocated, and leaves null in its place.
pub(crate) fn take(session: &Session, place: &mut RawValue) -> Option<DynValue> {
    let value = NonNull::new(std::mem::replace(place, ptr::null_mut()))?;
    // SAFETY: the engine allocated the value for its caller, and the pointer was cleared, so that this is its only owner.
    #[expect(unsafe_code, reason = "gives a value of the engine an owner")]
    Some(unsafe { DynValue::from_ptr(value, Some(session.allocator())) })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    thread_local! {
        static N_RUNS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn count_run() {
        N_RUNS.set(N_RUNS.get() + 1);
    }

    /// How many runs `of` asks for on this thread.
    pub(crate) fn n_runs(of: impl FnOnce()) -> usize {
        let before = N_RUNS.get();
        of();
        N_RUNS.get() - before
    }
}
