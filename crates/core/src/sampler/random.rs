//! Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy
//! as 1, 2, 3" (SC 2011); checked against the vectors published with their Random123 library.
//!
//! A draw is a pure function of seed and index: nothing has to be carried from token to token, and any token of a
//! generation can be drawn again on its own.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Draw `n` of `seed`: uniform in `[0, 1)`, a multiple of 2^-53.
///
/// The seed is the key and `n` the low half of the counter, low word first; the draw is the upper 53 bits of the
/// first two words, of which the second is the high one.
pub(crate) fn uniform(seed: u64, n: u64) -> f64 {
    let words = philox([n as u32, (n >> 32) as u32, 0, 0], [seed as u32, (seed >> 32) as u32]);
    let bits = (u64::from(words[1]) << 32) | u64::from(words[0]);
    (bits >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [low, high] = [0, 1].map(|i| u64::from(MULTIPLIERS[i]) * u64::from(counter[2 * i]));
        counter = [(high >> 32) as u32 ^ counter[1] ^ key[0], high as u32, (low >> 32) as u32 ^ counter[3] ^ key[1], low as u32];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows `philox4x32 10` of `tests/kat_vectors` in Random123 1.14.
    #[test]
    fn known_answers() {
        let check = |counter, key, expected| assert_eq!(philox(counter, key), expected);
        check([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        check([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        check(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        );
    }

    /// The first draw of seed 0 from the first known answer, worked out by hand.
    #[test]
    fn a_draw_is_53_bits() {
        assert_eq!(uniform(0, 0), (0xe169_c58d_6627_e8d5_u64 >> 11) as f64 / 2_f64.powi(53));
    }

    #[test]
    fn every_half_of_seed_and_index_counts() {
        let draws = [uniform(1, 1), uniform(2, 1), uniform(1, 2), uniform(1 << 32, 1), uniform(1, 1 << 32)];
        for (i, a) in draws.iter().enumerate() {
            assert!((0.0..1.0).contains(a));
            assert!(draws[..i].iter().all(|b| a != b), "draw {i} repeats");
        }
    }
}
