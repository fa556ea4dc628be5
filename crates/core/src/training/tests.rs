//! Training on a loss whose lowest place is known.

use super::*;

/// A model whose loss is a bowl: half the squared distance of its factors' product from a target, for each target token.
struct Bowl {
    modules: Vec<TrainableModule>,
}

const WANTED: f32 = 0.25;

impl Bowl {
    fn new() -> Self {
        let module = |name: &str| TrainableModule { name: name.into(), outputs: 3, inputs: 4 };
        Self { modules: vec![module("model.layers.0.self_attn.q_proj"), module("model.layers.0.mlp.up_proj")] }
    }

    /// The differences of `scale * B A` from what is wanted, `[outputs, inputs]`.
    fn off(factors: &LowRankFactors) -> Vec<f32> {
        let (inputs, rank) = (factors.inputs(), factors.rank);
        let cell =
            |i: usize| (0..rank).map(|r| factors.b[i / inputs * rank + r] * factors.a[r * inputs + i % inputs]).sum::<f32>();
        (0..factors.outputs() * inputs).map(|i| factors.scale * cell(i) - WANTED).collect()
    }
}

impl TrainableModel for Bowl {
    fn modules(&self) -> &[TrainableModule] {
        &self.modules
    }

    fn loss(&self, factors: &[LowRankFactors], texts: &[&TrainingText], cancel: &CancelToken) -> Result<f64> {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let bowl: f64 = factors.iter().flat_map(Self::off).map(|off| 0.5 * f64::from(off).powi(2)).sum();
        Ok(bowl * texts.iter().map(|text| text.n_targets() as f64).sum::<f64>())
    }

    fn add_gradients(
        &self,
        factors: &[LowRankFactors],
        texts: &[&TrainingText],
        cancel: &CancelToken,
        gradients: &mut [FactorGradients],
    ) -> Result<f64> {
        let n: f32 = texts.iter().map(|text| text.n_targets() as f32).sum();
        for (factor, gradient) in factors.iter().zip(gradients) {
            let (inputs, rank) = (factor.inputs(), factor.rank);
            for (i, off) in Self::off(factor).into_iter().enumerate() {
                for r in 0..rank {
                    gradient.a[r * inputs + i % inputs] += n * factor.scale * off * factor.b[i / inputs * rank + r];
                    gradient.b[i / inputs * rank + r] += n * factor.scale * off * factor.a[r * inputs + i % inputs];
                }
            }
        }
        self.loss(factors, texts, cancel)
    }
}

fn texts() -> Vec<TrainingText> {
    (1..=7).map(|n| TrainingText { ids: vec![1; n + 1], is_target: (0..=n).map(|i| i > 0).collect() }).collect()
}

fn options() -> TrainOptions {
    TrainOptions {
        rank: 2,
        alpha: 4.0,
        steps: 60,
        batch: 2,
        accumulate: 2,
        learning_rate: 0.05,
        warmup: 5,
        ..TrainOptions::default()
    }
}

#[test]
fn training_finds_the_lowest_loss() {
    let (model, cancel) = (Bowl::new(), CancelToken::new());
    let mut training = Training::new(&model, options()).unwrap();
    let before = training.loss(&texts(), &cancel).unwrap();
    assert!((before - 24.0 * 0.5 * f64::from(WANTED).powi(2)).abs() < 1e-6, "`B` begins at 0: {before}");
    while !training.is_complete() {
        training.update(&texts(), &cancel).unwrap();
    }
    let after = training.loss(&texts(), &cancel).unwrap();
    assert!(after < 0.01 * before, "{before} {after}");
    assert_eq!(training.adapter("mine").unwrap().factors().len(), 2);
}

#[test]
fn interrupted_run_goes_on_to_the_same_adapter() {
    let (model, cancel, texts) = (Bowl::new(), CancelToken::new(), texts());
    let mut whole = Training::new(&model, options()).unwrap();
    (0..60).for_each(|_| assert!(whole.update(&texts, &cancel).is_ok()));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    let mut first = Training::new(&model, options()).unwrap();
    (0..23).for_each(|_| assert!(first.update(&texts, &cancel).is_ok()));
    first.save(&path, "hash").unwrap();
    let mut second = Training::resume(&model, options(), &path, "hash").unwrap();
    assert_eq!(second.step(), 23);
    (23..60).for_each(|_| assert!(second.update(&texts, &cancel).is_ok()));
    assert_eq!(whole.adapter("mine").unwrap(), second.adapter("mine").unwrap());
    let other_seed = Training::new(&model, TrainOptions { seed: 1, ..options() }).unwrap();
    assert_ne!(other_seed.factors[0].a, Training::new(&model, options()).unwrap().factors[0].a);

    let refused = |options: TrainOptions, data: &str| Training::resume(&model, options, &path, data).err().unwrap().to_string();
    assert!(refused(TrainOptions { rank: 3, ..options() }, "hash").contains("rank"));
    assert!(refused(options(), "other").contains("of other data"));
    std::fs::write(&path, &std::fs::read(&path).unwrap()[..200]).unwrap();
    assert!(refused(options(), "hash").contains("not the state"));
}

#[test]
fn cancelled_update_changes_nothing() {
    let (model, cancel) = (Bowl::new(), CancelToken::new());
    let mut training = Training::new(&model, options()).unwrap();
    training.update(&texts(), &cancel).unwrap();
    let before = training.adapter("mine").unwrap();
    cancel.cancel();
    assert!(matches!(training.update(&texts(), &cancel), Err(Error::Cancelled)));
    assert_eq!((training.step(), training.adapter("mine").unwrap()), (1, before));
}

#[test]
fn every_text_is_used_once_before_any_is_used_again() {
    let order: Vec<usize> = Order::new(7, 3).range(0, 21).collect();
    for epoch in order.chunks(7) {
        let mut sorted = epoch.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..7).collect::<Vec<_>>());
    }
    assert_ne!(order[..7], order[7..14]);
    assert_eq!(order[5..12], Order::new(7, 3).range(5, 7).collect::<Vec<_>>());
}

#[test]
fn learning_rate_rises_and_falls() {
    let options = TrainOptions { steps: 100, warmup: 10, learning_rate: 1.0, ..TrainOptions::default() };
    let rates: Vec<f64> = (0..100).map(|step| options.learning_rate_at(step)).collect();
    assert_eq!((rates[0], rates[9], rates[10]), (0.1, 1.0, 1.0));
    assert!(rates[10..].windows(2).all(|pair| pair[0] > pair[1]) && rates[99] < 0.001);
    assert!((rates[55] - 0.5).abs() < 1e-9, "half way down");
}

#[test]
fn adam_follows_pytorch() {
    // torch.optim.AdamW([1.0, -2.0], lr=0.1, weight_decay=0.01) with gradients (0.5, -1.5), then (-0.25, 3.0).
    let factors = LowRankFactors { module: "q".into(), a: vec![1.0], b: vec![-2.0], rank: 1, scale: 1.0, magnitude: None };
    let mut factors = vec![factors];
    let mut adam = Adam::new(&factors);
    for (step, (a, b)) in [(0.5, -1.5), (-0.25, 3.0)].into_iter().enumerate() {
        adam.update(&mut factors, &[FactorGradients { a: vec![a], b: vec![b] }], step + 1, 0.1, 0.01);
    }
    assert!((factors[0].a[0] - ADAM_EXPECTED[0]).abs() < 1e-6, "{}", factors[0].a[0]);
    assert!((factors[0].b[0] - ADAM_EXPECTED[1]).abs() < 1e-6, "{}", factors[0].b[0]);
}

const ADAM_EXPECTED: [f32; 2] = [0.871_467_35, -1.932_712_4];

#[test]
fn gradient_is_shortened_to_the_limit() {
    let adam = Adam::default();
    let mut gradients = [FactorGradients { a: vec![3.0], b: vec![4.0] }];
    assert_eq!(adam.scale_and_clip(&mut gradients, 2.0, 0.0), 10.0);
    assert_eq!(gradients[0].b, [8.0]);
    assert_eq!(adam.scale_and_clip(&mut gradients, 1.0, 1.0), 10.0);
    assert!((gradients[0].a[0] - 0.6).abs() < 1e-5 && (gradients[0].b[0] - 0.8).abs() < 1e-5);
}

#[test]
fn options_that_cannot_be_are_named() {
    let model = Bowl::new();
    let check = |options: TrainOptions, expected: &str| {
        let error = Training::new(&model, options).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(TrainOptions { rank: 0, ..options() }, "rank");
    check(TrainOptions { learning_rate: f64::NAN, ..options() }, "learning rate");
    check(TrainOptions { warmup: 100, ..options() }, "60 steps");
    check(TrainOptions { targets: vec!["no_proj".into()], ..options() }, "`q_proj`, `up_proj`");
    check(TrainOptions { targets: Vec::new(), ..options() }, "nothing to train");
}
