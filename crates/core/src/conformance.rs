//! The suite that defines a backend, and [`FakeBackend`], which shows that it can be passed.
//!
//! A backend's own test names a function that makes a [`Fixture`] and calls the macro once:
//!
//! ```text
//! tandem_core::conformance!(qwen2, || fixture("qwen2-tied"));
//! ```
//!
//! Each case is a test of its own. Cases of optional abilities run where [`Capabilities`](crate::Capabilities) declares them, and
//! where it does not they check that the ability is refused.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a case fails by panicking: this module is the body of tests")]

mod adapters;
mod cases;
mod cases_of_adapters;
mod cases_of_batch;
mod cases_of_golden;
mod cases_of_load;
mod exact_batches;
mod fake;
mod footprints;
mod gguf;
mod golden;
mod hollow;

pub use cases::*;
pub use cases_of_adapters::*;
pub use cases_of_batch::*;
pub use cases_of_golden::*;
pub use cases_of_load::*;
pub use exact_batches::{
    adapter_of_two_modules, batches_have_the_bits_of_each_alone, parts_have_the_bits_of_whole_prompts, session_of, text,
};
pub use fake::FakeBackend;
pub use footprints::{MeasuredPeak, check_footprints, published_shape};
pub use gguf::{GgufWriter, Store, WrittenTensor};
pub use golden::{Golden, GoldenPrompt};
pub use hollow::write_hollow_checkpoint;

use std::sync::Arc;

use crate::backend::{Backend, Capability, Device, LoadOptions, Model};
use crate::files::ModelFiles;

/// The device on which the tests of a backend compute: what the environment variable `TANDEM_TEST_DEVICE` says, as `--device` would, or
/// the processor.
pub fn device_under_test() -> Device {
    std::env::var("TANDEM_TEST_DEVICE")
        .map_or(Device::Cpu, |name| name.parse().unwrap_or_else(|error| panic!("TANDEM_TEST_DEVICE: {error}")))
}

/// A backend with a model to try it on.
pub struct Fixture {
    /// The backend.
    pub backend: Box<dyn Backend>,
    /// The model.
    pub files: ModelFiles,
    /// How to load it.
    pub options: LoadOptions,
    /// How far logits of the same tokens may differ between two ways to compute them, relative to the largest.
    pub tolerance: f32,
    /// What transformers computed from the same weights, with its own tolerance.
    pub golden: Option<Golden>,
}

impl Fixture {
    /// Loads the model where it declares all of `capabilities`; a case of others does not apply to it.
    pub fn load_with(&self, capabilities: &[Capability]) -> Option<Arc<dyn Model>> {
        let model = self.load();
        capabilities.iter().all(|capability| model.info().capabilities.has(*capability)).then_some(model)
    }

    /// Loads the model.
    pub fn load(&self) -> Arc<dyn Model> {
        self.backend
            .load(&self.files, &self.options)
            .unwrap_or_else(|error| panic!("the fixture's model loads: {}", describe(&error)))
    }
}

/// An error with its causes and its hint, for the message of a failed test.
pub fn describe(error: &crate::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!("; caused by: {cause}");
        source = cause.source();
    }
    error.hint().map_or(text.clone(), |hint| format!("{text}; hint: {hint}"))
}

/// Makes one test of each case for the fixture that `$fixture` returns, in a module called `$module`.
///
/// `$fixture` returns `Result<Fixture, String>`; an error is the reason why the suite cannot run here. It is printed, and it fails the
/// test when the environment variable `TANDEM_REQUIRE_ENGINES` is set, as the project's own checks do.
#[macro_export]
macro_rules! conformance {
    ($module:ident, $fixture:expr) => {
        $crate::conformance!(@cases $module, $fixture,
            loaded_as_asked,
            kv_dtype_is_as_asked,
            opened_as_loaded,
            missing_config_names_the_path,
            unusable_device_is_an_error,
            unreachable_device_share_is_an_error,
            undeclared_capability_is_refused,
            prefill_equals_stepwise,
            split_prefill_equals_whole,
            all_logits_equal_those_of_each_prefix,
            no_logits_when_none_are_wanted,
            rewind_equals_fresh,
            rewind_too_far_is_an_error,
            sessions_are_independent,
            sessions_run_at_the_same_time,
            session_outlives_the_model_handle,
            growing_cache_keeps_its_content,
            full_context_leaves_the_cache_unchanged,
            token_outside_the_vocabulary_leaves_the_cache_unchanged,
            no_tokens_is_an_error,
            cancelled_append_leaves_the_session_usable,
            the_same_tokens_give_the_same_bits,
            batch_equals_single,
            probes_end_in_the_logits,
            probes_of_an_encoder_end_in_its_states,
            batched_appends_equal_single_appends,
            refused_append_leaves_the_batch,
            failed_appends_leave_the_batch,
            last_rows_equal_those_of_all,
            fork_equals_fresh,
            imported_keys_and_values_equal_computed_ones,
            keys_and_values_move_between_dtypes,
            zero_adapter_is_the_identity,
            adapters_add_up,
            switching_adapters_restores_the_base,
            adapted_prefill_equals_stepwise,
            adapted_sessions_run_beside_those_of_the_base,
            applied_adapter_equals_the_merged_one,
            adapters_that_do_not_fit_are_errors,
            adapted_hidden_states_equal_those_of_each_alone,
            cancelled_encode_is_an_error,
            token_types_are_those_of_the_model,
            pooled_rows_equal_those_of_each_alone,
            logits_match_golden,
            greedy_tokens_match_golden,
            adapters_match_golden,
        );
    };
    (@cases $module:ident, $fixture:expr, $($case:ident),+ $(,)?) => {
        mod $module {
            #[allow(unused_imports, reason = "a fixture may be a path or a closure over names of the outer module")]
            use super::*;
            $(
                #[test]
                fn $case() {
                    $crate::conformance::with_fixture($fixture, $crate::conformance::$case);
                }
            )+
        }
    };
}

/// Runs `case` on what `fixture` makes, or says why it cannot run here.
pub fn with_fixture<F>(fixture: impl FnOnce() -> Result<F, String>, case: impl FnOnce(&F)) {
    match fixture() {
        Ok(fixture) => case(&fixture),
        Err(reason) => {
            assert!(std::env::var_os("TANDEM_REQUIRE_ENGINES").is_none(), "{reason}");
            #[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
            {
                eprintln!("skipped: {reason}");
            }
        }
    }
}
