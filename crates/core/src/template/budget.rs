//! What one rendering may take: bytes that it makes, and work on what it has. The engine counts steps, and one step can double a text.

use std::error::Error as StdError;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Bytes of texts and lists that a template may make, beside those that grow with what it is given. What it gives up again counts too,
/// so that the memory of a rendering never exceeds this.
const MADE_BYTES: usize = 40 << 20;

/// Bytes that it may make for each byte that it is given: templates copy a message some five times.
const MADE_PER_BYTE: usize = 16;

/// Values that it may look at; a piece of text counts as one.
const LOOKS: usize = 2_000_000;

/// The deepest that lists may lie in lists where something looks into them; JSON that was read is at most 128 deep.
const MAX_NESTING: usize = 10_000;

/// And for each byte that it is given.
const LOOKS_PER_BYTE: usize = 4;

/// A piece of text that is read as fast as one value is looked at, in bytes.
const PIECE: usize = 64;

/// What is left of both.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: AtomicUsize,
    looks: AtomicUsize,
}

/// Which of them was used up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Exceeded {
    Bytes,
    Looks,
    Nesting,
}

impl Budget {
    /// That of a rendering which is given `n_bytes`.
    pub(super) fn new(n_bytes: usize) -> Self {
        let of = |base: usize, each: usize| AtomicUsize::new(base.saturating_add(each.saturating_mul(n_bytes)));
        Self { bytes: of(MADE_BYTES, MADE_PER_BYTE), looks: of(LOOKS, LOOKS_PER_BYTE) }
    }

    /// `n_bytes` are going to be made.
    pub(super) fn make(&self, n_bytes: usize) -> Result<(), Error> {
        take(&self.bytes, n_bytes).ok_or_else(|| Exceeded::Bytes.into())
    }

    /// `n` values are going to be looked at.
    pub(super) fn look(&self, n: usize) -> Result<(), Error> {
        take(&self.looks, n).ok_or_else(|| Exceeded::Looks.into())
    }

    /// `text` is going to be read.
    pub(super) fn read(&self, text: &str) -> Result<(), Error> {
        self.look(1 + text.len() / PIECE)
    }

    /// `value` is going to be looked at with all that is in it; gives how many values those are. One that contains itself is refused.
    pub(super) fn look_into(&self, value: &Value) -> Result<usize, Error> {
        let mut n = 1;
        self.look_at(value)?;
        if !is_container(value) {
            return Ok(n);
        }
        let mut open = vec![(value.try_iter()?, value.clone())];
        while let Some((items, container)) = open.last_mut() {
            let Some(item) = items.next() else {
                open.pop();
                continue;
            };
            let mut found = vec![item];
            if container.kind() == ValueKind::Map {
                found.push(container.get_item(&found[0])?);
            }
            for item in found {
                n += 1;
                self.look_at(&item)?;
                if is_container(&item) {
                    if open.len() > MAX_NESTING {
                        return Err(Exceeded::Nesting.into());
                    }
                    open.push((item.try_iter()?, item));
                }
            }
        }
        Ok(n)
    }

    /// The text of `value` is going to be made; gives its length in bytes.
    pub(super) fn print(&self, value: &Value) -> Result<usize, Error> {
        let n_bytes = self.printed(value)?;
        self.make(n_bytes)?;
        Ok(n_bytes)
    }

    /// The length of the text of `value`, in bytes.
    pub(super) fn printed(&self, value: &Value) -> Result<usize, Error> {
        self.look_into(value)?;
        if let Some(text) = value.as_str() {
            return Ok(text.len());
        }
        let mut counter = Counter { n_bytes: 0, most: self.bytes.load(Ordering::Relaxed) };
        write!(counter, "{value}").map_err(|_| Exceeded::Bytes)?;
        Ok(counter.n_bytes)
    }

    fn look_at(&self, value: &Value) -> Result<(), Error> {
        value.as_str().map_or_else(|| self.look(1), |text| self.read(text))
    }
}

fn is_container(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map)
}

fn take(left: &AtomicUsize, n: usize) -> Option<()> {
    // One thread renders; an atomic is only what lets its functions share it.
    let rest = left.load(Ordering::Relaxed).checked_sub(n);
    left.store(rest.unwrap_or(0), Ordering::Relaxed);
    rest.map(drop)
}

/// Counts what is written.
struct Counter {
    n_bytes: usize,
    most: usize,
}

impl Write for Counter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.n_bytes = self.n_bytes.saturating_add(text.len());
        if self.n_bytes > self.most { Err(fmt::Error) } else { Ok(()) }
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes => write!(f, "it makes more than {} MiB of text and lists", MADE_BYTES >> 20),
            Self::Looks => write!(f, "it looks at more than {LOOKS} values"),
            Self::Nesting => write!(f, "its values are nested more than {MAX_NESTING} deep"),
        }
    }
}

impl StdError for Exceeded {}

impl From<Exceeded> for Error {
    fn from(exceeded: Exceeded) -> Self {
        Self::new(ErrorKind::OutOfFuel, "the rendering takes too much").with_source(exceeded)
    }
}
