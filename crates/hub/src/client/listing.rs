//! What a revision of a repository holds: its commit, and each file with size and hash.

use std::sync::Arc;

use serde::Deserialize;
use tandem_core::{CancelToken, Error, Result};

use super::{Backoff, Client, Fetch, Repeat, Request};
use crate::content::ContentHash;
use crate::failure::Failure;
use crate::listing::{ListedFile, Listing};
use crate::names::is_file_name;
use crate::repository::{Commit, HubReference, Repository};

/// The listing of the largest repositories has some megabytes.
const MAX_BYTES: usize = 64 << 20;

/// <https://huggingface.co/docs/hub/api>: `GET /api/models/{id}/revision/{revision}?blobs=true`.
#[derive(Deserialize)]
struct Model {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Client {
    /// What `reference` holds, as the hub says.
    ///
    /// # Errors
    /// [`Error::Hub`], and [`Error::Cancelled`].
    pub(crate) fn listing(self: &Arc<Self>, reference: &HubReference, cancel: &CancelToken) -> Result<Listing> {
        let client = self;
        let (owner, name) = reference.repository.id().split_once('/').unwrap_or_default();
        let parts = ["api", "models", owner, name, "revision", reference.revision.as_str()];
        let request = Request { address: client.address(&parts, "?blobs=true"), from: 0, head: false };
        let page = client.page(reference);
        let mut backoff = Backoff::new(client.settings());
        let ask = || {
            let fetch = Fetch::start(client, request.clone());
            let answer = fetch.answer(cancel)?;
            if answer.status != 200 {
                return Err(answer.refusal(Repeat { settings: client.settings(), page: &page }));
            }
            if answer.is_web_page() {
                return Err(web_page());
            }
            parse(&fetch.body(MAX_BYTES, cancel)?)
        };
        loop {
            match ask() {
                Ok(listing) => return Ok(listing),
                Err(failure) => backoff.wait(failure, cancel).map_err(|failure| not_listed(failure, reference))?,
            }
        }
    }
}

fn parse(body: &[u8]) -> Result<Listing, Failure> {
    // A body that broke off is not JSON, and may be whole the next time.
    let model: Model = serde_json::from_slice(body).map_err(|error| Failure::Passing {
        problem: "the listing is not what a hub sends".into(),
        wait: None,
        source: Some(error.into()),
    })?;
    let commit = model.sha.parse().map_err(|_| {
        Failure::lasting(
            format!("the hub names a commit that is not valid, `{}`", model.sha.escape_debug()),
            "check `HF_ENDPOINT`",
        )
    })?;
    // A name that no file could have here is never needed, and the others are listed all the same.
    let files = model.siblings.into_iter().filter(|file| is_file_name(&file.rfilename)).map(listed);
    Ok(Listing { commit, files: files.collect() })
}

fn listed(file: Sibling) -> ListedFile {
    let hash = match &file.lfs {
        Some(lfs) => lfs.sha256.parse().ok().filter(|hash| matches!(hash, ContentHash::Sha256(_))),
        None => file.blob_id.as_ref().and_then(|id| id.parse().ok()),
    };
    ListedFile { name: file.rfilename, bytes: file.lfs.map(|lfs| lfs.size).or(file.size), hash, blob_id: file.blob_id }
}

impl Client {
    /// Size and hash of the file `name`, for a hub whose listing leaves them out.
    ///
    /// # Errors
    /// As [`listing`](Self::listing); also when the answer has no hash, since what cannot be verified is not kept.
    pub(crate) fn metadata(
        self: &Arc<Self>,
        repository: &Repository,
        commit: &Commit,
        name: &str,
        cancel: &CancelToken,
    ) -> Result<(u64, ContentHash)> {
        let doing = format!("looking up `{name}` of `{repository}` on the hub");
        let page = self.page(&repository.clone().into());
        let request = Request { address: self.file(repository, commit.as_str(), name), from: 0, head: true };
        let mut backoff = Backoff::new(self.settings());
        let ask = || {
            let answer = Fetch::start(self, request.clone()).answer(cancel)?;
            if answer.status != 200 {
                return Err(answer.refusal(Repeat { settings: self.settings(), page: &page }));
            }
            let hash = answer.etag.as_deref().and_then(|etag| etag.parse().ok());
            answer.linked_size.or(answer.length).zip(hash).ok_or_else(|| {
                Failure::lasting(
                    "neither listing nor answer has its size and hash",
                    "what cannot be verified is not kept: use another hub",
                )
            })
        };
        loop {
            match ask() {
                Ok(metadata) => return Ok(metadata),
                Err(failure) => backoff.wait(failure, cancel).map_err(|failure| failure.during(&doing))?,
            }
        }
    }
}

/// A network that wants a login answers everything with its own page.
pub(crate) fn web_page() -> Failure {
    Failure::lasting(
        "a web page came in the place of the file",
        "a network that wants one to sign in, or a proxy, answers for the hub: open a web page in a browser, and check `HF_ENDPOINT`",
    )
}

fn not_listed(failure: Failure, reference: &HubReference) -> Error {
    match failure {
        Failure::Lasting { problem, hint, status: Some(401 | 404) } => Error::ModelNotFound {
            reference: reference.to_string(),
            reason: format!("the hub says: {problem}"),
            hint: hint.unwrap_or_default(),
        },
        other => match other.during(&format!("looking up `{reference}` on the hub")) {
            Error::Hub { doing, problem, source: Some(source), .. } => Error::Hub {
                doing,
                problem,
                hint: Some("check the network; `HF_HUB_OFFLINE=1` takes what is in the cache for all there is".into()),
                source: Some(source),
            },
            error => error,
        },
    }
}
