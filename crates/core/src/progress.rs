//! How far work is that takes long enough for people to wait: reading gigabytes, writing them.

use std::fmt;
use std::sync::Arc;

use crate::primitives::DType;

/// Who is told how far work is; by default nobody.
///
/// A backend calls it from the thread that works. It is called often: a listener that draws does so when it is time.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<Listener>>);

type Listener = dyn Fn(&ProgressEvent<'_>) + Send + Sync;

/// A step of such work; it displays as one line for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgressEvent<'a> {
    /// Another process does the same work, and its result will be used.
    Waiting {
        /// What for, such as `the export of qwen to int4`.
        what: &'a str,
    },
    /// A file is read for its hash.
    Hashing {
        /// Its name.
        file: &'a str,
        /// Bytes read.
        done: u64,
        /// Its size in bytes.
        total: u64,
    },
    /// Files are downloaded.
    Downloading {
        /// The file that bytes came for.
        file: &'a str,
        /// Bytes of all files that are there.
        done: u64,
        /// Bytes of all files.
        total: u64,
    },
    /// Another process downloads a file, and it will be used here too.
    DownloadingElsewhere {
        /// The file.
        file: &'a str,
        /// Bytes of all files that are there.
        done: u64,
        /// Bytes of all files.
        total: u64,
    },
    /// A graph is made from a checkpoint.
    Exporting {
        /// The dtype of the graph's weights.
        dtype: DType,
        /// Bytes of the checkpoint's weights that are done.
        done: u64,
        /// Bytes of all of them.
        total: u64,
    },
    /// The weights of a checkpoint are quantised.
    Quantizing {
        /// What they become.
        dtype: DType,
        /// Bytes of the checkpoint's weights that are done.
        done: u64,
        /// Bytes of all of them.
        total: u64,
    },
    /// What was made of a checkpoint is not kept, so that the next load makes it again.
    NotKept {
        /// Why.
        problem: &'a str,
    },
    /// Adapters are merged into a checkpoint.
    Merging {
        /// Bytes of its weights that are written.
        done: u64,
        /// Bytes of all of them.
        total: u64,
    },
}

impl Progress {
    /// Tells `listener`.
    pub fn new(listener: impl Fn(&ProgressEvent<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// Tells the listener, if there is one.
    pub fn tell(&self, event: &ProgressEvent<'_>) {
        if let Some(listener) = &self.0 {
            listener(event);
        }
    }
}

impl ProgressEvent<'_> {
    /// Bytes done and bytes in all, of work that is measured by them.
    pub fn bytes(&self) -> Option<(u64, u64)> {
        match *self {
            Self::Waiting { .. } | Self::NotKept { .. } => None,
            Self::Hashing { done, total, .. }
            | Self::Downloading { done, total, .. }
            | Self::DownloadingElsewhere { done, total, .. }
            | Self::Exporting { done, total, .. }
            | Self::Quantizing { done, total, .. }
            | Self::Merging { done, total } => Some((done.min(total), total)),
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("listens", &self.0.is_some()).finish()
    }
}

impl fmt::Display for ProgressEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { what } => write!(f, "waiting for another process: {what}")?,
            Self::Hashing { file, .. } => write!(f, "hashing {file}")?,
            Self::Downloading { file, .. } => write!(f, "downloading {file}")?,
            Self::DownloadingElsewhere { file, .. } => write!(f, "another process downloads {file}")?,
            Self::Exporting { dtype, .. } => write!(f, "exporting to {dtype}")?,
            Self::Quantizing { dtype, .. } => write!(f, "quantising to {dtype}")?,
            Self::NotKept { problem } => write!(f, "quantised weights are not kept for the next load: {problem}")?,
            Self::Merging { .. } => f.write_str("merging")?,
        }
        match self.bytes() {
            Some((done, total)) => write!(f, ": {}%", u128::from(done) * 100 / u128::from(total.max(1))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn events_are_lines_for_people() {
        let check = |event: ProgressEvent<'_>, expected: &str| assert_eq!(event.to_string(), expected);
        check(
            ProgressEvent::Waiting { what: "the export of qwen to int4" },
            "waiting for another process: the export of qwen to int4",
        );
        check(ProgressEvent::Hashing { file: "model.safetensors", done: 1, total: 3 }, "hashing model.safetensors: 33%");
        check(ProgressEvent::Downloading { file: "tokenizer.json", done: 1, total: 2 }, "downloading tokenizer.json: 50%");
        check(
            ProgressEvent::DownloadingElsewhere { file: "model.safetensors", done: 3, total: 4 },
            "another process downloads model.safetensors: 75%",
        );
        check(ProgressEvent::Exporting { dtype: DType::Int4, done: 9, total: 9 }, "exporting to int4: 100%");
        check(ProgressEvent::Quantizing { dtype: DType::Int4, done: 1, total: 2 }, "quantising to int4: 50%");
        check(
            ProgressEvent::NotKept { problem: "`/cache`: cannot be made" },
            "quantised weights are not kept for the next load: `/cache`: cannot be made",
        );
        check(ProgressEvent::Exporting { dtype: DType::F32, done: 7, total: 0 }, "exporting to f32: 0%");
        check(ProgressEvent::Exporting { dtype: DType::F32, done: u64::MAX, total: u64::MAX }, "exporting to f32: 100%");
    }

    #[test]
    fn a_listener_hears_what_every_clone_tells() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let progress = Progress::new({
            let heard = Arc::clone(&heard);
            move |event| heard.lock().unwrap().push(event.to_string())
        });
        progress.clone().tell(&ProgressEvent::Waiting { what: "nothing" });
        Progress::default().tell(&ProgressEvent::Waiting { what: "nobody" });
        assert_eq!(*heard.lock().unwrap(), ["waiting for another process: nothing"]);
    }
}
