//! Instructions whose intrinsics need a newer Rust than the project, as functions on vectors.
#![expect(unsafe_code, reason = "instructions without a stable intrinsic")]

use std::arch::aarch64::*;
use std::arch::asm;

/// Widens eight f16, given as their bits, exactly.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn widened_f16(halves: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: the instructions are of NEON, and read and write the named registers alone.
    unsafe {
        asm!("fcvtl {low:v}.4s, {halves:v}.4h", halves = in(vreg) halves, low = lateout(vreg) low,
             options(pure, nomem, nostack, preserves_flags));
        asm!("fcvtl2 {high:v}.4s, {halves:v}.8h", halves = in(vreg) halves, high = lateout(vreg) high,
             options(pure, nomem, nostack, preserves_flags));
    }
    [low, high]
}

/// Rounds eight values to f16, ties to even, and returns their bits.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn narrowed_f16([low, high]: [float32x4_t; 2]) -> uint16x8_t {
    let mut halves: uint16x8_t;
    // SAFETY: as in `widened_f16`.
    unsafe {
        asm!("fcvtn {halves:v}.4h, {low:v}.4s", low = in(vreg) low, halves = lateout(vreg) halves,
             options(pure, nomem, nostack, preserves_flags));
        asm!("fcvtn2 {halves:v}.8h, {high:v}.4s", high = in(vreg) high, halves = inout(vreg) halves,
             options(pure, nomem, nostack, preserves_flags));
    }
    halves
}

/// Adds to each lane of `sums` the products of four signed bytes.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn sdot(sums: int32x4_t, left: int8x16_t, right: int8x16_t) -> int32x4_t {
    let mut sums = sums;
    // SAFETY: the instruction is of the dot products that the function is for, and reads and writes the named registers alone.
    unsafe {
        asm!("sdot {sums:v}.4s, {left:v}.16b, {right:v}.16b",
             sums = inout(vreg) sums, left = in(vreg) left, right = in(vreg) right,
             options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// As [`sdot`], with the same four bytes of `word` in each lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn sdot_word(sums: int32x4_t, left: int8x16_t, word: i32) -> int32x4_t {
    let mut sums = sums;
    // An f32 of the same bits, because that is what is loaded into the first lane of a vector register.
    let word = f32::from_bits(word.cast_unsigned());
    // SAFETY: as in `sdot`.
    unsafe {
        asm!("sdot {sums:v}.4s, {left:v}.16b, {word:v}.4b[0]",
             sums = inout(vreg) sums, left = in(vreg) left, word = in(vreg) word,
             options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// Adds to `sums`, `[2, 2]`, the products of `left`, two rows of eight unsigned bytes, with `right`, two rows of eight signed ones.
#[inline]
#[target_feature(enable = "neon,i8mm")]
pub(super) fn usmmla(sums: int32x4_t, left: uint8x16_t, right: int8x16_t) -> int32x4_t {
    let mut sums = sums;
    // SAFETY: the instruction is of i8mm, which the function is for, and reads and writes the named registers alone.
    unsafe {
        asm!("usmmla {sums:v}.4s, {left:v}.16b, {right:v}.16b",
             sums = inout(vreg) sums, left = in(vreg) left, right = in(vreg) right,
             options(pure, nomem, nostack, preserves_flags));
    }
    sums
}
