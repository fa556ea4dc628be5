//! The sampler against probabilities recorded from transformers' logits processors, in f64 (`goldens/sampler.json`).

use serde_json::Value;
use tandem_core::TokenId;
use tandem_core::sampler::{Sampler, SamplingOptions};

const GOLDENS: &str = include_str!("../../../../goldens/sampler.json");

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn options(settings: &Value) -> SamplingOptions {
    let mut options = SamplingOptions { temperature: 1.0, ..SamplingOptions::greedy() };
    for (name, value) in settings.as_object().unwrap() {
        let number = value.as_f64().unwrap() as f32;
        match name.as_str() {
            "temperature" => options.temperature = number,
            "top_k" => options.top_k = value.as_u64().unwrap() as usize,
            "top_p" => options.top_p = number,
            "min_p" => options.min_p = number,
            "typical_p" => options.typical_p = number,
            "repetition_penalty" => options.repetition_penalty = number,
            _ => panic!("the goldens know a setting `{name}` that this test does not"),
        }
    }
    options
}

/// A known difference: transformers' top-k keeps every token that ties with the `k`th, ours the lowest ids of them. So
/// transformers' answer is ours for the number of tokens that reach the `k`th score.
fn top_k_with_ties(options: &SamplingOptions, logits: &[f32], history: &[TokenId]) -> usize {
    let penalised = |(token, &logit): (usize, &f32)| match f64::from(logit) {
        score if !history.contains(&(token as TokenId)) => score,
        score if score < 0.0 => score * f64::from(options.repetition_penalty),
        score => score / f64::from(options.repetition_penalty),
    };
    let scores: Vec<f64> = logits.iter().enumerate().map(penalised).collect();
    let mut sorted = scores.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    match options.top_k.checked_sub(1).and_then(|last| sorted.get(last)) {
        Some(kth) => scores.iter().filter(|score| *score >= kth).count(),
        None => options.top_k,
    }
}

#[test]
fn probabilities_are_those_of_transformers() {
    let goldens: Value = serde_json::from_str(GOLDENS).unwrap();
    let cases = goldens["cases"].as_array().unwrap();
    let (mut n_cut_ties, mut worst) = (0, 0.0_f64);
    for (index, case) in cases.iter().enumerate() {
        let vector = &goldens["vectors"][case["vector"].as_u64().unwrap() as usize];
        let logits: Vec<f32> = numbers(&vector["logits"]).iter().map(|&logit| logit as f32).collect();
        let history: Vec<TokenId> = numbers(&vector["history"]).iter().map(|&token| token as TokenId).collect();
        let exact_k = options(&case["settings"]);
        let options = SamplingOptions { top_k: top_k_with_ties(&exact_k, &logits, &history), ..exact_k.clone() };
        n_cut_ties += usize::from(options != exact_k);
        let mut ours = Sampler::new(options, logits.len()).unwrap().distribution(&logits, &history).unwrap();

        let mut wanted: Vec<(TokenId, f64)> = (0..).zip(numbers(&case["probabilities"])).filter(|(_, p)| *p > 0.0).collect();
        wanted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let context = format!("case {index}: {} of vector {}", case["settings"], case["vector"]);
        assert_eq!(ours.len(), wanted.len(), "{context}");
        if case["tied_cut"] == false {
            ours.sort_by_key(|(id, _)| *id);
            wanted.sort_by_key(|(id, _)| *id);
            assert!(ours.iter().zip(&wanted).all(|(a, b)| a.0 == b.0), "{context}");
        }
        for (a, b) in ours.iter().zip(&wanted) {
            worst = worst.max((a.1 / b.1 - 1.0).abs());
            assert!((a.1 / b.1 - 1.0).abs() < 1e-12, "{context}: token {} has {} and not {}", a.0, a.1, b.1);
        }
    }
    println!("{} cases, {n_cut_ties} with ties at k, worst relative difference {worst:e}", cases.len());
    assert!(cases.len() >= 100 && n_cut_ties > 0);
}
