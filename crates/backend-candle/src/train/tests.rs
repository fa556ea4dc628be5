//! Gradients of training, held to candle's own and to the slope of the loss.

use std::path::Path;

use candle_core::Device;
use tandem_core::training::{TrainOptions, Training};

use super::*;

/// The families that can be trained, and what they have besides: biases, norms of queries, heads that share keys, windows, scaled rotation.
const GOLDENS: [&str; 7] = ["qwen2-tied", "qwen2-untied", "qwen3", "llama3-rope", "llama-linear", "mistral", "mistral-window"];

fn files(name: &str) -> ModelFiles {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name);
    ModelFiles::discover(&dir, name).unwrap()
}

fn options() -> LoadOptions {
    LoadOptions::new().with_threads(std::num::NonZero::new(2))
}

/// The model with our kernels, or with candle's operations.
fn model(name: &str, own: bool) -> Trainable {
    let files = files(name);
    let config = files.model_config().unwrap();
    let threads = device::threads(std::num::NonZero::new(2)).unwrap();
    let checkpoint = Checkpoint::open(&files).unwrap();
    let arena = Arena::default();
    let source = CheckpointSource { checkpoint: &checkpoint, file: name, bits: None, numerics: Numerics::Exact, arena: &arena };
    let decoder = threads.install(|| weights::decoder(&source, &config)).unwrap();
    let decoder = TrainableDecoder::with_own_kernels(decoder, &Device::Cpu, own).unwrap();
    Trainable { decoder, modules: modules(&config), threads, device: Device::Cpu }
}

/// Texts of `lengths`, of which the last half are targets.
fn texts(lengths: &[usize]) -> Vec<TrainingText> {
    let text = |(number, &n): (usize, &usize)| TrainingText {
        ids: (0..n).map(|i| ((i * 7 + number * 13) % 50 + 3) as u32).collect(),
        is_target: (0..n).map(|i| i > n / 2).collect(),
    };
    lengths.iter().enumerate().map(text).collect()
}

/// Factors of all modules with both of them filled.
fn factors(modules: &[TrainableModule], rank: usize) -> Vec<LowRankFactors> {
    let values = |n: usize, seed: usize| (0..n).map(|i| (((i * 31 + seed * 17) % 101) as f32 / 101.0 - 0.5) * 0.2).collect();
    let of = |(seed, module): (usize, &TrainableModule)| LowRankFactors {
        module: module.name.clone(),
        a: values(rank * module.inputs, seed),
        b: values(rank * module.outputs, seed + 1),
        rank,
        scale: 1.5,
        magnitude: None,
    };
    modules.iter().enumerate().map(of).collect()
}

fn zeros(factors: &[LowRankFactors]) -> Vec<FactorGradients> {
    factors.iter().map(|factor| FactorGradients { a: vec![0.0; factor.a.len()], b: vec![0.0; factor.b.len()] }).collect()
}

#[test]
fn gradients_of_our_kernels_are_those_of_candles_operations() {
    for name in GOLDENS {
        let (own, candle) = (model(name, true), model(name, false));
        let factors = factors(own.modules(), 3);
        let texts = texts(&[9, 23, 2]);
        let texts: Vec<&TrainingText> = texts.iter().collect();
        let [(loss, gradients), (expected_loss, expected)] = [&own, &candle].map(|model| {
            let mut gradients = zeros(&factors);
            let loss = model.add_gradients(&factors, &texts, &CancelToken::new(), &mut gradients).unwrap();
            (loss, gradients)
        });
        assert!((loss - expected_loss).abs() < 1e-4 * expected_loss, "{name}: {loss} {expected_loss}");
        for ((gradient, expected), module) in gradients.iter().zip(&expected).zip(own.modules()) {
            for (values, expected) in [(&gradient.a, &expected.a), (&gradient.b, &expected.b)] {
                let largest = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                assert!(largest > 0.0, "{name} {}: no gradient", module.name);
                for (value, expected) in values.iter().zip(expected) {
                    assert!((value - expected).abs() <= 2e-4 * largest, "{name} {}: {value} {expected}", module.name);
                }
            }
        }
    }
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    let model = model("qwen3", true);
    let texts = texts(&[12, 5]);
    let texts: Vec<&TrainingText> = texts.iter().collect();
    let factors = factors(model.modules(), 2);
    let mut gradients = zeros(&factors);
    let loss = model.add_gradients(&factors, &texts, &CancelToken::new(), &mut gradients).unwrap();
    assert!((model.loss(&factors, &texts, &CancelToken::new()).unwrap() - loss).abs() < 1e-4);
    // Along the gradient itself the slope is the square of its length.
    let squares: f64 =
        gradients.iter().flat_map(|gradient| gradient.a.iter().chain(&gradient.b)).map(|g| f64::from(*g).powi(2)).sum();
    let step = 0.05 / squares.sqrt();
    let moved = |sign: f64| {
        let mut factors = factors.clone();
        for (factor, gradient) in factors.iter_mut().zip(&gradients) {
            let values = factor.a.iter_mut().chain(&mut factor.b).zip(gradient.a.iter().chain(&gradient.b));
            values.for_each(|(value, g)| *value += (sign * step * f64::from(*g)) as f32);
        }
        model.loss(&factors, &texts, &CancelToken::new()).unwrap()
    };
    let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
    assert!((slope / squares - 1.0).abs() < 0.01, "{slope} {squares}");
}

#[test]
fn texts_beside_each_other_have_the_loss_that_they_have_alone() {
    let model = model("mistral-window", true);
    let factors = factors(model.modules(), 2);
    let texts = texts(&[30, 4, 17]);
    let loss = |texts: &[&TrainingText]| model.loss(&factors, texts, &CancelToken::new()).unwrap();
    let alone: f64 = texts.iter().map(|text| loss(&[text])).sum();
    let together = loss(&texts.iter().collect::<Vec<_>>());
    assert!((alone - together).abs() < 1e-4 * alone, "{alone} {together}");
}

#[test]
fn training_learns_texts_by_heart_and_the_same_seed_does_it_again() {
    let model = trainable(&files("qwen2-tied"), &options()).unwrap();
    let texts = texts(&[12, 9, 14, 7]);
    let train = || {
        let options =
            TrainOptions { rank: 4, alpha: 8.0, steps: 40, batch: 4, learning_rate: 0.02, warmup: 4, ..TrainOptions::default() };
        let mut training = Training::new(&*model, options).unwrap();
        let before = training.loss(&texts, &CancelToken::new()).unwrap();
        while !training.is_complete() {
            training.update(&texts, &CancelToken::new()).unwrap();
        }
        (before, training.loss(&texts, &CancelToken::new()).unwrap(), training.adapter("mine").unwrap())
    };
    let (before, after, adapter) = train();
    assert!(after < 0.3 * before, "{before} {after}");
    assert_eq!(train().2, adapter);
}

#[test]
fn cancelled_gradients_are_an_error() {
    let model = model("qwen2-tied", true);
    let factors = factors(model.modules(), 2);
    let texts = texts(&[12]);
    let cancel = CancelToken::new();
    cancel.cancel();
    let mut gradients = zeros(&factors);
    let result = model.add_gradients(&factors, &[&texts[0]], &cancel, &mut gradients);
    assert!(matches!(result, Err(Error::Cancelled)));
    assert_eq!(gradients, zeros(&factors));
}

#[test]
fn what_cannot_be_trained_is_named() {
    let check = |name: &str, options: LoadOptions, expected: &str| {
        let error = trainable(&files(name), &options).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("gemma2", options(), "Qwen2, Qwen3, Llama and Mistral");
    check("qwen3", options().with_dtype(DType::Int4), "int4");
}
