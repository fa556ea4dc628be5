//! Edits of a file as positions and bytes. The length of a message is rewritten only if something within it changed.

use std::collections::{BTreeMap, BTreeSet};

use crate::wire::{Fields, Payload, Slice, put_bytes};

/// Edits of fields, each identified by the start of its payload.
#[derive(Clone, Debug, Default)]
pub(super) struct Patches {
    replaced: BTreeMap<usize, Vec<u8>>,
    removed: BTreeSet<usize>,
    /// Fields that come before the one whose payload starts here.
    inserted: BTreeMap<usize, Vec<u8>>,
    /// Fields at the end of the message whose payload starts here.
    appended: BTreeMap<usize, Vec<u8>>,
}

impl Patches {
    /// Replaces the payload that starts here.
    pub(super) fn replace(&mut self, start: usize, payload: Vec<u8>) {
        self.replaced.insert(start, payload);
    }

    /// Removes the field whose payload starts here.
    pub(super) fn remove(&mut self, start: usize) {
        self.removed.insert(start);
    }

    /// Inserts a field before the one whose payload starts here.
    pub(super) fn insert_before(&mut self, start: usize, number: u32, payload: &[u8]) {
        put_bytes(self.inserted.entry(start).or_default(), number, payload);
    }

    /// Appends a field to the message whose payload starts here.
    pub(super) fn append(&mut self, start: usize, number: u32, payload: &[u8]) {
        put_bytes(self.appended.entry(start).or_default(), number, payload);
    }

    /// The message with the patches applied.
    pub(super) fn apply(&self, message: Slice<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(message.bytes.len());
        let mut fields = Fields::new(message);
        while let Ok(Some(field)) = fields.next() {
            let whole = &message.bytes[field.range.start - message.start..field.range.end - message.start];
            let Payload::Bytes(payload) = field.payload else {
                out.extend_from_slice(whole);
                continue;
            };
            if let Some(fields) = self.inserted.get(&payload.start) {
                out.extend_from_slice(fields);
            }
            match self.replaced.get(&payload.start) {
                _ if self.removed.contains(&payload.start) => {}
                Some(new) => put_bytes(&mut out, field.number, new),
                None if self.touches(payload) => put_bytes(&mut out, field.number, self.apply(payload)),
                None => out.extend_from_slice(whole),
            }
        }
        if let Some(fields) = self.appended.get(&message.start) {
            out.extend_from_slice(fields);
        }
        out
    }

    /// Whether a field within this message changed. Its payload starts after the message does; that of an empty field may start at the
    /// message's end.
    fn touches(&self, message: Slice<'_>) -> bool {
        let within = message.start + 1..message.start + message.bytes.len() + 1;
        self.appended.contains_key(&message.start)
            || self.removed.range(within.clone()).next().is_some()
            || [&self.replaced, &self.inserted, &self.appended].iter().any(|map| map.range(within.clone()).next().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::put_int;

    /// `{1: 7, 2: {3: "ab", 99: "unknown"}, 2: {}, 5: "end"}`, the last length with a needless byte.
    fn message() -> Vec<u8> {
        let mut inner = Vec::new();
        put_bytes(&mut inner, 3, "ab");
        put_bytes(&mut inner, 99, "unknown");
        let mut out = Vec::new();
        put_int(&mut out, 1, 7);
        put_bytes(&mut out, 2, inner);
        put_bytes(&mut out, 2, "");
        out.extend_from_slice(&[5 << 3 | 2, 0x83, 0x00]);
        out.extend_from_slice(b"end");
        out
    }

    #[test]
    fn no_patches_keep_every_byte() {
        assert_eq!(Patches::default().apply(Slice::whole(&message())), message());
    }

    #[test]
    fn only_patched_fields_change() {
        let bytes = message();
        // Payloads: the first inner message at 4, its text "ab" at 6, the empty one at 20.
        assert_eq!((&bytes[6..8], bytes[19]), (b"ab".as_slice(), 0));
        let mut patches = Patches::default();
        patches.replace(6, b"changed".to_vec());
        patches.append(20, 8, b"new");
        patches.insert_before(20, 9, b"before");
        let mut inner = Vec::new();
        put_bytes(&mut inner, 3, "changed");
        put_bytes(&mut inner, 99, "unknown");
        let mut expected = Vec::new();
        put_int(&mut expected, 1, 7);
        put_bytes(&mut expected, 2, inner);
        put_bytes(&mut expected, 9, "before");
        put_bytes(&mut expected, 2, [8 << 3 | 2, 3, b'n', b'e', b'w']);
        expected.extend_from_slice(&bytes[20..]);
        assert_eq!(patches.apply(Slice::whole(&bytes)), expected);
    }

    #[test]
    fn removed_field_is_absent() {
        let bytes = message();
        let mut patches = Patches::default();
        patches.remove(4);
        assert_eq!(patches.apply(Slice::whole(&bytes)), [&bytes[..2], &bytes[18..]].concat());
    }
}
