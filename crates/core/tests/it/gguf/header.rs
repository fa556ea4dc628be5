//! The header check. The bad files are those of llama.cpp's `tests/test-gguf.cpp`, and some more.

use proptest::prelude::*;
use tandem_core::conformance::{GgufWriter, describe};
use tandem_core::gguf::TensorType;

use super::{parse, small};

/// Parses what `change` makes of a good file; the error has all of `parts`.
#[track_caller]
fn refused(what: &str, change: impl FnOnce(&mut GgufWriter), parts: &[&str]) {
    let mut writer = small();
    change(&mut writer);
    refused_bytes(what, writer.to_bytes(), parts);
}

#[track_caller]
fn refused_bytes(what: &str, bytes: Vec<u8>, parts: &[&str]) {
    let Err(error) = parse(bytes) else { panic!("{what} is an error") };
    let text = describe(&error);
    for part in ["`x.gguf`"].iter().chain(parts) {
        assert!(text.contains(part), "{what}: no `{part}` in {text}");
    }
}

/// A good file with the bytes at `at` replaced.
fn patched(at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = small().to_bytes();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

#[test]
fn a_good_file_is_read() {
    let gguf = parse(small().to_bytes()).unwrap();
    assert_eq!(gguf.architecture().unwrap(), "qwen2");
    let tensor = gguf.tensor("token_embd.weight").unwrap();
    assert_eq!((tensor.kind, tensor.shape, tensor.bytes.len()), (TensorType::F32, &[4, 8][..], 128));
    assert!(gguf.tensor("output.weight").unwrap_err().to_string().contains("`output.weight`"));
    let aligned = |alignment: usize| {
        let mut writer = GgufWriter { alignment, ..small() };
        writer.u32("general.alignment", alignment as u32);
        let mut marked = writer.clone();
        marked.tensors[1].bytes = vec![7; 32];
        parse(marked.to_bytes()).unwrap().tensor("output_norm.weight").unwrap().bytes.to_vec()
    };
    for alignment in [1, 8, 64, 4096] {
        assert_eq!(aligned(alignment), [7; 32], "alignment {alignment}");
    }
    assert!(parse(GgufWriter { version: 2, ..small() }.to_bytes()).is_ok());
}

#[test]
fn files_that_are_no_gguf() {
    refused_bytes("nothing", Vec::new(), &["is not a GGUF file: it is empty"]);
    refused_bytes("three bytes", b"GGU".to_vec(), &["begins with `GGU`"]);
    refused_bytes("another magic", patched(0, b"PK\x03\x04"), &["`PK\\u{3}\\u{4}`", "obtain it again"]);
    refused_bytes("a web page", b"<!DOCTYPE html>".to_vec(), &["`<!DO`"]);
    refused_bytes("the magic alone", b"GGUF".to_vec(), &["ends within its version"]);
}

#[test]
fn versions_that_are_not_read() {
    for version in [0, 1, 4, 0xFFFF_FFFF] {
        refused("another version", |writer| writer.version = version, &[&format!("version {version}"), "2 and 3"]);
    }
    refused("big-endian", |writer| writer.version = 3_u32.swap_bytes(), &["big-endian"]);
}

#[test]
fn counts_that_the_file_cannot_hold() {
    for n in [u64::MAX, i64::MAX as u64, 1 << 40, 1 << 16, 60_000] {
        refused_bytes("many tensors", patched(8, &n.to_le_bytes()), &["`tensor_count`"]);
        refused_bytes("many keys", patched(16, &n.to_le_bytes()), &["`metadata_kv_count`"]);
    }
    refused_bytes("a few keys more", patched(16, &3_u64.to_le_bytes()), &[]);
    refused_bytes("a tensor more", patched(8, &3_u64.to_le_bytes()), &[]);
}

#[test]
fn keys_that_cannot_be() {
    for n in [u64::MAX, 1 << 40, 5000] {
        refused_bytes("a long key", patched(24, &n.to_le_bytes()), &["ends within a key"]);
    }
    refused("an empty key", |writer| writer.u32("", 1), &["is empty"]);
    refused("a key of 64 KiB", |writer| writer.u32(&"k".repeat(1 << 16), 1), &["longer than 65535", "kkk..."]);
    refused("a key that moves the cursor", |writer| writer.u32("a\x1b[2J", 1), &["printable ASCII", "\\u{1b}"]);
    refused("a key twice", |writer| writer.u32("qwen2.block_count", 2), &["`qwen2.block_count`", "twice"]);
}

#[test]
fn values_that_cannot_be() {
    for kind in [13, 255, u32::MAX] {
        refused("an unknown type", |writer| writer.raw("k", kind, vec![0; 8]), &["field `k`", &format!("type {kind}")]);
    }
    refused("a boolean of 2", |writer| writer.raw("k", 7, vec![2]), &["field `k`", "neither 0 nor 1"]);
    let long = |n: u64| n.to_le_bytes().to_vec();
    for n in [u64::MAX, u64::MAX - 7, 1 << 40] {
        refused("a long string", |writer| writer.raw("k", 8, long(n)), &["ends within the value of `k`"]);
        let array = |kind: u32| [&kind.to_le_bytes()[..], &long(n)].concat();
        refused("a long list of numbers", |writer| writer.raw("k", 9, array(4)), &["ends within the list `k`"]);
        refused("a long list of bytes", |writer| writer.raw("k", 9, array(0)), &["ends within the list `k`"]);
        refused("a long list of strings", |writer| writer.raw("k", 9, array(8)), &["field `k`", "strings, more than"]);
        refused("a list of lists", |writer| writer.raw("k", 9, array(9)), &["field `k`", "list of lists"]);
        refused("a list of an unknown type", |writer| writer.raw("k", 9, array(99)), &["field `k`", "type 99"]);
    }
}

#[test]
fn alignments_that_cannot_be() {
    const KEY: &str = "field `general.alignment`";
    for n in [0, 3, 33, 48, u32::MAX, 1 << 31] {
        refused("an alignment", |writer| writer.u32("general.alignment", n), &[KEY, &format!("is {n}")]);
    }
    refused("an alignment of another type", |writer| writer.string("general.alignment", "32"), &[KEY, "is a string"]);
    refused("a negative one", |writer| writer.raw("general.alignment", 5, vec![0xFF; 4]), &[KEY]);
    // Tensors were written at multiples of 32, and the file says 64.
    refused(
        "an alignment that is not kept",
        |writer| writer.u32("general.alignment", 4096),
        &["`output_norm.weight`", "offset 128"],
    );
}

#[test]
fn tensors_that_cannot_be() {
    let edit = |what: &str, change: &dyn Fn(&mut tandem_core::conformance::WrittenTensor), parts: &[&str]| {
        refused(what, |writer| change(&mut writer.tensors[1]), parts);
    };
    edit("no name", &|tensor| tensor.name.clear(), &["is empty"]);
    edit("a long name", &|tensor| tensor.name = "n".repeat(64), &["longer than 63"]);
    edit("a name of control characters", &|tensor| tensor.name = "a\nb".into(), &["a\\nb", "printable ASCII"]);
    edit("a name twice", &|tensor| tensor.name = "token_embd.weight".into(), &["`token_embd.weight`", "twice"]);
    edit("no dimensions", &|tensor| tensor.dimensions.clear(), &["`output_norm.weight`", "0 dimensions"]);
    edit("five dimensions", &|tensor| tensor.dimensions = vec![8, 1, 1, 1, 1], &["`output_norm.weight`", "5 dimensions"]);
    edit("a dimension of 0", &|tensor| tensor.dimensions = vec![8, 0], &["dimension of 0"]);
    for dimensions in [vec![u64::MAX], vec![1 << 32, 1 << 32], vec![1 << 62, 2], vec![1 << 31, 1 << 31, 4], vec![8, u64::MAX]] {
        edit("dimensions that overflow", &|tensor| tensor.dimensions = dimensions.clone(), &["multiply beyond 64 bits"]);
    }
    edit("bytes that overflow", &|tensor| tensor.dimensions = vec![1 << 62], &["beyond any file"]);
    edit("a type removed long ago", &|tensor| tensor.kind = 4, &["type 4"]);
    edit("an unknown type", &|tensor| tensor.kind = u32::MAX, &["`output_norm.weight`", "type 4294967295"]);
    edit("a type that is not read", &|tensor| tensor.kind = 10, &["Q2_K", "`output_norm.weight`", "Q4_K_M"]);
    edit("a row of half a block", &|tensor| tensor.kind = TensorType::Q4_0.number(), &["rows of 8 values", "blocks of 32"]);
    edit("an offset between", &|tensor| tensor.offset = Some(100), &["offset 100", "alignment 32"]);
    edit("an offset past the end", &|tensor| tensor.offset = Some(1 << 20), &["lies from byte 1048576"]);
    edit("an offset beyond 64 bits", &|tensor| tensor.offset = Some(u64::MAX - 31), &["beyond any file"]);
    edit("an offset into another", &|tensor| tensor.offset = Some(96), &["lies over `token_embd.weight`"]);
    edit("another's offset", &|tensor| tensor.offset = Some(0), &["lies over"]);
    edit("more rows than bytes", &|tensor| tensor.dimensions = vec![8, 2], &["of which there are 160"]);
}

#[test]
fn files_of_another_kind() {
    refused("a part", |writer| writer.raw("split.count", 2, vec![3, 0]), &["one of 3 parts", "--merge"]);
    refused("an adapter", |writer| writer.string("general.type", "adapter"), &["`adapter`", "whole models"]);
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let bytes = small().to_bytes();
    for n in 0..bytes.len() {
        assert!(parse(bytes[..n].to_vec()).is_err(), "{n} bytes of {}", bytes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever bytes are changed, there is an answer, and every tensor that is described lies within the file.
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((0_usize..420, any::<u8>()), 1..6)) {
        let mut bytes = small().to_bytes();
        let n = bytes.len();
        for (at, byte) in changes {
            bytes[at % n] = byte;
        }
        if let Ok(gguf) = parse(bytes) {
            for (name, _) in gguf.tensors() {
                let tensor = gguf.tensor(name).unwrap();
                prop_assert!(!tensor.bytes.is_empty());
            }
            let _ = gguf.config();
        }
    }
}
