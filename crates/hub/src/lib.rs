//! Models: found, downloaded whole, verified, told apart, and chosen to fit the memory.
//!
//! - [`Hub`] brings models of the Hugging Face hub into the cache that Python's `huggingface_hub` uses as well, finds them there,
//!   verifies and repairs them. [`HubReference`] names one, [`Wanted`] says what its files are for.
//! - [`Cache`] lists and removes what is there.
//! - [`LockFile`] fixes models to the byte.
//! - [`catalog`]: known models by short names. [`machine`]: the memory that there is. [`plan`]: the memory that a model takes.

mod bundle;
mod cache;
pub mod catalog;
mod client;
mod content;
mod download;
mod failure;
mod hub;
mod listing;
mod lock;
mod lockfile;
pub mod machine;
mod names;
pub mod plan;
mod repository;
mod settings;
mod wanted;

pub use cache::{Cache, CachedFile, CachedModel, CachedSnapshot, Removed};
pub use content::{ContentHash, Hasher, Hashes};
pub use hub::{Damage, Fault, Hub, PullOptions, Pulled, PulledFile, Snapshot};
pub use lockfile::{LockFile, LockedFile, LockedModel};
pub use repository::{Commit, HubReference, Repository, Revision, Variant};
pub use settings::{HubSettings, Token};
pub use wanted::Wanted;
