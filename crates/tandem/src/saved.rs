//! Sequences and conversations whose keys and values lie in a file.

use std::path::Path;

use tandem_core::Result;
use tandem_core::saved::{Restored, SavedSequence, SequenceOrigin};
use tandem_core::sequence::Sequence;

use crate::chat::Chat;
use crate::model::TextModel;

impl TextModel {
    /// Writes what `sequence`, one of this model, holds to the file at `path`, which is replaced: a later process goes on without computing it
    /// ([`restore_sequence`](Self::restore_sequence)).
    ///
    /// # Errors
    /// As [`SavedSequence::of`] and [`SavedSequence::write`].
    pub fn save_sequence(&self, sequence: &Sequence, path: &Path) -> Result<()> {
        SavedSequence::of(sequence, self.origin()?)?.write(path)
    }

    /// Puts what the file at `path` holds in the place of what `sequence`, one of this model, holds. What this engine computed goes on to the bit;
    /// what another engine or dtype computed is compared with what this one computes of its last tokens, and refused where they are not alike.
    ///
    /// # Errors
    /// As [`SavedSequence::read`], which leave the sequence as it was, and as [`SavedSequence::restore`].
    pub fn restore_sequence(&self, sequence: &mut Sequence, path: &Path) -> Result<Restored> {
        // A file may hold in f32 what this model holds in f16.
        let kv_bytes = 2 * self.info().kv_bytes_per_token;
        let saved = SavedSequence::read(path, sequence.context_length(), kv_bytes)?;
        saved.restore(sequence, &self.origin()?, &path.display().to_string())
    }

    fn origin(&self) -> Result<SequenceOrigin> {
        SequenceOrigin::of(self.files(), self.info())
    }
}

impl Chat {
    /// Writes the keys and values of the conversation so far to the file at `path`, which is replaced. The messages are not in it.
    ///
    /// # Errors
    /// As [`TextModel::save_sequence`].
    pub fn save_cache(&self, path: &Path) -> Result<()> {
        self.model().save_sequence(self.sequence(), path)
    }

    /// Puts the keys and values of the file at `path` in the place of those that there are: of the messages, the next answer computes only
    /// what the file lacks.
    ///
    /// # Errors
    /// As [`TextModel::restore_sequence`].
    pub fn restore_cache(&mut self, path: &Path) -> Result<Restored> {
        let model = self.model().clone();
        model.restore_sequence(self.sequence_mut(), path)
    }
}
