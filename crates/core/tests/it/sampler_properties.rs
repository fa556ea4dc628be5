//! What holds of the sampler for any logits and options, against a plain reference that sorts the whole vocabulary.

use proptest::prelude::*;
use tandem_core::sampler::{Sampler, SamplingOptions};
use tandem_core::{Error, TokenId};

const GREEDY: fn() -> SamplingOptions = SamplingOptions::greedy;

fn sampler(options: &SamplingOptions, vocab_size: usize) -> Sampler {
    Sampler::new(options.clone(), vocab_size).unwrap()
}

fn distribution(options: &SamplingOptions, logits: &[f32], history: &[TokenId]) -> Vec<(TokenId, f64)> {
    sampler(options, logits.len()).distribution(logits, history).unwrap()
}

fn sample(options: &SamplingOptions, logits: &[f32], n: u64) -> TokenId {
    sampler(options, logits.len()).sample(logits, &[], n).unwrap().id
}

/// The number that the option was written as.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap()
}

/// The scores after biases and penalties, each by its definition.
fn reference_scores(options: &SamplingOptions, logits: &[f32], history: &[TokenId]) -> Vec<f64> {
    let window = &history[history.len() - options.penalty_window.unwrap_or(usize::MAX).min(history.len())..];
    let score = |(id, &logit): (usize, &f32)| {
        let biases = options.logit_bias.iter().filter(|(token, _)| *token as usize == id);
        let biased = f64::from(logit) + biases.map(|&(_, bias)| decimal(bias)).sum::<f64>();
        let count = window.iter().filter(|&&token| token as usize == id).count() as f64;
        if count == 0.0 {
            return biased;
        }
        let penalty = decimal(options.repetition_penalty);
        let repeated = if biased < 0.0 { biased * penalty } else { biased / penalty };
        repeated - count * decimal(options.frequency_penalty) - decimal(options.presence_penalty)
    };
    logits.iter().enumerate().map(score).collect()
}

/// Scores to probabilities by full sorts, as transformers does it; the most probable first.
fn reference(options: &SamplingOptions, logits: &[f32], history: &[TokenId]) -> Vec<(TokenId, f64)> {
    let scores = reference_scores(options, logits, history);
    let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut left: Vec<(TokenId, f64)> = (0..).zip(scores).collect();
    left.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if options.temperature == 0.0 {
        return vec![(left[0].0, 1.0)];
    }
    for (_, score) in &mut left {
        *score = ((*score - best) / decimal(options.temperature)).exp();
    }
    left.retain(|(_, weight)| *weight > 1e-300);
    if options.top_k > 0 {
        left.truncate(options.top_k);
    }
    keep_mass(&mut left, decimal(options.top_p));
    left.retain(|(_, weight)| *weight >= decimal(options.min_p));
    if options.typical_p < 1.0 {
        normalise(&mut left);
        let entropy: f64 = left.iter().map(|(_, p)| -p * p.ln()).sum();
        left.sort_by(|a, b| (-a.1.ln() - entropy).abs().total_cmp(&(-b.1.ln() - entropy).abs()).then(a.0.cmp(&b.0)));
        keep_mass(&mut left, decimal(options.typical_p));
        left.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    }
    normalise(&mut left);
    left
}

fn normalise(left: &mut [(TokenId, f64)]) {
    let total: f64 = left.iter().map(|(_, weight)| weight).sum();
    left.iter_mut().for_each(|(_, weight)| *weight /= total);
}

/// Keeps each token before which there is less than `share` of the whole.
fn keep_mass(left: &mut Vec<(TokenId, f64)>, share: f64) {
    if share < 1.0 {
        let target = share * left.iter().map(|(_, weight)| weight).sum::<f64>();
        let (mut before, mut first) = (0.0, true);
        left.retain(|(_, weight)| {
            let keep = before < target || first;
            (before, first) = (before + weight, false);
            keep
        });
    }
}

/// The argmax as one would write it.
fn argmax(logits: &[f32]) -> TokenId {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as TokenId
}

/// Distinct values, so that no filter's cut falls on a tie, whose order is a matter of rounding in the reference.
fn distinct_logits() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::btree_set(-12_000_i32..12_000, 1..700)
        .prop_map(|values| values.into_iter().map(|value| value as f32 / 1000.0).collect::<Vec<f32>>())
        .prop_shuffle()
}

/// Coarse values with many ties, both zeros, and blocks that are not full.
fn tied_logits() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![Just(0.0), Just(-0.0), (-4_i8..4).prop_map(|value| f32::from(value) / 2.0)];
    prop::collection::vec(value, 1..400)
}

fn options() -> impl Strategy<Value = SamplingOptions> {
    let off = |range: std::ops::Range<f32>, off: f32| prop_oneof![Just(off), range];
    let filters = (prop_oneof![Just(0_usize), 1_usize..300], off(0.01..1.0, 1.0), off(0.001..0.9, 0.0), off(0.05..0.99, 1.0));
    let penalties = (off(0.5..2.0, 1.0), off(-2.0..2.0, 0.0), off(-2.0..2.0, 0.0), prop::option::of(0_usize..40));
    (prop_oneof![Just(0.0_f32), Just(1.0), 0.05_f32..4.0], filters, penalties, any::<u64>()).prop_map(
        |(temperature, (top_k, top_p, min_p, typical_p), (repetition, presence, frequency, window), seed)| SamplingOptions {
            temperature,
            top_k,
            top_p,
            min_p,
            typical_p,
            repetition_penalty: repetition,
            presence_penalty: presence,
            frequency_penalty: frequency,
            penalty_window: window,
            seed,
            ..GREEDY()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_distribution_is_that_of_full_sorts(
        logits in distinct_logits(),
        options in options(),
        history in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        biases in prop::collection::vec((any::<prop::sample::Index>(), -5.0_f32..5.0), 0..4),
    ) {
        let history: Vec<TokenId> = history.iter().map(|index| index.index(logits.len()) as TokenId).collect();
        let logit_bias = biases.iter().map(|(index, bias)| (index.index(logits.len()) as TokenId, *bias)).collect();
        let options = SamplingOptions { logit_bias, ..options };
        let (mut ours, mut expected) = (distribution(&options, &logits, &history), reference(&options, &logits, &history));
        prop_assert!((ours.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-12);
        prop_assert!(ours.windows(2).all(|pair| pair[0].1 > pair[1].1 || (pair[0].1 == pair[1].1 && pair[0].0 < pair[1].0)));
        ours.sort_by_key(|(id, _)| *id);
        expected.sort_by_key(|(id, _)| *id);
        prop_assert_eq!(ours.len(), expected.len());
        for (a, b) in ours.iter().zip(&expected) {
            prop_assert!(a.0 == b.0 && (a.1 - b.1).abs() <= 1e-12 * b.1.max(1e-3), "{a:?} is not {b:?}");
        }
    }

    #[test]
    fn only_what_is_left_is_drawn(logits in tied_logits(), options in options(), n in any::<u64>()) {
        let left = distribution(&options, &logits, &[]);
        prop_assert!(left.iter().all(|(_, p)| *p > 0.0));
        let id = sample(&options, &logits, n);
        prop_assert!(left.iter().any(|(token, _)| *token == id), "{id} was cut");
    }

    #[test]
    fn greedy_and_top_1_are_the_argmax(logits in tied_logits(), n in any::<u64>()) {
        prop_assert_eq!(sample(&GREEDY(), &logits, n), argmax(&logits));
        let top_1 = SamplingOptions { temperature: 1.5, top_k: 1, ..GREEDY() };
        prop_assert_eq!(sample(&top_1, &logits, n), argmax(&logits));
        let top_p_0 = SamplingOptions { temperature: 1.5, top_p: 0.0, ..GREEDY() };
        prop_assert_eq!(sample(&top_p_0, &logits, n), argmax(&logits));
    }

    #[test]
    fn a_token_depends_on_seed_and_index_alone(logits in tied_logits(), options in options()) {
        let mut one = sampler(&options, logits.len());
        let forwards: Vec<_> = (0..20).map(|n| one.sample(&logits, &[0, 0], n).unwrap()).collect();
        let mut backwards: Vec<_> = (0..20).rev().map(|n| one.sample(&logits, &[0, 0], n).unwrap()).collect();
        backwards.reverse();
        prop_assert_eq!(&forwards, &backwards);
        let fresh: Vec<_> = (0..20).map(|n| sampler(&options, logits.len()).sample(&logits, &[0, 0], n).unwrap()).collect();
        prop_assert_eq!(forwards, fresh);
    }

    #[test]
    fn what_is_off_changes_nothing(logits in tied_logits(), options in options(), n in any::<u64>()) {
        let history: Vec<TokenId> = (0..logits.len() as TokenId).collect();
        let filters_off = SamplingOptions { top_k: 0, top_p: 1.0, min_p: 0.0, typical_p: 1.0, ..options };
        let large_k = SamplingOptions { top_k: logits.len(), ..filters_off.clone() };
        let no_window = SamplingOptions { penalty_window: Some(0), ..filters_off.clone() };
        let no_penalties = SamplingOptions {
            repetition_penalty: 1.0, presence_penalty: 0.0, frequency_penalty: 0.0, penalty_window: None, ..filters_off.clone()
        };
        let no_bias = SamplingOptions { logit_bias: vec![(0, 0.0)], ..no_penalties.clone() };
        let drawn = |options| sampler(options, logits.len()).sample(&logits, &history, n).unwrap();
        prop_assert_eq!(drawn(&filters_off), drawn(&large_k));
        prop_assert_eq!(drawn(&no_window), drawn(&no_penalties));
        prop_assert_eq!(drawn(&no_bias), drawn(&no_penalties));
    }

    #[test]
    fn the_logprob_is_the_models_own(logits in distinct_logits(), options in options(), n in any::<u64>()) {
        let biased = SamplingOptions { logprobs: true, logit_bias: vec![(0, 3.0)], ..options };
        let sampled = sampler(&biased, logits.len()).sample(&logits, &[0], n).unwrap();
        let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        let expected = f64::from(logits[sampled.id as usize]) - total.ln();
        prop_assert!((sampled.logprob.unwrap() - expected).abs() < 1e-11, "{sampled:?} is not {expected}");
    }

    #[test]
    fn bad_logits_never_give_a_token(
        mut logits in tied_logits(),
        at in any::<prop::sample::Index>(),
        bad in prop::sample::select(vec![f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
        options in options(),
    ) {
        let at = at.index(logits.len());
        logits[at] = bad;
        let mut sampler = sampler(&options, logits.len());
        for error in [sampler.sample(&logits, &[0; 5], 3).unwrap_err(), sampler.distribution(&logits, &[0; 5]).unwrap_err()] {
            let Error::BadLogits { token, value, n_tokens } = error else { panic!("{error}") };
            prop_assert_eq!((token as usize, value.to_bits(), n_tokens), (at, bad.to_bits(), 5));
        }
    }
}

#[test]
fn the_first_bad_logit_is_named() {
    let error = sampler(&GREEDY(), 3).sample(&[0.0, f32::NEG_INFINITY, f32::NAN], &[1, 2], 0).unwrap_err();
    assert_eq!(error.to_string(), "the logit of token 1 is -inf after 2 tokens");
}

#[test]
fn wrong_sizes_and_tokens_are_errors() {
    let error = sampler(&GREEDY(), 3).sample(&[0.0; 4], &[], 0).unwrap_err();
    assert_eq!(error.to_string(), "option `vocab_size`: `3` is not the number of logits, 4");
    let penalised = SamplingOptions { presence_penalty: 1.0, ..GREEDY() };
    let error = sampler(&penalised, 3).sample(&[0.0; 3], &[1, 3], 0).unwrap_err();
    assert_eq!(error.to_string(), "token 3 is outside the model's vocabulary of 3");
    assert!(Sampler::new(GREEDY(), 0).is_err());
}

#[test]
fn extreme_logits() {
    let check = |temperature: f32, logits: &[f32], expected: &[(TokenId, f64)]| {
        let options = SamplingOptions { temperature, ..GREEDY() };
        assert_eq!(distribution(&options, logits, &[]), expected, "{temperature} {logits:?}");
        for filtered in [
            SamplingOptions { top_k: 2, ..options.clone() },
            SamplingOptions { top_p: 0.999_999, ..options.clone() },
            SamplingOptions { min_p: 1e-6, ..options.clone() },
            SamplingOptions { typical_p: 0.999_999, ..options.clone() },
            SamplingOptions { repetition_penalty: 1.0, presence_penalty: 1e-30, ..options.clone() },
        ] {
            assert_eq!(distribution(&filtered, logits, &[0]).len(), expected.len(), "{filtered:?} {logits:?}");
            assert_eq!(sample(&options, logits, 3), sample(&filtered, logits, 3), "{filtered:?} {logits:?}");
        }
    };
    check(1.0, &[1e30, -1e30, 0.0], &[(0, 1.0)]);
    check(1.0, &[-1e30, -1e30], &[(0, 0.5), (1, 0.5)]);
    check(1e-45, &[1.0, 1.000_000_1], &[(1, 1.0)]);
    check(1e-45, &[f32::MAX, f32::MIN], &[(0, 1.0)]);
    check(f32::MAX, &[1e-45, 0.0], &[(0, 0.5), (1, 0.5)]);
    check(1.0, &[1e-45, -0.0], &[(0, 0.5), (1, 0.5)]);
    check(1.0, &[-7.5], &[(0, 1.0)]);
    check(0.0, &[-7.5], &[(0, 1.0)]);
}

#[test]
fn biases_ban_and_force() {
    let logits = [3.0, 2.0, 1.0];
    for temperature in [0.0, 1.0] {
        let base = SamplingOptions { temperature, ..GREEDY() };
        let banned = SamplingOptions { logit_bias: vec![(0, f32::NEG_INFINITY), (2, f32::NEG_INFINITY)], ..base.clone() };
        assert_eq!(distribution(&banned, &logits, &[]), [(1, 1.0)]);
        let filtered = SamplingOptions { typical_p: 0.5, top_k: 2, repetition_penalty: 2.0, ..banned };
        assert_eq!(distribution(&filtered, &logits, &[0, 1]), [(1, 1.0)]);
        let forced = SamplingOptions { logit_bias: vec![(2, 600.0), (2, 400.0)], ..base };
        assert_eq!(distribution(&forced, &logits, &[])[0], (2, 1.0));
    }
}

/// Cut weights at the end of the vocabulary, where a draw near 1 would land by rounding.
#[test]
fn the_last_tokens_of_no_weight_are_never_drawn() {
    let mut logits = vec![-1e4_f32; 1000];
    logits[..300].fill(0.0);
    let options = SamplingOptions { temperature: 1.0, ..GREEDY() };
    let mut sampler = sampler(&options, logits.len());
    assert!((0..20_000).all(|n| sampler.sample(&logits, &[], n).unwrap().id < 300));
}

/// Pearson's statistic stays below the 99.9th percentile of chi-square; the seeds are fixed, so this cannot flicker.
#[test]
fn frequencies_are_the_probabilities() {
    let logits: Vec<f32> = (0..40).map(|id| ((id * 17) % 40) as f32 / 12.0).collect();
    let check = |options: SamplingOptions, limit: f64| {
        let expected = distribution(&options, &logits, &[]);
        let mut sampler = sampler(&options, logits.len());
        let mut counts = vec![0.0; logits.len()];
        let n_draws = 200_000;
        for n in 0..n_draws {
            counts[sampler.sample(&logits, &[], n).unwrap().id as usize] += 1.0;
        }
        let deviation = |&(id, p): &(TokenId, f64)| {
            let expected = p * n_draws as f64;
            (counts[id as usize] - expected) * (counts[id as usize] - expected) / expected
        };
        let statistic: f64 = expected.iter().map(deviation).sum();
        assert!(statistic < limit, "{statistic} for {} tokens", expected.len());
        assert!(statistic > 0.1, "draws this even are not random");
    };
    // 39 and 9 degrees of freedom.
    check(SamplingOptions { temperature: 0.9, seed: 1, ..GREEDY() }, 72.05);
    check(SamplingOptions { temperature: 0.9, seed: 2, top_k: 10, ..GREEDY() }, 27.88);
    check(SamplingOptions { temperature: 0.9, seed: u64::MAX, top_k: 10, ..GREEDY() }, 27.88);
}

/// A change of these tokens is a change of what every seed gives. They were worked out by a separate program in Python.
#[test]
fn tokens_of_a_seed_are_fixed() {
    let logits: Vec<f32> = (0..1000).map(|id| ((id * 271) % 1000) as f32 / 120.0).collect();
    let check = |options: SamplingOptions, expected: [TokenId; 8]| {
        let mut sampler = sampler(&options, logits.len());
        let drawn: Vec<TokenId> = (0..8).map(|n| sampler.sample(&logits, &[], n).unwrap().id).collect();
        assert_eq!(drawn, expected, "{options:?}");
    };
    let base = SamplingOptions { temperature: 0.8, seed: 42, ..GREEDY() };
    check(base.clone(), [468, 328, 653, 671, 841, 295, 738, 402]);
    check(SamplingOptions { top_k: 40, top_p: 0.95, ..base.clone() }, [439, 321, 642, 653, 808, 284, 738, 380]);
    check(SamplingOptions { typical_p: 0.5, min_p: 0.02, ..base }, [461, 317, 653, 664, 841, 284, 745, 402]);
}

/// As in transformers, whose cumulative sum leaves out what follows a share that is reached exactly.
#[test]
fn top_p_ends_where_its_share_is_reached_exactly() {
    let options = SamplingOptions { temperature: 1.0, top_p: 0.5, ..GREEDY() };
    assert_eq!(distribution(&options, &[1.0, 1.0], &[]), [(0, 1.0)]);
}

/// Many blocks, many looks and many sorted pieces, with ties.
#[test]
fn a_whole_vocabulary() {
    let hash = |id: u32| (id.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32;
    let bell = |id: u32| (0..8).map(|i| hash(id * 8 + i)).sum::<f32>() * 2.0;
    let mut logits: Vec<f32> = (0..151_936).map(bell).collect();
    for peak in [0.0, 9.0] {
        logits[70_000] += peak;
        let check = |options: SamplingOptions| {
            let (mut ours, mut expected) = (distribution(&options, &logits, &[]), reference(&options, &logits, &[]));
            ours.sort_by_key(|(id, _)| *id);
            expected.sort_by_key(|(id, _)| *id);
            assert_eq!(ours.len(), expected.len(), "{options:?}");
            for (a, b) in ours.iter().zip(&expected) {
                assert!(a.0 == b.0 && (a.1 / b.1 - 1.0).abs() < 1e-10, "{a:?} is not {b:?} with {options:?}");
            }
        };
        let base = SamplingOptions { temperature: 0.7, ..GREEDY() };
        check(base.clone());
        check(SamplingOptions { top_k: 40, ..base.clone() });
        check(SamplingOptions { top_k: 5_000, top_p: 0.9, ..base.clone() });
        check(SamplingOptions { top_p: 0.95, ..base.clone() });
        check(SamplingOptions { top_p: 0.95, min_p: 0.2, ..base.clone() });
        check(SamplingOptions { min_p: 0.01, ..base.clone() });
        check(SamplingOptions { typical_p: 0.2, ..base.clone() });
        check(SamplingOptions { typical_p: 0.95, ..base });
    }
}

#[test]
fn min_p_keeps_what_is_exactly_at_its_bound() {
    let options = SamplingOptions { temperature: 1.0, min_p: 1.0, ..GREEDY() };
    assert_eq!(distribution(&options, &[0.5, 2.0, 1.5, 2.0], &[]), [(1, 0.5), (3, 0.5)]);
}

#[test]
fn a_banned_token_is_not_in_the_distribution() {
    let options = SamplingOptions { temperature: 1.0, logit_bias: vec![(1, f32::NEG_INFINITY)], ..GREEDY() };
    let ids: Vec<TokenId> = distribution(&options, &[0.5, 2.0, 1.5], &[]).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [2, 0]);
}
