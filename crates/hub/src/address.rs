//! Addresses: made of parts, joined with redirects, compared by origin. What is shown of one is its host and path: the query of a
//! redirect may hold a signature.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::Uri;

/// What stays as it is within one part of a path.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// An `http` or `https` address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    text: String,
    uri: Uri,
}

impl Address {
    /// `None` when `text` is not an address.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.split('#').next().unwrap_or_default();
        let uri: Uri = text.parse().ok()?;
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
        (has_host && is_known).then(|| Self { text: text.into(), uri })
    }

    /// The address of `parts` below this one; each is encoded whole.
    pub(crate) fn below(&self, parts: &[&str], query: &str) -> Self {
        let mut text = self.text.trim_end_matches('/').to_owned();
        for part in parts {
            text.push('/');
            text.extend(utf8_percent_encode(part, PART));
        }
        text += query;
        let uri = text.parse().unwrap_or_else(|_| self.uri.clone());
        Self { text, uri }
    }

    /// Where a redirect from here leads: <https://www.rfc-editor.org/rfc/rfc3986#section-4.2>.
    pub(crate) fn join(&self, to: &str) -> Option<Self> {
        if to.contains("://") {
            return Self::parse(to);
        }
        let scheme = self.uri.scheme_str()?;
        let authority = self.uri.authority()?;
        if to.starts_with("//") {
            return Self::parse(&format!("{scheme}:{to}"));
        }
        if to.starts_with('/') {
            return Self::parse(&format!("{scheme}://{authority}{to}"));
        }
        let directory = self.uri.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        Self::parse(&format!("{scheme}://{authority}{directory}/{to}"))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// Whether both are of the same scheme, host and port.
    pub(crate) fn same_origin(&self, other: &Self) -> bool {
        let port = |uri: &Uri| uri.port_u16().or(Some(if uri.scheme_str() == Some("https") { 443 } else { 80 }));
        self.uri.scheme_str() == other.uri.scheme_str()
            && self.host().eq_ignore_ascii_case(other.host())
            && port(&self.uri) == port(&other.uri)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.text))
    }
}

/// What may be shown of `text`, an address or not: neither a query nor anything before an `@`, whatever stands there.
pub(crate) fn shown(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let is_scheme = |scheme: &str| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
    match text.rsplit_once('@') {
        None => text.into(),
        Some((_, rest)) if scheme.is_empty() || !is_scheme(scheme) => rest.into(),
        Some((_, rest)) => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined() {
        let here = Address::parse("https://hub.example:8443/api/resolve/x").unwrap();
        let check = |to: &str, expected: Option<&str>| {
            assert_eq!(here.join(to).as_ref().map(Address::as_str), expected, "{to}");
        };
        check("https://cdn.example/y?sign=1", Some("https://cdn.example/y?sign=1"));
        check("//cdn.example/y", Some("https://cdn.example/y"));
        check("/y", Some("https://hub.example:8443/y"));
        check("y", Some("https://hub.example:8443/api/resolve/y"));
        check("file:///etc/passwd", None);
        check("https://", None);
    }

    #[test]
    fn signatures_and_passwords_are_not_shown() {
        let address = Address::parse("https://me:secret@cdn.example/y?Signature=abc").unwrap();
        assert_eq!(address.to_string(), "https://cdn.example/y");
        let check = |text: &str, expected: &str| assert_eq!(shown(text), expected, "{text}");
        check("http://hub.example:8080/hf", "http://hub.example:8080/hf");
        check("ftp://me:secret@hub.example", "ftp://hub.example");
        check("https://me:sec/ret@hub.example", "https://hub.example");
        check("https://me:sec@ret@hub.example/x?token=secret#secret", "https://hub.example/x");
        check("me:secret@hub.example", "hub.example");
        check("me:sec://ret@hub.example", "hub.example");
        check("", "");
    }

    #[test]
    fn origins_are_compared_whole() {
        let hub = Address::parse("https://hub.example").unwrap();
        let same = |other: &str| Address::parse(other).unwrap().same_origin(&hub);
        assert!(same("https://hub.example:443/x") && same("https://HUB.example/y"));
        assert!(!same("http://hub.example/x") && !same("https://hub.example:8443/x"));
        assert!(!same("https://hub.example.evil/x") && !same("https://evil/hub.example"));
    }

    #[test]
    fn parts_are_encoded_whole() {
        let hub = Address::parse("http://hub.example/mirror/").unwrap();
        let address = hub.below(&["a", "refs/pr/1", "b c?.json"], "?blobs=true");
        assert_eq!(address.as_str(), "http://hub.example/mirror/a/refs%2Fpr%2F1/b%20c%3F.json?blobs=true");
    }
}
