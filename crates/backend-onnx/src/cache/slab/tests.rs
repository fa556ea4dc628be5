//! Slots come, are moved and go, and those beside them keep what they hold.

use ort::value::TensorElementType;
use tandem_core::conformance::{describe, with_fixture};

use super::*;
use crate::library;

fn ports() -> Vec<CachePort> {
    let of = |i: usize, dtype| CachePort { input: i, output: i, dtype, kv_heads: 1 + i, head_dim: 8 };
    vec![of(0, TensorElementType::Float32), of(1, TensorElementType::Float16), of(2, TensorElementType::Float32)]
}

/// The numbers of `slots`.
fn numbers(slots: &[Slot]) -> Vec<usize> {
    slots.iter().map(Slot::index).collect()
}

fn values(tensor: &mut DynValue) -> &mut [f32] {
    tensor.try_extract_tensor_mut::<f32>().unwrap().1
}

#[test]
fn slots_are_claimed_beside_those_that_stay() {
    let slab = Slab::new(&ports(), 8, 16).unwrap();
    let (first, mut three) = slab.claim(&[], 3).unwrap();
    assert_eq!((first, numbers(&three)), (0, vec![0, 1, 2]));
    let claimed = |own: &[usize], n: usize| slab.claim(own, n).map(|(first, free)| (first, numbers(&free)));
    assert_eq!(claimed(&[0, 1, 2], 3), Some((0, vec![])), "all stay");
    assert_eq!(claimed(&[0, 1, 2], 5), Some((0, vec![3, 4])), "two more come");
    assert_eq!(claimed(&[1, 2], 2), Some((1, vec![])), "one has left");
    assert_eq!(claimed(&[0, 2], 2), Some((2, vec![3])), "the one between is another's");
    assert_eq!(claimed(&[], 5), Some((3, vec![3, 4, 5, 6, 7])));
    assert_eq!(claimed(&[], 6), None, "others have them");
    assert_eq!(claimed(&[0, 1, 2], 9), None, "so many there are not");
    three.remove(1);
    assert_eq!(claimed(&[0, 2], 3), Some((0, vec![1])), "the one between is free again");
}

#[test]
fn sizes_that_no_address_space_has_are_errors() {
    for (n_slots, capacity) in [(1, usize::MAX / 2), (usize::MAX / 2, 1), (1 << 40, 1 << 40)] {
        assert!(Slab::new(&ports(), n_slots, capacity).is_err(), "{n_slots} {capacity}");
    }
}

#[test]
fn a_slot_is_its_part_of_the_tensor_of_several() {
    let test = || {
        let ports = ports();
        let slab = Slab::new(&ports, 4, 16).unwrap();
        let (_, slots) = slab.claim(&[], 4).unwrap();
        for slot in &slots {
            let mut tensors = slot.tensors(&ports).unwrap();
            for (port, tensor) in ports.iter().zip(&mut tensors).filter(|(port, _)| port.dtype == TensorElementType::Float32) {
                assert_eq!(tensor.shape().to_vec(), [1, port.kv_heads as i64, 16, 8]);
                values(tensor).fill(slot.index() as f32);
            }
        }
        let mut several = slab.tensors(&ports, 1..4).unwrap();
        for (i, port) in [(0, ports[0]), (2, ports[2])] {
            assert_eq!(several[i].shape().to_vec(), [3, port.kv_heads as i64, 16, 8]);
            let of_slot = port.kv_heads * 16 * 8;
            let all = values(&mut several[i]);
            assert!(all.iter().enumerate().all(|(at, value)| *value == (1 + at / of_slot) as f32));
        }
    };
    with_engine(test);
}

#[test]
fn tokens_are_taken_over_by_slots_of_another_capacity() {
    with_engine(|| {
        let ports = ports();
        let mut from = Slot::alone(&ports, 16).unwrap();
        let number = |head: usize, at: usize| (head * 1000 + at) as f32;
        for (i, port) in [(0, ports[0]), (2, ports[2])] {
            let mut tensors = from.tensors(&ports).unwrap();
            let heads = values(&mut tensors[i]).chunks_exact_mut(16 * 8).enumerate();
            assert_eq!(heads.len(), port.kv_heads);
            heads.for_each(|(head, values)| values.iter_mut().enumerate().for_each(|(at, value)| *value = number(head, at)));
        }
        let slab = Slab::new(&ports, 4, 40).unwrap();
        let (_, mut slots) = slab.claim(&[], 3).unwrap();
        slots[1].take_over(&mut from, 5);
        for i in [0, 2] {
            for (head, values) in values(&mut slots[1].tensors(&ports).unwrap()[i]).chunks_exact(40 * 8).enumerate() {
                assert!((0..5 * 8).all(|at| values[at] == number(head, at)), "{i} {head}");
                assert!(values[5 * 8..].iter().all(|value| *value == 0.0));
            }
            for beside in [0, 2] {
                assert!(values(&mut slots[beside].tensors(&ports).unwrap()[i]).iter().all(|value| *value == 0.0));
            }
        }
    });
}

fn with_engine(test: impl FnOnce()) {
    with_fixture(|| library::environment(None).map_err(|error| describe(&error)), |_| test());
}
