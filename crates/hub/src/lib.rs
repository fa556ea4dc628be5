//! Models of the Hugging Face hub: found, downloaded whole, verified.
//!
//! - [`Hub`] brings models of the Hugging Face hub into the cache that Python's `huggingface_hub` uses as well, finds them there,
//!   verifies and repairs them. [`HubReference`] names one, [`FileSelector`] says which
//!   of its files are needed.
//! - [`Cache`] lists and removes what is there.
//! - [`LockFile`] fixes models to the byte.

mod address;
mod bundle;
mod cache;
mod client;
mod content;
mod download;
mod failure;
mod hub;
mod listing;
mod lock;
mod lockfile;
mod names;
mod pulled;
mod repository;
mod selector;
mod settings;

pub use cache::{Cache, CachedFile, CachedModel, CachedSnapshot, Removed};
pub use content::{ContentHash, Hasher, Hashes};
pub use hub::{Damage, Fault, Hub, PullOptions};
pub use lockfile::{LockFile, LockedFile, LockedModel};
pub use pulled::{Pulled, PulledFile, Snapshot};
pub use repository::{Commit, HubReference, Repository, Revision, Variant};
pub use selector::FileSelector;
pub use settings::{HubSettings, Token};
