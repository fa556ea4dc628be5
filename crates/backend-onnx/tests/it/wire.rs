//! Fields of protobuf messages, for graphs that tests write.

pub(crate) fn text(field: u64, value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, field, value.as_bytes());
    out
}

pub(crate) fn message(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

pub(crate) fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
