//! The rest of a file over the network: asked for again where it broke off, for as long as that gains something.

use tandem_core::Result;

use super::partial::Partial;
use super::{Download, Step, Target};
use crate::client::{Answer, Backoff, ContentRange, Fetch, Piece, Repeat, Request, web_page};
use crate::content::ContentHash;
use crate::failure::Failure;

/// What must be gained for the count of failures to begin anew: a server that sends a few bytes each time is not waited for.
const WORTHWHILE: u64 = 64 << 10;

/// What a file's transfer learned of its server.
struct State {
    /// Ranges were answered wrongly: the whole file is asked for from now on.
    without_ranges: bool,
    /// The whole content was wrong once.
    was_wrong: bool,
    /// The most bytes there ever were.
    furthest: u64,
    received: u64,
}

impl Download<'_> {
    /// Completes `partial`, so that its content is right; gives the bytes that came.
    pub(super) fn transfer(&self, partial: &mut Partial<'_>, target: &Target, progress: &dyn Fn(Step)) -> Result<u64> {
        let mut state = State { without_ranges: false, was_wrong: false, furthest: partial.n_bytes(), received: 0 };
        let mut backoff = Backoff::new(self.client.settings());
        let doing = format!("downloading `{}` from `{}`", target.name, self.repository);
        loop {
            if partial.is_complete() {
                if partial.is_right()? {
                    return Ok(state.received);
                }
                if state.was_wrong {
                    return Err(wrong_content(target).during(&doing));
                }
                // What an earlier download left may be at fault: once more, from the beginning.
                (state.was_wrong, state.furthest) = (true, 0);
            }
            match self.attempt(partial, target, &mut state, progress) {
                Ok(()) => {}
                Err(failure) => {
                    if partial.n_bytes() >= state.furthest + WORTHWHILE {
                        state.furthest = partial.n_bytes();
                        backoff.reset();
                    }
                    backoff.wait(failure, self.cancel).map_err(|failure| failure.during(&doing))?;
                }
            }
        }
    }

    /// Asks once for what is missing.
    fn attempt(
        &self,
        partial: &mut Partial<'_>,
        target: &Target,
        state: &mut State,
        progress: &dyn Fn(Step),
    ) -> Result<(), Failure> {
        if state.without_ranges {
            partial.restart()?;
        }
        if partial.is_complete() {
            return Ok(());
        }
        let address = self.client.file(self.repository, self.commit.as_str(), &target.name);
        let fetch = Fetch::start(self.client, Request { address, from: partial.n_bytes(), head: false });
        let answer = fetch.answer(self.cancel)?;
        self.check_identity(&answer, target)?;
        self.check_range(&answer, partial, target, state)?;
        progress(Step::Arrived(partial.n_bytes()));
        while let Some(piece) = fetch.next(self.cancel)? {
            let Piece::Bytes(bytes) = piece else { continue };
            if bytes.len() as u64 > partial.missing() {
                return Err(Failure::lasting(
                    format!("more came than the {} bytes that the file has", target.bytes),
                    "the hub, a mirror or a proxy sends something else: check `HF_ENDPOINT`",
                ));
            }
            partial.append(&bytes)?;
            state.received += bytes.len() as u64;
            progress(Step::Arrived(partial.n_bytes()));
        }
        if partial.is_complete() {
            return Ok(());
        }
        Err(Failure::passing(format!("the connection ended after {} of {} bytes", partial.n_bytes(), target.bytes)))
    }

    /// Whether the answer is about the content that is meant, as it is.
    fn check_identity(&self, answer: &Answer, target: &Target) -> Result<(), Failure> {
        if !matches!(answer.status, 200 | 206 | 416) {
            let page = self.client.page(&self.repository.clone().into());
            return Err(answer.refusal(Repeat { settings: self.client.settings(), page: &page }));
        }
        let changed = |what: &str, now: &str| {
            let problem = format!("its {what} is `{}` now, and was another before", now.escape_debug());
            Failure::lasting(problem, "the repository changed meanwhile: ask again, and what is the same is not downloaded again")
        };
        if let Some(commit) = answer.commit.as_deref().filter(|commit| *commit != self.commit.as_str()) {
            return Err(changed("commit", commit));
        }
        // Storage has tags of its own, which are not hashes.
        let hash: Option<ContentHash> = answer.etag.as_deref().and_then(|etag| etag.parse().ok());
        if let Some(hash) = hash.filter(|hash| *hash != target.hash) {
            return Err(changed("hash", hash.digits()));
        }
        if answer.is_web_page() && !target.name.ends_with(".html") {
            return Err(web_page());
        }
        if answer.is_compressed {
            return Err(Failure::lasting(
                "the file came compressed, which was not asked for",
                "a proxy changes what is sent: go around it with `NO_PROXY`, or use another network",
            ));
        }
        Ok(())
    }

    /// Whether the body is what continues `partial`; a whole file begins it anew.
    fn check_range(&self, answer: &Answer, partial: &mut Partial<'_>, target: &Target, state: &mut State) -> Result<(), Failure> {
        if answer.status == 200 {
            let wrong = answer.length.filter(|length| *length != target.bytes);
            if let Some(length) = wrong {
                return Err(Failure::lasting(
                    format!(
                        "the server sends {length} bytes of `{}` in the place of {}",
                        answer.content_type.escape_debug(),
                        target.bytes
                    ),
                    "the hub, a mirror or a proxy sends something else: check `HF_ENDPOINT`",
                ));
            }
            if partial.n_bytes() > 0 {
                partial.restart()?;
            }
            return Ok(());
        }
        let is_asked = |range: &ContentRange| {
            range.first == partial.n_bytes() && range.last < target.bytes && range.total.is_none_or(|total| total == target.bytes)
        };
        if answer.status == 206 && partial.n_bytes() > 0 && answer.range.as_ref().is_some_and(is_asked) {
            return Ok(());
        }
        state.without_ranges = true;
        Err(Failure::passing(format!("the server answers a range with another one (status {})", answer.status)))
    }
}

/// The whole file came, and is not the one that the hub lists.
fn wrong_content(target: &Target) -> Failure {
    Failure::lasting(
        format!("all {} bytes came twice, and their hash is not `{}`", target.bytes, target.hash),
        "the hub, a mirror or a proxy sends something else, or this machine's memory or disk is at fault; nothing was kept",
    )
}
