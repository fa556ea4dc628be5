//! Any bytes are a bundle or an error, never a panic; nothing is written outside the cache, and what is in it has its hash:
//! `cargo +nightly fuzz run bundle`.
#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tandem_core::{CancelToken, Progress};
use tandem_hub::{Hub, HubSettings};
use tar::{Builder, EntryType, Header};

fuzz_target!(|bytes: &[u8]| {
    let place = tempfile::tempdir().expect("a directory for temporary files");
    let bundle = place.path().join("bundle");
    fs::write(&bundle, bundle_of(bytes)).expect("it can be written");
    let settings = HubSettings { offline: true, ..HubSettings::new("http://hub.invalid", place.path().join("cache")) };
    let hub = Hub::new(settings);
    // The second time there is something that could be replaced.
    for _ in 0..2 {
        if let Ok((reference, pulled)) = hub.read_bundle(&bundle, None, &Progress::default(), &CancelToken::new()) {
            assert!(pulled.files.iter().all(|file| file.path.metadata().expect("it is linked to").len() == file.bytes));
            let damages = hub.verify(Some(&reference.repository), &Progress::default(), &CancelToken::new());
            assert_eq!(damages.expect("the cache can be read"), []);
        }
    }
    let beside = fs::read_dir(place.path()).expect("it is there").flatten().map(|entry| entry.file_name());
    assert!(beside.into_iter().all(|name| name == "bundle" || name == "cache"));
    assert!(!Path::new("/models--owner--name").exists());
});

/// An archive: `bytes` themselves, or made of their parts between bytes of 255, so that its checksums are right: the manifest, and then
/// the name and content of each further member.
fn bundle_of(bytes: &[u8]) -> Vec<u8> {
    let Some((0, rest)) = bytes.split_first() else { return bytes.to_vec() };
    let mut archive = Builder::new(Vec::new());
    let mut parts = rest.split(|byte| *byte == 255);
    let mut add = |kind: EntryType, name: &[u8], content: &[u8]| {
        let mut header = Header::new_gnu();
        let n = name.len().min(header.as_old().name.len());
        header.as_old_mut().name[..n].copy_from_slice(&name[..n]);
        header.set_size(content.len() as u64);
        header.set_entry_type(kind);
        header.set_cksum();
        archive.append(&header, content).expect("memory can be written");
    };
    add(EntryType::Regular, b"tandem-bundle.json", parts.next().unwrap_or_default());
    while let (Some(name), Some(content)) = (parts.next(), parts.next()) {
        let kind = if name.first() == Some(&b'L') { EntryType::GNULongName } else { EntryType::Regular };
        add(kind, name, content);
    }
    archive.into_inner().expect("memory can be written")
}
