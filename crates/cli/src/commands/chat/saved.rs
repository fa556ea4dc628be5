//! `/save` and `/load`: a conversation as a JSON file, with its keys and values in a file beside it.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tandem::files::ModelFile;
use tandem::{Capability, ChatMessage, Error, Restored};

use super::Talk;
use crate::failure::Usage;

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// What the file holds.
#[derive(Serialize, Deserialize)]
struct Saved {
    /// The model that it was held with, for people.
    #[serde(default)]
    model: String,
    messages: Vec<ChatMessage>,
}

impl Talk<'_> {
    /// Writes the conversation; the file gets its name only when it is whole.
    pub(super) fn save(&self, file: &Path, replace: bool) -> Result<()> {
        let saved = Saved { model: self.model.info().name.clone(), messages: self.chat.messages().to_vec() };
        let mut json = serde_json::to_vec_pretty(&saved).context("the conversation cannot be written as JSON")?;
        json.push(b'\n');
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = || format!("`{}` cannot be written", file.display());
        let mut draft = tempfile::NamedTempFile::new_in(dir).with_context(failed)?;
        draft.write_all(&json).and_then(|()| draft.as_file().sync_all()).with_context(failed)?;
        if replace {
            draft.persist(file).map_err(|error| error.error).with_context(failed)?;
        } else if let Err(error) = draft.persist_noclobber(file) {
            if error.error.kind() == std::io::ErrorKind::AlreadyExists {
                let hint = format!("`/save! {}` replaces it", file.display());
                return Err(Usage::new(format!("`{}` is there already", file.display()), hint).into());
            }
            return Err(error.error).with_context(failed);
        }
        self.output.note(&format!("saved {} messages to `{}`", saved.messages.len(), file.display()));
        if self.chat.n_cached() > 0 && self.model.info().capabilities.has(Capability::KvTransfer) {
            let cache = cache_file(file);
            self.chat.save_cache(&cache).context("the messages are saved, their keys and values are not")?;
            let n = counted_tokens(self.chat.n_cached());
            self.output.note(&format!("saved the keys and values of {n} to `{}`", cache.display()));
        }
        Ok(())
    }

    /// Puts the conversation of `file` in the place of this one; when anything is wrong with it, this one stays.
    pub(super) fn load(&mut self, file: &Path) -> Result<()> {
        let name = file.display().to_string();
        let source = ModelFile::Path(file.to_path_buf());
        let bytes = source.read(MAX_BYTES)?;
        let saved: Saved = serde_json::from_slice(&bytes)
            .map_err(|error| Error::bad_file(&name, "is not a conversation that `/save` wrote", error))?;
        // The template decides which messages there can be.
        let next = [saved.messages.as_slice(), &[ChatMessage::user("?")]].concat();
        self.model.chat_prompt(&next).with_context(|| format!("the model cannot go on with the conversation of `{name}`"))?;
        let n = saved.messages.len();
        self.chat.set_messages(saved.messages);
        self.last = None;
        self.output.note(&format!("loaded {n} messages from `{name}`"));
        let cache = cache_file(file);
        if cache.exists() {
            self.restore(&cache);
        }
        Ok(())
    }

    /// Takes the keys and values of `file`, or says why the conversation is computed anew.
    fn restore(&mut self, file: &Path) {
        match self.chat.restore_cache(file) {
            Ok(restored) => {
                let n = counted_tokens(self.chat.n_cached());
                let how = match restored {
                    Restored::Checked { n_tokens, difference } => {
                        format!(": another engine's, alike to {difference:.0e} in the last {n_tokens}, which were computed anew")
                    }
                    _ => String::new(),
                };
                self.output.note(&format!("restored the keys and values of {n} from `{}`{how}", file.display()));
            }
            Err(error) => self.output.note(&format!("the conversation is computed anew: {error}")),
        }
    }
}

/// Where the keys and values of a conversation in `file` are.
fn cache_file(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".kv");
    name.into()
}

fn counted_tokens(n: usize) -> String {
    format!("{n} {}", if n == 1 { "token" } else { "tokens" })
}
