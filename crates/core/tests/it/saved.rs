//! Sequences in files: restored as they were, refused when they are damaged or another model's.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tandem_core::backend::KvState;
use tandem_core::conformance::FakeBackend;
use tandem_core::files::{ModelFile, ModelFiles};
use tandem_core::saved::{CHECKED, Restored, SavedSequence, SequenceOrigin};
use tandem_core::sequence::Sequence;
use tandem_core::{Backend, Capabilities, Capability, Error, LoadOptions, LogitsRequest, Model, SessionOptions, TokenId};

const NAME: &str = "talk.kv";

struct World {
    files: ModelFiles,
    model: Arc<dyn Model>,
    directory: tempfile::TempDir,
}

fn golden(name: &str) -> ModelFiles {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens").join(name);
    ModelFiles::discover(&directory, name).unwrap()
}

fn world() -> World {
    let files = golden("qwen2-tied");
    let capabilities = Capabilities::of(&[Capability::Generation, Capability::Rewind, Capability::KvTransfer]);
    let model = FakeBackend { capabilities, shows_stages: false }.load(&files, &LoadOptions::default()).unwrap();
    World { files, model, directory: tempfile::tempdir().unwrap() }
}

fn tokens(n: usize) -> Vec<TokenId> {
    (0..n).map(|i| (i * 7 % 50) as TokenId).collect()
}

impl World {
    fn path(&self) -> PathBuf {
        self.directory.path().join(NAME)
    }

    fn origin(&self) -> SequenceOrigin {
        SequenceOrigin::of(&self.files, self.model.info()).unwrap()
    }

    fn sequence(&self, n: usize) -> Sequence {
        let mut sequence = Sequence::new(&*self.model, &SessionOptions::default()).unwrap();
        if n > 0 {
            sequence.append(&tokens(n), LogitsRequest::None).unwrap();
        }
        sequence
    }

    fn save(&self, n: usize) -> Vec<u8> {
        SavedSequence::of(&self.sequence(n), self.origin()).unwrap().write(&self.path()).unwrap();
        fs::read(self.path()).unwrap()
    }

    fn read(&self, max_tokens: usize) -> Result<SavedSequence, Error> {
        SavedSequence::read(&self.path(), max_tokens, self.model.info().kv_bytes_per_token)
    }

    /// The logits of one more token.
    fn goes_on(&self, sequence: &mut Sequence) -> Vec<f32> {
        sequence.append(&[3], LogitsRequest::Last(1)).unwrap().values().to_vec()
    }
}

fn text(error: &Error) -> String {
    format!("{error} {:?}", error.hint())
}

#[test]
fn a_saved_sequence_goes_on_as_it_would_have() {
    let world = world();
    for n in [1, CHECKED, 40] {
        world.save(n);
        let saved = world.read(40).unwrap();
        assert_eq!(saved.tokens(), tokens(n));
        let mut restored = world.sequence(5);
        assert_eq!(saved.restore(&mut restored, &world.origin(), NAME).unwrap(), Restored::Exact);
        assert_eq!(restored.tokens(), tokens(n));
        assert_eq!(world.goes_on(&mut restored), world.goes_on(&mut world.sequence(n)));
    }
    // A file that is there is replaced.
    world.save(3);
    assert_eq!(world.read(40).unwrap().tokens().len(), 3);
}

#[cfg(unix)]
#[test]
fn a_saved_sequence_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let world = world();
    world.save(4);
    assert_eq!(fs::metadata(world.path()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(world.directory.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn nothing_to_save_and_nowhere_to_save_it_are_errors() {
    let world = world();
    assert!(matches!(SavedSequence::of(&world.sequence(0), world.origin()), Err(Error::EmptyPrompt)));
    let saved = SavedSequence::of(&world.sequence(2), world.origin()).unwrap();
    let error = saved.write(&world.directory.path().join("none/talk.kv")).unwrap_err();
    assert!(text(&error).contains("cannot be written"), "{}", text(&error));
    assert!(matches!(world.read(9), Err(Error::BadFile { .. })), "there is no file");
}

/// Every kind of damage is an error, or changes nothing.
#[test]
fn damage_is_an_error_or_harmless() {
    let world = world();
    let whole = world.save(20);
    let saved = world.read(20).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let header = u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize + 8;
    let mut n_errors = 0;
    for round in 0..1000 {
        let mut bytes = whole.clone();
        match round % 5 {
            0 => bytes.truncate(random(whole.len())),
            1 => bytes[random(whole.len())] ^= 1 << random(8),
            2 => bytes[random(header)] = b"0123456789{}[],:\" abc"[random(21)],
            3 => {
                let (from, to, n) = (random(whole.len() - 64), random(whole.len() - 64), 1 + random(64));
                bytes.copy_within(from..from + n, to);
            }
            _ => bytes.extend_from_slice(&whole[..1 + random(whole.len())]),
        }
        match SavedSequence::parse(&bytes, NAME) {
            Err(Error::BadFile { .. } | Error::BadField { .. }) => n_errors += 1,
            Err(error) => panic!("{error:?}"),
            Ok(read) => assert_eq!(read, saved, "round {round}"),
        }
    }
    assert!(n_errors > 900, "{n_errors}");
}

#[test]
fn a_longer_sequence_than_the_session_is_refused_before_it_is_read() {
    let world = world();
    world.save(4);
    fs::File::options().write(true).open(world.path()).unwrap().set_len(1 << 40).unwrap();
    let error = world.read(10_000).unwrap_err();
    assert!(text(&error).contains("longer context"), "{}", text(&error));
    assert!(matches!(SavedSequence::read(world.directory.path(), 10, 8), Err(Error::BadFile { .. })), "a directory");
    world.save(12);
    let small = SessionOptions::new().with_context_length(8);
    let mut sequence = Sequence::new(&*world.model, &small).unwrap();
    let restored = world.read(12).unwrap().restore(&mut sequence, &world.origin(), NAME);
    assert!(matches!(restored, Err(Error::ContextFull { .. })), "{restored:?}");
    assert_eq!(sequence.tokens().len(), 0);
}

#[test]
fn what_another_model_computed_is_refused_by_name() {
    let world = world();
    world.save(6);
    let saved = world.read(6).unwrap();
    let refused = |files: &ModelFiles, field: &str| {
        let other = SequenceOrigin::of(files, world.model.info()).unwrap();
        let mut sequence = world.sequence(2);
        match saved.restore(&mut sequence, &other, NAME) {
            Err(Error::BadField { file, field: named, .. }) => assert_eq!((file.as_str(), named.as_str()), (NAME, field)),
            other => panic!("{field}: {other:?}"),
        }
        assert_eq!(sequence.tokens().len(), 2, "it is as it was");
    };
    let other = golden("qwen3");
    let with = |change: &dyn Fn(&mut ModelFiles)| {
        let mut files = world.files.clone();
        change(&mut files);
        files
    };
    refused(&with(&|files| files.weights = other.weights.clone()), "weights");
    refused(&with(&|files| files.config = other.config.clone()), "config");
    refused(&with(&|files| files.tokenizer = Some(other.config.clone())), "tokenizer");
    // One bit of a weight.
    let changed = world.directory.path().join("model.safetensors");
    let mut bytes = fs::read(world.files.weights[0].path().unwrap()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&changed, bytes).unwrap();
    refused(&with(&|files| files.weights = vec![ModelFile::Path(changed.clone())]), "weights");
}

/// Another engine's keys and values are compared at the end, and are then its own.
#[test]
fn what_another_engine_computed_is_checked() {
    let world = world();
    let mut info = world.model.info().clone();
    info.engine_version = "another".into();
    let other = SequenceOrigin::of(&world.files, &info).unwrap();
    for n in [1, CHECKED, CHECKED + 1, 30] {
        let saved = SavedSequence::of(&world.sequence(n), other.clone()).unwrap();
        let mut sequence = world.sequence(0);
        let restored = saved.restore(&mut sequence, &world.origin(), NAME).unwrap();
        assert_eq!(restored, Restored::Checked { n_tokens: n.min(CHECKED), difference: 0.0 });
        assert_eq!(world.goes_on(&mut sequence), world.goes_on(&mut world.sequence(n)));
    }
    // Those of other tokens are not believed.
    let mut wrong = tokens(30);
    wrong[20] += 1;
    let mut sequence = world.sequence(0);
    sequence.append(&wrong, LogitsRequest::None).unwrap();
    let saved = SavedSequence::new(other, tokens(30), sequence.export_kv().unwrap());
    let mut sequence = world.sequence(0);
    let refused = saved.restore(&mut sequence, &world.origin(), NAME);
    assert!(matches!(&refused, Err(Error::BadField { field, .. }) if field == "origin"), "{refused:?}");
    assert_eq!(sequence.tokens().len(), 0);
}

#[test]
fn differences_are_parts_of_the_largest_value_of_a_layer() {
    let state = |data: &[f32]| {
        let shape = tandem_core::backend::KvShape { n_layers: 2, kv_heads: 1, head_dim: 2 };
        KvState::new(shape, 0, 1, tandem_core::DType::F32, data.to_vec())
    };
    let one = state(&[1.0, -4.0, 0.0, 0.0, 1.0, 1.0, 8.0, 2.0]);
    assert_eq!(one.difference(&one), Some(0.0));
    assert_eq!(one.difference(&state(&[2.0, -4.0, 0.0, 0.0, 1.0, 1.0, 8.0, 4.0])), Some(0.25));
    assert_eq!(one.difference(&state(&[1.0, -4.0, 1.0, 0.0, 1.0, 1.0, 8.0, 2.0])), Some(1.0));
    assert_eq!(one.difference(&state(&[f32::NAN, -4.0, 0.0, 0.0, 1.0, 1.0, 8.0, 2.0])), None);
    assert_eq!(one.difference(&one.part(0..0)), None);
    let two = KvState::new(one.shape, 0, 2, tandem_core::DType::F32, (0..16).map(|i| i as f32).collect());
    assert_eq!(two.part(1..2).data, [2.0, 3.0, 6.0, 7.0, 10.0, 11.0, 14.0, 15.0]);
    assert_eq!((two.part(1..2).first_position, two.part(0..2)), (1, two.clone()));
}
