//! A hub of one repository on this machine: the paths and headers that the real one has, and its troubles.
//!
//! Large files lie, as there, at another address that the first one redirects to.

#![allow(
    dead_code,
    reason = "each test program that includes this file uses another part of it"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Files of so many bytes and more are large ones.
const LARGE: usize = 4096;

/// The commit of everything.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A running hub; it ends with the test program.
pub(crate) struct Server {
    address: String,
    state: Arc<Mutex<State>>,
}

/// What the hub has, how it behaves, what it was asked.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) repository: String,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Only this token is shown anything.
    pub(crate) token: Option<String>,
    /// Everything is behind terms to accept.
    pub(crate) gated: bool,
    /// Bytes after which the next connections for a file end, first one first.
    pub(crate) drops: BTreeMap<String, Vec<usize>>,
    /// Bytes that are sent in the place of a file's own.
    pub(crate) altered: BTreeMap<String, Vec<u8>>,
    /// Whole files are sent whatever part was asked for.
    pub(crate) ignores_ranges: bool,
    /// The list says names only, as that of some mirrors.
    pub(crate) bare_list: bool,
    /// Answers of 503 before the list is given.
    pub(crate) busy: usize,
    /// `METHOD PATH` and the range, of every request.
    pub(crate) asked: Vec<String>,
    /// Requests at the other address that brought the token along.
    pub(crate) leaks: usize,
    storage: String,
}

impl Server {
    /// Starts a hub with the files of a repository.
    pub(crate) fn start(repository: &str, files: &[(&str, &[u8])]) -> Self {
        let (hub, storage) = (listener(), listener());
        let address = |listener: &TcpListener| {
            format!("http://{}", listener.local_addr().expect("an address"))
        };
        let state = State {
            repository: repository.to_owned(),
            files: files
                .iter()
                .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
                .collect(),
            storage: address(&storage),
            ..State::default()
        };
        let server = Self {
            address: address(&hub),
            state: Arc::new(Mutex::new(state)),
        };
        serve(hub, server.state.clone(), hub_answer);
        serve(storage, server.state.clone(), storage_answer);
        server
    }

    /// Starts a hub with the files of a folder.
    pub(crate) fn of_folder(repository: &str, folder: &Path) -> Self {
        let server = Self::start(repository, &[]);
        let mut files = BTreeMap::new();
        gather(folder, "", &mut files);
        server.state().files = files;
        server
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked since the last call.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state().asked)
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

fn gather(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            gather(&entry.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, fs::read(entry.path()).expect("a file"));
        }
    }
}

/// What a client sent.
struct Asked {
    method: String,
    path: String,
    token: Option<String>,
    start: Option<usize>,
}

/// What is sent back; `cut` bytes of the body at most.
struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
}

impl Answer {
    fn new(status: &'static str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            cut: None,
        }
    }

    fn error(status: &'static str, code: &str, words: &str) -> Self {
        Self::new(status)
            .header("X-Error-Code", code.to_owned())
            .header("X-Error-Message", words.to_owned())
    }

    fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

fn serve(
    listener: TcpListener,
    state: Arc<Mutex<State>>,
    answer: fn(&mut State, &Asked) -> Answer,
) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = state.clone();
            std::thread::spawn(move || {
                // A client that went away is none of the hub's business.
                let _ = exchange(stream, &state, answer);
            });
        }
    });
}

fn exchange(
    mut stream: TcpStream,
    state: &Mutex<State>,
    answer: fn(&mut State, &Asked) -> Answer,
) -> std::io::Result<()> {
    let asked = read_request(&stream)?;
    let answer = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let range = asked.start.map(|start| format!(" from {start}"));
        let line = format!(
            "{} {}{}",
            asked.method,
            asked.path,
            range.unwrap_or_default()
        );
        state.asked.push(line);
        answer(&mut state, &asked)
    };
    let mut head = format!("HTTP/1.1 {}\r\nConnection: close\r\n", answer.status);
    let has_length = answer
        .headers
        .iter()
        .any(|(name, _)| *name == "Content-Length");
    if !has_length {
        head += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if asked.method == "HEAD" {
        return Ok(());
    }
    let end = answer.cut.unwrap_or(usize::MAX).min(answer.body.len());
    stream.write_all(&answer.body[..end])?;
    stream.flush()
}

fn read_request(stream: &TcpStream) -> std::io::Result<Asked> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let mut asked = Asked {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        token: None,
        start: None,
    };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        match name.to_lowercase().as_str() {
            "authorization" => asked.token = value.strip_prefix("Bearer ").map(str::to_owned),
            "range" => {
                let range = value
                    .strip_prefix("bytes=")
                    .and_then(|range| range.split_once('-'));
                asked.start = range.and_then(|(start, _)| start.parse().ok());
            }
            _ => {}
        }
    }
    Ok(asked)
}

/// The hub's own address: lists, small files, redirects to large ones.
fn hub_answer(state: &mut State, asked: &Asked) -> Answer {
    if let Some(needed) = &state.token {
        match &asked.token {
            Some(token) if token == needed => {}
            Some(_) => {
                return Answer::error(
                    "401 Unauthorized",
                    "",
                    "Invalid credentials in Authorization header",
                );
            }
            None => {
                return Answer::error("401 Unauthorized", "RepoNotFound", "Repository not found");
            }
        }
    }
    let repository = state.repository.clone();
    let list = format!("/api/models/{repository}/revision/");
    if let Some(rest) = asked.path.strip_prefix(&list) {
        let revision = rest.split('?').next().unwrap_or_default();
        return list_answer(state, revision);
    }
    let files = format!("/{repository}/resolve/");
    let Some(rest) = asked.path.strip_prefix(&files) else {
        return Answer::error("401 Unauthorized", "RepoNotFound", "Repository not found");
    };
    let (revision, name) = rest.split_once('/').unwrap_or_default();
    if ![COMMIT, "main"].contains(&revision) {
        return Answer::error("404 Not Found", "RevisionNotFound", "Invalid rev id");
    }
    let name = name.replace("%20", " ");
    let Some(bytes) = state.files.get(&name).cloned() else {
        return Answer::error("404 Not Found", "EntryNotFound", "Entry not found");
    };
    let etag = etag(&bytes);
    if bytes.len() < LARGE {
        return file_answer(state, asked, &name, bytes).header("ETag", format!("\"{etag}\""));
    }
    Answer::new("302 Found")
        .header("Location", format!("{}/{etag}/{name}", state.storage))
        .header("X-Linked-Size", bytes.len().to_string())
        .header("X-Linked-Etag", format!("\"{etag}\""))
        .header("X-Repo-Commit", COMMIT.to_owned())
}

/// The other address, of large files.
fn storage_answer(state: &mut State, asked: &Asked) -> Answer {
    state.leaks += usize::from(asked.token.is_some());
    let name = asked.path.trim_start_matches('/').split_once('/');
    let name = name.map(|(_, name)| name.to_owned()).unwrap_or_default();
    match state.files.get(&name).cloned() {
        Some(bytes) => file_answer(state, asked, &name, bytes),
        None => Answer::new("404 Not Found"),
    }
}

fn file_answer(state: &mut State, asked: &Asked, name: &str, bytes: Vec<u8>) -> Answer {
    let bytes = state.altered.get(name).cloned().unwrap_or(bytes);
    let size = bytes.len();
    let start = asked.start.filter(|_| !state.ignores_ranges).unwrap_or(0);
    if start > 0 && start >= size {
        return Answer::new("416 Range Not Satisfiable");
    }
    let mut answer = if start > 0 {
        let range = format!("bytes {start}-{}/{size}", size - 1);
        Answer::new("206 Partial Content").header("Content-Range", range)
    } else {
        Answer::new("200 OK")
    };
    answer = answer.header("X-Repo-Commit", COMMIT.to_owned());
    answer.body = bytes[start..].to_vec();
    if asked.method == "HEAD" {
        answer.headers.push(("Content-Length", size.to_string()));
    } else if let Some(drops) = state.drops.get_mut(name).filter(|drops| !drops.is_empty()) {
        answer.cut = Some(drops.remove(0));
    }
    answer
}

fn list_answer(state: &mut State, revision: &str) -> Answer {
    if state.gated {
        return Answer::error(
            "403 Forbidden",
            "GatedRepo",
            "Access to this model is restricted",
        );
    }
    if state.busy > 0 {
        state.busy -= 1;
        return Answer::new("503 Service Unavailable");
    }
    if ![COMMIT, "main"].contains(&revision) {
        return Answer::error("404 Not Found", "RevisionNotFound", "Invalid rev id");
    }
    let siblings: Vec<String> = state
        .files
        .iter()
        .map(|(name, bytes)| {
            let (size, sum) = (bytes.len(), etag(bytes));
            match (state.bare_list, size < LARGE) {
                (true, _) => format!(r#"{{"rfilename": "{name}"}}"#),
                (_, true) => {
                    format!(r#"{{"rfilename": "{name}", "size": {size}, "blobId": "{sum}"}}"#)
                }
                (_, false) => format!(
                    r#"{{"rfilename": "{name}", "size": {size}, "blobId": "00",
                        "lfs": {{"sha256": "{sum}", "size": {size}, "pointerSize": 134}}}}"#
                ),
            }
        })
        .collect();
    let body = format!(
        r#"{{"_id": "1", "id": "{}", "sha": "{COMMIT}", "siblings": [{}]}}"#,
        state.repository,
        siblings.join(", ")
    );
    let mut answer = Answer::new("200 OK").header("Content-Type", "application/json".to_owned());
    answer.body = body.into_bytes();
    answer
}

/// What the hub names a content by.
pub(crate) fn etag(bytes: &[u8]) -> String {
    let hex = |sum: &[u8]| sum.iter().map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() < LARGE {
        let mut whole = format!("blob {}\0", bytes.len()).into_bytes();
        whole.extend_from_slice(bytes);
        hex(&Sha1::digest(whole))
    } else {
        hex(&Sha256::digest(bytes))
    }
}
