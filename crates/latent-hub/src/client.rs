//! What is asked of a hub over HTTP.
//!
//! hf-hub knows the addresses and the cache. Its own download (0.5.0) is not used: it waits for ever on a silent
//! connection, appends a whole file to a part of it where a server ignores `Range`, sends the token wherever the hub
//! redirects to, and checks neither sizes nor sums. So requests for files are made here, by the same HTTP library.

use std::time::Duration;

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use ureq::http::{Method, Request, Response, header};
use ureq::{Agent, Body};

use crate::file::{Listing, is_plain};
use crate::{HubError, HubFile, HubName, Settings};

/// A connection that does not come about, or says nothing, for so long is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Redirects that are followed.
const REDIRECTS: usize = 8;
/// Times that a list is asked for while the hub says that it is busy.
const TRIES: u32 = 4;
/// Bytes of a list of files that are read.
const LONGEST_LIST: u64 = 64 << 20;
/// Letters of a hub's own words that are shown.
const LONGEST_SAYING: usize = 200;

/// Asks for one repository.
pub(crate) struct Client {
    settings: Settings,
    name: HubName,
    agent: Agent,
}

/// The bytes of a file from some place on.
pub(crate) struct Answer {
    /// Where in the file they begin.
    pub(crate) start: u64,
    /// Size of the whole file, as far as the answer says.
    pub(crate) size: Option<u64>,
    pub(crate) body: Body,
}

/// Why no bytes came.
pub(crate) enum Failure {
    /// Asking again is of no use.
    Final(HubError),
    /// The server has no such part of the file.
    NoSuchPart,
    /// The connection broke, or the server is busy.
    Passing(String),
}

impl Client {
    pub(crate) fn new(settings: &Settings, name: &HubName) -> Self {
        let agent = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .user_agent(concat!("latent/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Self {
            settings: settings.clone(),
            name: name.clone(),
            agent,
        }
    }

    /// The repository's addresses at a revision.
    fn addresses(&self, revision: &str) -> Result<ApiRepo, HubError> {
        let repository = self.name.repository().to_owned();
        let repo = Repo::with_revision(repository, RepoType::Model, revision.to_owned());
        let api = ApiBuilder::from_cache(Cache::new(self.settings.cache.clone()))
            .with_endpoint(self.settings.endpoint.clone())
            .with_token(self.settings.token.clone())
            .with_user_agent("latent", env!("CARGO_PKG_VERSION"))
            .build();
        let api = api.map_err(|error| self.unreachable(&error))?;
        Ok(api.repo(repo))
    }

    /// The commit of the revision and its files, with what the hub promises of them.
    pub(crate) fn list(&self) -> Result<(String, Vec<HubFile>), HubError> {
        let addresses = self.addresses(self.name.revision())?;
        let (mut pause, mut tries) = (self.settings.pause, 0);
        loop {
            tries += 1;
            let request = addresses.info_request().query("blobs", "true");
            let request = request.config().http_status_as_error(false);
            let request = request
                .timeout_connect(Some(PATIENCE))
                .timeout_recv_response(Some(PATIENCE))
                .timeout_per_read(Some(PATIENCE));
            let response = request.build().call();
            let response = response.map_err(|error| self.unreachable(&error))?;
            let status = response.status();
            if status.is_success() {
                return self.parsed(response);
            }
            if !is_passing(status.as_u16()) || tries == TRIES {
                return Err(self.refused(response, None));
            }
            std::thread::sleep(pause);
            pause *= 2;
        }
    }

    fn parsed(&self, mut response: Response<Body>) -> Result<(String, Vec<HubFile>), HubError> {
        let url = format!(
            "{}/api/models/{}",
            self.settings.endpoint,
            self.name.repository()
        );
        let listing = response
            .body_mut()
            .with_config()
            .limit(LONGEST_LIST)
            .read_json();
        match listing {
            Ok(listing) => Listing::checked(listing, &url),
            Err(ureq::Error::Json(error)) => Err(HubError::Answer {
                url,
                reason: error.to_string(),
            }),
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    /// What the hub says of one file without sending it, where its list does not.
    pub(crate) fn describe(&self, commit: &str, file: &str) -> Result<HubFile, HubError> {
        let url = self.url(commit, file)?;
        let response = self.follow(Method::HEAD, &url, None);
        let response = response.map_err(|reason| self.unreachable(&reason))?;
        let status = response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(self.refused(response, Some(file)));
        }
        let text = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.trim_start_matches("W/").trim_matches('"').to_owned())
        };
        let size = text("x-linked-size").or_else(|| text("content-length"));
        Ok(HubFile {
            name: file.to_owned(),
            size: size.and_then(|size| size.parse().ok()),
            etag: text("x-linked-etag")
                .or_else(|| text("etag"))
                .filter(|etag| is_plain(etag)),
        })
    }

    /// The bytes of a file from `start` on.
    pub(crate) fn read(&self, commit: &str, file: &str, start: u64) -> Result<Answer, Failure> {
        let url = self.url(commit, file).map_err(Failure::Final)?;
        let response = self
            .follow(Method::GET, &url, Some(start))
            .map_err(Failure::Passing)?;
        match response.status().as_u16() {
            200 => Ok(Answer {
                start: 0,
                size: number(&response, "content-length"),
                body: response.into_body(),
            }),
            206 => {
                let range = part(&response).ok_or_else(|| {
                    Failure::Passing("the server does not say which part it sent".to_owned())
                })?;
                Ok(Answer {
                    start: range.0,
                    size: range.1,
                    body: response.into_body(),
                })
            }
            416 => Err(Failure::NoSuchPart),
            status if is_passing(status) => {
                Err(Failure::Passing(format!("the server answered {status}")))
            }
            _ => Err(Failure::Final(self.refused(response, Some(file)))),
        }
    }

    fn url(&self, commit: &str, file: &str) -> Result<String, HubError> {
        Ok(self.addresses(commit)?.url(&escaped(file)))
    }

    /// Asks, and goes where the answer sends: with the token to the hub, without it elsewhere. What the hub says of a
    /// file is in its own answer, so a `HEAD` stays with it.
    fn follow(
        &self,
        method: Method,
        url: &str,
        start: Option<u64>,
    ) -> Result<Response<Body>, String> {
        let mut url = url.to_owned();
        for _ in 0..REDIRECTS {
            let mut request = Request::builder()
                .method(method.clone())
                .uri(&url)
                // Sums and parts are those of the file itself.
                .header(header::ACCEPT_ENCODING, "identity");
            if let Some(token) = self.settings.token.as_ref().filter(|_| self.is_hub(&url)) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(start) = start.filter(|start| *start > 0) {
                request = request.header(header::RANGE, format!("bytes={start}-"));
            }
            let request = request.body(()).map_err(|error| error.to_string())?;
            let response = self.agent.run(request).map_err(|error| error.to_string())?;
            let target = response.headers().get(header::LOCATION);
            let target = target.and_then(|target| target.to_str().ok());
            let Some(target) = target.filter(|_| response.status().is_redirection()) else {
                return Ok(response);
            };
            let target = joined(&url, target);
            if method == Method::HEAD && !self.is_hub(&target) {
                return Ok(response);
            }
            if url.starts_with("https:") && !target.starts_with("https:") {
                return Err(format!(
                    "it redirects to `{target}`, which is not encrypted"
                ));
            }
            url = target;
        }
        Err(format!("it redirects more than {REDIRECTS} times"))
    }

    fn is_hub(&self, url: &str) -> bool {
        origin(url) == origin(&self.settings.endpoint)
    }

    pub(crate) fn unreachable(&self, reason: &impl std::fmt::Display) -> HubError {
        HubError::Unreachable {
            host: self.settings.endpoint.clone(),
            reason: reason.to_string(),
        }
    }

    /// What an answer means that is none of success. The hub names the reason in headers.
    fn refused(&self, mut response: Response<Body>, file: Option<&str>) -> HubError {
        let text = |response: &Response<Body>, name: &str| {
            let value = response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (status, code) = (response.status().as_u16(), text(&response, "x-error-code"));
        let mut said = text(&response, "x-error-message");
        if said.is_empty() {
            let body = response
                .body_mut()
                .with_config()
                .limit(1 << 16)
                .read_to_string();
            said = error_of(&body.unwrap_or_default());
        }
        let said = harmless(&said);
        let (endpoint, repository) = (&self.settings.endpoint, self.name.repository().to_owned());
        let had_token = self.settings.token.is_some();
        match (status, code.as_str()) {
            (_, "GatedRepo") => HubError::Gated {
                page: format!("{endpoint}/{repository}"),
                repository,
                said,
            },
            (_, "RevisionNotFound") => HubError::NoSuchRevision {
                repository,
                revision: self.name.revision().to_owned(),
            },
            (_, "EntryNotFound") => HubError::NoSuchFile {
                repository,
                file: file.unwrap_or_default().to_owned(),
                has: "look at its files on the hub".to_owned(),
            },
            // The hub answers so to strangers who ask for what does not exist; a token that it knows gets a 404.
            (401, code) if had_token && code != "RepoNotFound" => HubError::Token {
                said,
                page: format!("{endpoint}/settings/tokens"),
            },
            (401 | 404, _) => HubError::NoSuchModel {
                name: self.name.to_string(),
                had_token,
            },
            _ => HubError::Status {
                status,
                url: format!("{endpoint}/{repository}"),
                said,
            },
        }
    }
}

/// Whether a status may be another one in a moment.
fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

fn number(response: &Response<Body>, name: &str) -> Option<u64> {
    response
        .headers()
        .get(name)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Start and whole size of `Content-Range: bytes 5-9/10`.
fn part(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let value = response
        .headers()
        .get(header::CONTENT_RANGE)?
        .to_str()
        .ok()?;
    let (range, size) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, size.trim().parse().ok()))
}

/// Scheme and host of an address.
fn origin(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    Some((scheme, rest.split(['/', '?', '#']).next().unwrap_or(rest)))
}

/// Where `Location: target` of an answer from `url` leads.
fn joined(url: &str, target: &str) -> String {
    let (scheme, host) = origin(url).unwrap_or_default();
    match target {
        _ if target.contains("://") => target.to_owned(),
        _ if target.starts_with("//") => format!("{scheme}:{target}"),
        _ if target.starts_with('/') => format!("{scheme}://{host}{target}"),
        _ => {
            let path = url.split(['?', '#']).next().unwrap_or(url);
            let folder = path.rsplit_once('/').map_or(path, |(folder, _)| folder);
            format!("{folder}/{target}")
        }
    }
}

/// A path as it stands in an address.
fn escaped(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The words of `{"error": "words"}`.
fn error_of(body: &str) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let error = parsed
        .as_ref()
        .and_then(|parsed| parsed.get("error")?.as_str());
    error.unwrap_or_default().to_owned()
}

/// Words of a stranger, fit for a terminal.
fn harmless(text: &str) -> String {
    let printable = text.chars().filter(|letter| !letter.is_control());
    printable.take(LONGEST_SAYING).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_where_a_browser_would_go() {
        let url = "https://hub.example:1/a/b?c=d";
        for (target, there) in [
            ("http://x/y", "http://x/y"),
            ("//x/y", "https://x/y"),
            ("/y?z", "https://hub.example:1/y?z"),
            ("y", "https://hub.example:1/a/y"),
        ] {
            assert_eq!(joined(url, target), there);
        }
        assert_eq!(origin(url), Some(("https", "hub.example:1")));
        assert_ne!(
            origin("https://hub.example"),
            origin("https://hub.example.evil")
        );
    }

    #[test]
    fn names_are_escaped_and_words_are_made_harmless() {
        assert_eq!(escaped("a b/c#1%.bin"), "a%20b/c%231%25.bin");
        assert_eq!(harmless("no\u{1b}[31m\nway"), "no[31mway");
        assert_eq!(error_of(r#"{"error": "gone"}"#), "gone");
        assert_eq!(error_of("<html>"), "");
    }
}
