//! What goes wrong is said, and what was measured besides is kept.

use std::fs;
use std::sync::Arc;

use tandem_bench::parity::{Corpus, Metric, Outcome, Parity, ParityOptions, StageVerdict, Thresholds, Verdict};
use tandem_core::backend::{Numerics, Prober};
use tandem_core::{BackendKind, DType, Error, Logits, LogitsRequest, Model, ModelInfo, Result, Session, SessionOptions, TokenId};

use crate::support::{Loaded, compare, quick};

fn candle(dtype: DType) -> Loaded {
    Loaded::new("qwen2-tied", BackendKind::Candle, dtype, Numerics::Fast)
}

fn on(lines: &str) -> ParityOptions {
    ParityOptions { corpus: Corpus::parse("prompts.txt", lines, false).unwrap(), ..quick() }
}

#[test]
fn parity_keeps_other_prompts_when_one_is_too_long() {
    let long = format!("a short one\n{}\nanother short one", "word ".repeat(100_000));
    let pair = compare(&candle(DType::F32), &candle(DType::F32), on(&long));
    assert_eq!(pair.verdict, Verdict::Incomplete);
    assert_eq!(pair.problems.len(), 1, "{:?}", pair.problems);
    assert_eq!(pair.problems[0].at, "prompt `line 2`");
    assert!(pair.problems[0].message.contains("and 256 fit"), "{}", pair.problems[0].message);
    assert_eq!(pair.logits.measured.unwrap().prompts.len(), 2);
}

#[test]
fn parity_refuses_a_quantised_reference() {
    let reference = candle(DType::Int8);
    let error = Parity::new(reference.side(), quick()).err().unwrap();
    assert!(error.to_string().contains("`candle:int8` is quantised"), "{error}");
}

#[test]
fn parity_reports_different_vocabularies() {
    let other = Loaded::new("mistral", BackendKind::Candle, DType::F32, Numerics::Fast);
    let pair = compare(&candle(DType::F32), &other, quick());
    assert_eq!(
        (pair.verdict, pair.text.verdict, pair.weights.verdict),
        (Verdict::Different, StageVerdict::Fail, StageVerdict::Fail)
    );
    assert!(pair.problems.iter().any(|problem| problem.message.contains("320 logits and the candidate 340")));
    assert!(pair.logits.measured.is_none());
    assert!(pair.weights.measured.unwrap().n_different > 0);
}

#[test]
fn parity_keeps_measures_after_a_cancel() {
    let options = quick();
    options.cancel.cancel();
    let pair = compare(&candle(DType::F32), &candle(DType::F32), options);
    assert_eq!(pair.verdict, Verdict::Incomplete);
    assert!(pair.text.measured.unwrap().n_prompts > 30);
    assert!(pair.problems.iter().any(|problem| problem.message == "cancelled"));
}

#[test]
fn known_differences_pass_within_their_own_limits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("thresholds.toml");
    let with_limits = |limit: f64, known: f64| {
        let rules = format!(
            r#"
            version = 1
            [[pair]]
            name = "strict"
            reference = "f32"
            candidate = "int4"
            tie = 0.0
            reason = "a test"
            limits = {{ max_abs = {limit:?} }}
            [[known]]
            model = "qwen2-tied"
            dtype = "int4"
            backend = "candle"
            reason = "a test knows of it"
            metrics = {{ max_abs = {known:?} }}"#
        );
        fs::write(&path, rules).unwrap();
        let options = ParityOptions { thresholds: Thresholds::read(&path).unwrap(), n_generated: 0, ..on("some text") };
        compare(&candle(DType::F32), &candle(DType::Int4), options)
    };
    let known = with_limits(-1.0, 1e9);
    assert_eq!((known.gates[0].metric, known.gates[0].outcome), (Metric::MaxAbs, Outcome::Known), "{:?}", known.gates);
    assert_eq!(known.verdict, Verdict::KnownDifferent);
    assert_eq!(known.gates[0].reason.as_deref(), Some("a test knows of it"));
    let worse = with_limits(-1.0, -0.5);
    assert_eq!((worse.gates[0].outcome, worse.verdict), (Outcome::NotMet, Verdict::Different));
    // One text is not the corpus: that it is met here does not make the entry out of date.
    assert_eq!(with_limits(1e9, 1e9).gates[0].outcome, Outcome::Met);
}

#[test]
fn thresholds_that_cannot_be_read_name_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limits.toml");
    for text in ["version = 2", "version = 1\n[[pair]]\nname = 1", "version = 1\nmax = 3", "{"] {
        fs::write(&path, text).unwrap();
        let error = Thresholds::read(&path).unwrap_err();
        assert!(error.to_string().contains("limits.toml"), "{error}");
    }
}

#[test]
fn parity_keeps_other_prompts_when_the_engine_fails() {
    let mut broken = candle(DType::F32);
    broken.model = Arc::new(Fails { inner: Arc::clone(&broken.model) });
    let pair = compare(&candle(DType::F32), &broken, on("abc\nwith a Z in the middle\ndef"));
    assert_eq!(pair.verdict, Verdict::Incomplete, "{:?}", pair.problems);
    let logits = pair.logits.measured.unwrap();
    assert_eq!(logits.prompts.iter().map(|prompt| prompt.prompt.as_str()).collect::<Vec<_>>(), ["line 1", "line 3"]);
    let problem = pair.problems.iter().find(|problem| problem.at == "prompt `line 2`").unwrap();
    assert!(problem.message.contains("the engine gave up"), "{}", problem.message);
}

/// Fails at prompts of more than five tokens.
struct Fails {
    inner: Arc<dyn Model>,
}

struct FailsSession(Box<dyn Session>);

impl Model for Fails {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn new_session(&self, options: &SessionOptions) -> Result<Box<dyn Session>> {
        Ok(Box::new(FailsSession(self.inner.new_session(options)?)))
    }

    fn prober(&self) -> Option<&dyn Prober> {
        self.inner.prober()
    }
}

impl Session for FailsSession {
    fn n_tokens(&self) -> usize {
        self.0.n_tokens()
    }

    fn context_length(&self) -> usize {
        self.0.context_length()
    }

    fn append_into(&mut self, tokens: &[TokenId], request: LogitsRequest, logits: &mut Logits) -> Result<()> {
        if tokens.len() > 5 {
            return Err(Error::Engine {
                backend: BackendKind::Candle,
                doing: "to run the model".into(),
                source: "the engine gave up".into(),
            });
        }
        self.0.append_into(tokens, request, logits)
    }

    fn rewind(&mut self, n_tokens: usize) -> Result<()> {
        self.0.rewind(n_tokens)
    }
}
