//! What a model can do beyond the least that the contract asks for.

use crate::named::{Named, named};

/// An optional ability of a model. A backend declares what a model has, and the conformance suite tests both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// Sessions: logits of the next token. Without it a model only encodes.
    Generation,
    /// Logits of more than the last position.
    AllLogits,
    /// `rewind` to any length, not to zero only.
    Rewind,
    /// `encode`.
    HiddenStates,
    /// `encode_pooled`: of a graph that gives a row for each sequence and keeps its hidden states to itself.
    PooledOutput,
    /// `with_adapters`.
    Adapters,
    /// `fork`.
    Fork,
    /// `export_kv` and `import_kv`.
    KvTransfer,
    /// `append_batch` of a [part](super::Append::is_part) of a prompt, with the bits of the whole. A model with adapters may lack what it has
    /// without.
    PromptParts,
}

/// A set of [`Capability`]. `Default` is the empty set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u32);

impl Capability {
    /// What it is, for a message: `{description} is not supported`.
    pub fn description(self) -> &'static str {
        match self {
            Self::Generation => "text generation",
            Self::AllLogits => "returning the logits of more than the last position",
            Self::Rewind => "rewinding a session to a part of its tokens",
            Self::HiddenStates => "encoding to hidden states",
            Self::PooledOutput => "encoding to a row for each sequence",
            Self::Adapters => "applying an adapter",
            Self::Fork => "forking a session",
            Self::KvTransfer => "exporting and importing keys and values",
            Self::PromptParts => "appending small parts of a prompt with the bits of the whole",
        }
    }
}

named!(Capability, "capability", {
    Generation: "generation",
    AllLogits: "all_logits",
    Rewind: "rewind",
    HiddenStates: "hidden_states",
    PooledOutput: "pooled_output",
    Adapters: "adapters",
    Fork: "fork",
    KvTransfer: "kv_transfer",
    PromptParts: "prompt_parts",
});

impl Capabilities {
    /// Those of `list`.
    pub const fn of(list: &[Capability]) -> Self {
        let (mut set, mut i) = (0, 0);
        while i < list.len() {
            set |= 1 << list[i] as u32;
            i += 1;
        }
        Self(set)
    }

    /// Whether `capability` is among them.
    pub const fn has(self, capability: Capability) -> bool {
        self.0 & 1 << capability as u32 != 0
    }

    /// These, and `capability` where `condition` holds.
    #[must_use]
    pub const fn with_if(self, condition: bool, capability: Capability) -> Self {
        if condition { Self(self.0 | 1 << capability as u32) } else { self }
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.iter().copied().filter(move |capability| self.has(*capability))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_contain_listed_values() {
        let set = Capabilities::of(&[Capability::Rewind, Capability::KvTransfer]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [Capability::Rewind, Capability::KvTransfer]);
        assert_eq!(set.with_if(false, Capability::Fork), set);
        assert!(set.with_if(true, Capability::Fork).has(Capability::Fork));
        assert_eq!(Capabilities::of(Capability::ALL).iter().count(), Capability::ALL.len());
    }
}
