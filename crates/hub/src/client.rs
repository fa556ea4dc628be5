//! Requests to the hub: redirects followed by hand, so that the token goes to the hub alone.

mod answer;
mod fetch;
mod listing;
mod retry;

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use tandem_core::{CancelToken, Error, Remedy, Result};
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Timeout};

pub(crate) use self::answer::{Answer, ContentRange, Repeat};
pub(crate) use self::fetch::{Fetch, Piece};
pub(crate) use self::listing::web_page;
pub(crate) use self::retry::Backoff;
use crate::address::{Address, shown};
use crate::failure::Failure;
use crate::repository::{HubReference, Repository};
use crate::settings::HubSettings;

/// As many as browsers follow is twice this.
const MAX_REDIRECTS: usize = 10;

/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_secs(20);

/// The one that opens sockets.
pub(crate) struct Client {
    agent: Agent,
    endpoint: Address,
    settings: HubSettings,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) address: Address,
    /// Only what lies from this byte on.
    pub(crate) from: u64,
    /// The headers alone.
    pub(crate) head: bool,
}

impl Client {
    /// A client of the hub of `settings`; no socket is opened yet.
    ///
    /// # Errors
    /// [`Error::Hub`] when `settings` forbid the network, [`Error::InvalidOption`] when the hub's address is not valid.
    pub(crate) fn new(settings: &HubSettings) -> Result<Self> {
        if settings.offline {
            return Err(Error::Hub {
                doing: "connecting to the hub".into(),
                problem: "`HF_HUB_OFFLINE` is set, and what was asked for is not in the cache".into(),
                hint: Some(["unset `HF_HUB_OFFLINE`".into(), Remedy::ReadBundle].into()),
                source: None,
            });
        }
        let endpoint = Address::parse(&settings.endpoint).ok_or_else(|| {
            Error::invalid_option("HF_ENDPOINT", shown(&settings.endpoint), "is not an address that can be asked")
        })?;
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("tandem/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(settings.silence))
            .timeout_per_read(Some(settings.silence))
            .build()
            .new_agent();
        Ok(Self { agent, endpoint, settings: settings.clone() })
    }

    /// Whether the hub answers at all, whatever it says.
    pub(crate) fn reach(self: &Arc<Self>, cancel: &CancelToken) -> Result<()> {
        let request = Request { address: self.endpoint.clone(), from: 0, head: true };
        let answer = Fetch::start(self, request).answer(cancel);
        answer.map(drop).map_err(|failure| failure.during("connecting to the hub"))
    }

    pub(crate) fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// An address below the hub's own; the parts are encoded, and a slash within one is.
    pub(crate) fn address(&self, parts: &[&str], query: &str) -> Address {
        self.endpoint.below(parts, query)
    }

    /// The address of a file's content at a commit.
    pub(crate) fn file(&self, repository: &Repository, commit: &str, name: &str) -> Address {
        let (owner, model) = repository.id().split_once('/').unwrap_or_default();
        let parts: Vec<&str> = [owner, model, "resolve", commit].into_iter().chain(name.split('/')).collect();
        self.address(&parts, "")
    }

    /// The page of a repository, for people.
    pub(crate) fn page(&self, reference: &HubReference) -> String {
        format!("{}/{}", self.endpoint, reference.repository)
    }

    /// Sends `request` and follows redirects; the answer's body is still to be read.
    fn send(&self, request: &Request) -> Result<(Answer, Box<dyn Read>), Failure> {
        let mut address = request.address.clone();
        let mut earlier: Option<Answer> = None;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_once(request, &address)?;
            let answer = Answer::new(&response, &address).after(earlier);
            if !is_redirect(response.status()) {
                return Ok((answer, Box::new(response.into_body().into_with_config().limit(u64::MAX).reader())));
            }
            earlier = Some(answer);
            let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
            let to = to.and_then(|to| address.join(to));
            let to = to.ok_or_else(|| Failure::passing(format!("`{address}` redirects to no address")))?;
            if address.is_encrypted() && !to.is_encrypted() {
                return Err(Failure::lasting(
                    format!("`{address}` redirects to `{to}`, which is not encrypted"),
                    "someone on the way may be changing what is sent: try another network",
                ));
            }
            address = to;
        }
        Err(Failure::lasting(
            format!("`{}` redirects more than {MAX_REDIRECTS} times", request.address),
            "the hub or a proxy redirects in a loop: check `HF_ENDPOINT` and the proxy's settings",
        ))
    }

    fn send_once(&self, request: &Request, address: &Address) -> Result<Response<Body>, Failure> {
        let mut builder = match request.head {
            true => self.agent.head(address.as_str()),
            false => self.agent.get(address.as_str()),
        };
        if request.from > 0 {
            builder = builder.header(header::RANGE, format!("bytes={}-", request.from));
        }
        // To the hub alone: storage elsewhere has its own permission in the address, and no business with the token.
        if let Some(token) = self.settings.token.as_ref().filter(|_| address.same_origin(&self.endpoint)) {
            builder = builder.header(header::AUTHORIZATION, token.authorization());
        }
        builder.call().map_err(|error| self.unreachable(address, error))
    }

    fn unreachable(&self, address: &Address, error: ureq::Error) -> Failure {
        let host = address.host();
        let problem = match &error {
            ureq::Error::HostNotFound => format!("there is no host `{host}`, or no network"),
            ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => format!("`{host}` cannot be reached"),
            ureq::Error::Timeout(_) => format!("`{host}` was silent for {} s", self.settings.silence.as_secs_f32()),
            ureq::Error::InvalidProxyUrl => {
                return Failure::lasting("the proxy's address is not valid", "check `HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY`");
            }
            // Its own words have the address, with all that is in it.
            ureq::Error::BadUri(_) => {
                return Failure::lasting(format!("`{address}` is not an address that can be asked"), "check `HF_ENDPOINT`");
            }
            error if is_distrust(error) => {
                return Failure::lasting(
                    format!("`{host}` cannot be trusted: {error}"),
                    "install the certificates of your system (`ca-certificates`), or name those of your proxy in `SSL_CERT_FILE`",
                );
            }
            _ => format!("the connection to `{host}` failed"),
        };
        Failure::Passing { problem, wait: None, source: Some(error.into()) }
    }
}

/// Whether the server's certificate is at fault, which no repetition mends.
fn is_distrust(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => true,
        ureq::Error::Io(error) => error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
        _ => false,
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
