//! What the hub says of a file before it sends it.

use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, Response, header};

use crate::address::Address;
use crate::failure::Failure;
use crate::settings::HubSettings;

/// The headers that count. After redirects, those that name the content are the hub's own, and those of the body the last server's.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `X-Linked-ETag`, which the hub gives for what lies in storage, else `ETag`.
    pub(crate) etag: Option<String>,
    pub(crate) commit: Option<String>,
    /// `X-Linked-Size`.
    pub(crate) linked_size: Option<u64>,
    pub(crate) length: Option<u64>,
    pub(crate) range: Option<ContentRange>,
    pub(crate) content_type: String,
    pub(crate) is_compressed: bool,
    retry_after: Option<Duration>,
    error_code: Option<String>,
    server: String,
}

/// `bytes <first>-<last>/<total>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// `None` when the server does not tell.
    pub(crate) total: Option<u64>,
}

/// Whether a token was sent, for the words of a refusal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Repeat<'r> {
    pub(crate) settings: &'r HubSettings,
    /// The repository's page, where conditions are accepted.
    pub(crate) page: &'r str,
}

impl Answer {
    pub(super) fn new<B>(response: &Response<B>, address: &Address) -> Self {
        let headers = response.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let encoding = text("content-encoding").unwrap_or_default();
        Self {
            status: response.status().as_u16(),
            etag: text("x-linked-etag").or_else(|| text("etag")),
            commit: text("x-repo-commit"),
            linked_size: text("x-linked-size").and_then(|size| size.parse().ok()),
            length: text("content-length").and_then(|length| length.parse().ok()),
            range: text("content-range").and_then(|range| ContentRange::parse(&range)),
            content_type: text("content-type").unwrap_or_default(),
            is_compressed: !matches!(encoding.trim().to_ascii_lowercase().as_str(), "" | "identity"),
            retry_after: retry_after(headers, SystemTime::now()),
            error_code: text("x-error-code"),
            server: address.host().into(),
        }
    }

    /// With what the answers before it, redirects of the hub's own, said of the content.
    pub(super) fn after(self, earlier: Option<Self>) -> Self {
        let Some(earlier) = earlier else { return self };
        Self {
            etag: earlier.etag.or(self.etag),
            commit: earlier.commit.or(self.commit),
            linked_size: earlier.linked_size.or(self.linked_size),
            ..self
        }
    }

    /// Whether the body is a page for people, as networks send it before one has signed in to them.
    pub(crate) fn is_web_page(&self) -> bool {
        self.content_type.trim_start().to_ascii_lowercase().starts_with("text/html")
    }

    /// What an answer with the status of a failure means.
    pub(crate) fn refusal(&self, about: Repeat<'_>) -> Failure {
        let (status, server) = (self.status, &self.server);
        let has_token = about.settings.token.is_some();
        let (problem, hint) = match (status, self.error_code.as_deref()) {
            (_, Some("GatedRepo")) => (
                format!("the repository is gated (status {status})"),
                format!("accept its conditions at {}, and give a token of that account in `HF_TOKEN`", about.page),
            ),
            (_, Some("RepoNotFound")) | (401, _) if !has_token => (
                format!("there is no such repository, or it needs a token (status {status})"),
                "check the name; for a private or gated repository set `HF_TOKEN`, or run `hf auth login`".into(),
            ),
            (401, _) => (
                "the token is not accepted (status 401)".into(),
                "make a new one at https://huggingface.co/settings/tokens, and set `HF_TOKEN`".into(),
            ),
            (403, _) => (
                "access is refused (status 403)".into(),
                format!("see at {} what it takes, and whether the token in `HF_TOKEN` may read it", about.page),
            ),
            (404, Some("RevisionNotFound")) => {
                ("there is no such revision (status 404)".into(), format!("see the branches and tags at {}", about.page))
            }
            (404 | 410, _) => (format!("there is no such thing (status {status})"), format!("see {}", about.page)),
            (407, _) => ("the proxy asks for a name and a password (status 407)".into(), "check `HTTPS_PROXY`".into()),
            (408 | 425 | 429 | 500..=599, _) => {
                let problem = match status {
                    429 => format!("`{server}` is asked too often (status 429)"),
                    _ => format!("`{server}` has a failure of its own (status {status})"),
                };
                return Failure::Passing { problem, wait: self.retry_after, source: None };
            }
            _ => (format!("`{server}` answers with status {status}"), "check `HF_ENDPOINT` and the proxy's settings".into()),
        };
        Failure::Lasting { problem, hint: Some(hint.into()), status: Some(status) }
    }
}

impl ContentRange {
    fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total = match total {
            "*" => None,
            digits => Some(digits.parse().ok()?),
        };
        Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()?, total })
    }
}

/// Seconds, or a date: <https://www.rfc-editor.org/rfc/rfc9110#field.retry-after>.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let range = |first, last, total| Some(ContentRange { first, last, total });
        assert_eq!(ContentRange::parse("bytes 5-9/10"), range(5, 9, Some(10)));
        assert_eq!(ContentRange::parse("bytes 0-0/*"), range(0, 0, None));
        for bad in ["", "bytes", "bytes */10", "bytes 5-/10", "5-9/10", "bytes -1-9/10", "bytes 5-9", "items 5-9/10"] {
            assert_eq!(ContentRange::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Fri, 20 Nov 2026 10:00:00 GMT").unwrap();
        let wait = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("Fri, 20 Nov 2026 10:00:09 GMT"), Some(Duration::from_secs(9)));
        assert_eq!(wait("Fri, 20 Nov 2026 09:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("soon"), None);
    }
}
