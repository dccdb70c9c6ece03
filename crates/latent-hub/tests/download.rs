//! Files of a hub, from a small server that speaks its paths.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use latent_hub::{Hub, HubError, HubName, Settings};

mod server;
use server::{COMMIT, Server, etag};

const SMALL: &[u8] = b"{\"a\": 1}\n";
const NAME: &str = "unet/model.safetensors";

/// Bytes that no pattern repeats in.
fn large() -> Vec<u8> {
    let mut state = 1_u32;
    let byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(byte).take(3_000_000).collect()
}

/// A hub with a small and a large file, and an empty cache.
struct Case {
    server: Server,
    cache: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        Self {
            server: Server::start("owner/name", &[("a b.json", SMALL), (NAME, &large())]),
            cache: tempfile::tempdir().expect("a folder"),
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint: self.server.address().to_owned(),
            cache: self.cache.path().to_path_buf(),
            token: None,
            offline: false,
            pause: Duration::from_millis(1),
        }
    }

    /// Fetches files of `name`, and has the revision remembered.
    fn fetch_of(
        &self,
        settings: Settings,
        name: &str,
        files: &[&str],
    ) -> Result<PathBuf, HubError> {
        let name = HubName::parse(name).expect("a name");
        let mut repository = Hub::new(settings).open(&name)?;
        let folder = repository.fetch(files, &mut |_| ControlFlow::Continue(()))?;
        repository.remember()?;
        Ok(folder)
    }

    fn fetch(&self) -> Result<PathBuf, HubError> {
        self.fetch_of(self.settings(), "owner/name", &["a b.json", NAME])
    }

    fn folder(&self) -> PathBuf {
        self.cache.path().join("models--owner--name")
    }

    /// The fetch went well, and its files are those of the hub.
    #[track_caller]
    fn assert_whole(&self, folder: Result<PathBuf, HubError>) {
        let folder = folder.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(fs::read(folder.join("a b.json")).unwrap(), SMALL);
        assert!(fs::read(folder.join(NAME)).unwrap() == large());
        assert!(leftovers(&self.folder()).is_empty());
    }
}

/// Unfinished downloads.
fn leftovers(folder: &Path) -> Vec<PathBuf> {
    let blobs = fs::read_dir(folder.join("blobs"))
        .into_iter()
        .flatten()
        .flatten();
    let unfinished = |path: &PathBuf| path.extension().is_some_and(|end| end == "incomplete");
    blobs.map(|entry| entry.path()).filter(unfinished).collect()
}

#[test]
fn files_come_whole_into_the_folder_that_other_programs_read() {
    let case = Case::new();
    let mut seen = Vec::new();
    let name = HubName::parse("owner/name").unwrap();
    let mut repository = Hub::new(case.settings()).open(&name).unwrap();
    let folder = repository.fetch(&["a b.json", NAME], &mut |progress| {
        seen.push((progress.file.to_owned(), progress.done, progress.total));
        ControlFlow::Continue(())
    });
    repository.remember().unwrap();
    case.assert_whole(folder);
    // The layout that huggingface_hub documents: refs, blobs by etag, links in snapshots.
    let folder = case.folder();
    assert_eq!(
        fs::read_to_string(folder.join("refs/main")).unwrap(),
        COMMIT
    );
    let blob = folder.join("blobs").join(etag(&large()));
    let shown = folder.join("snapshots").join(COMMIT).join(NAME);
    assert_eq!(
        fs::canonicalize(&shown).unwrap(),
        fs::canonicalize(&blob).unwrap()
    );
    #[cfg(unix)]
    assert!(fs::read_link(&shown).unwrap().starts_with("../../../blobs"));
    let total = (SMALL.len() + large().len()) as u64;
    assert_eq!(seen.last(), Some(&(NAME.to_owned(), total, total)));
    assert!(
        seen.windows(2).all(|pair| pair[0].1 <= pair[1].1),
        "progress goes forward"
    );
}

#[test]
fn a_second_run_asks_for_the_list_only() {
    let case = Case::new();
    case.fetch().unwrap();
    let first = case.server.asked();
    assert!(
        first.iter().any(|line| line.contains("/resolve/")),
        "{first:?}"
    );
    case.assert_whole(case.fetch());
    let list = "GET /api/models/owner/name/revision/main?blobs=true";
    assert_eq!(case.server.asked(), [list]);
}

#[test]
fn a_dropped_connection_goes_on_where_it_broke_off() {
    let case = Case::new();
    let drops = vec![1_000_000, 500_000, 0];
    case.server.state().drops.insert(NAME.to_owned(), drops);
    case.assert_whole(case.fetch());
    let asked = case.server.asked();
    let starts: Vec<usize> = asked
        .iter()
        .filter(|line| line.contains("resolve") && line.contains("unet"))
        .map(|line| {
            line.rsplit_once(" from ")
                .map_or(0, |(_, start)| start.parse().unwrap())
        })
        .collect();
    assert_eq!(starts.len(), 4, "{asked:?}");
    assert!(
        starts[1] > 900_000 && starts[2] > starts[1] && starts[3] >= starts[2],
        "{starts:?}"
    );
}

#[test]
fn a_run_that_was_given_up_is_taken_up_by_the_next() {
    let case = Case::new();
    let drops = vec![2_000_000, 0, 0, 0, 0, 0, 0];
    case.server.state().drops.insert(NAME.to_owned(), drops);
    let error = case.fetch().unwrap_err();
    assert!(matches!(error, HubError::Dropped { .. }), "{error}");
    let said = error.to_string();
    assert!(
        said.contains(NAME) && said.contains("of 3000000 bytes") && said.contains("goes on"),
        "{said}"
    );
    assert_eq!(leftovers(&case.folder()).len(), 1);
    case.server.state().drops.clear();
    case.server.asked();
    case.assert_whole(case.fetch());
    let asked = case.server.asked();
    assert!(
        asked.iter().any(|line| line.contains(" from ")),
        "{asked:?}"
    );
}

#[test]
fn a_server_that_sends_whole_files_only_does_not_spoil_a_resumed_one() {
    let case = Case::new();
    case.server
        .state()
        .drops
        .insert(NAME.to_owned(), vec![1_500_000]);
    case.server.state().ignores_ranges = true;
    case.assert_whole(case.fetch());
}

#[test]
fn the_spoilt_rest_of_an_earlier_run_is_fetched_anew() {
    let case = Case::new();
    let part = case
        .folder()
        .join("blobs")
        .join(format!("{}.incomplete", etag(&large())));
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, vec![7; 1_000_000]).unwrap();
    case.assert_whole(case.fetch());
    // Nor does one that is too long.
    let case = Case::new();
    let part = case.folder().join("blobs").join(part.file_name().unwrap());
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, vec![7; 4_000_000]).unwrap();
    case.assert_whole(case.fetch());
}

#[test]
fn an_altered_a_shortened_and_a_lengthened_file_are_refused_by_name() {
    let mut flipped = large();
    flipped[2_999_999] ^= 1;
    let mut longer = large();
    longer.push(0);
    let cases = [
        (flipped, "its checksum is"),
        (
            large()[..2_000_000].to_vec(),
            "2000000 bytes, promised were 3000000",
        ),
        (longer, "3000001 bytes, promised were 3000000"),
    ];
    for (bytes, words) in cases {
        let case = Case::new();
        case.server.state().altered.insert(NAME.to_owned(), bytes);
        let error = case.fetch().unwrap_err();
        assert!(matches!(error, HubError::Altered { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains(NAME) && said.contains(words), "{said}");
        let blob = case.folder().join("blobs").join(etag(&large()));
        assert!(!blob.exists() && leftovers(&case.folder()).is_empty());
        assert!(
            !case
                .folder()
                .join("snapshots")
                .join(COMMIT)
                .join(NAME)
                .exists()
        );
    }
    // A small file has git's sum.
    let case = Case::new();
    let other = b"{\"a\": 2}\n".to_vec();
    case.server
        .state()
        .altered
        .insert("a b.json".to_owned(), other);
    let said = case.fetch().unwrap_err().to_string();
    assert!(
        said.contains("a b.json") && said.contains("checksum"),
        "{said}"
    );
}

#[test]
fn a_truncated_file_of_the_cache_is_fetched_again() {
    let case = Case::new();
    case.fetch().unwrap();
    let blob = case.folder().join("blobs").join(etag(&large()));
    fs::write(&blob, &large()[..10]).unwrap();
    case.assert_whole(case.fetch());
}

#[test]
fn offline_asks_nothing_and_gives_what_the_cache_holds() {
    let case = Case::new();
    let offline = || Settings {
        offline: true,
        ..case.settings()
    };
    let files = ["a b.json", NAME];
    let said = case
        .fetch_of(offline(), "owner/name", &files)
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("`owner/name`") && said.contains("--offline"),
        "{said}"
    );
    assert!(case.server.asked().is_empty());
    case.fetch_of(case.settings(), "owner/name", &files[..1])
        .unwrap();
    case.server.asked();
    let said = case
        .fetch_of(offline(), "owner/name", &files)
        .unwrap_err()
        .to_string();
    assert!(said.contains(NAME), "{said}");
    case.fetch().unwrap();
    case.server.asked();
    case.assert_whole(case.fetch_of(offline(), "owner/name", &files));
    // A commit is itself, without a branch that points at it.
    case.assert_whole(case.fetch_of(offline(), &format!("owner/name@{COMMIT}"), &files));
    assert!(case.server.asked().is_empty());
}

#[test]
fn a_hub_that_cannot_be_reached_is_said_and_the_cache_taken_if_it_has_all() {
    let case = Case::new();
    let unreachable = || Settings {
        // Port 1 of this machine: nobody listens.
        endpoint: "http://127.0.0.1:1".to_owned(),
        ..case.settings()
    };
    let files = ["a b.json", NAME];
    let error = case
        .fetch_of(unreachable(), "owner/name", &files)
        .unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("http://127.0.0.1:1"), "{error}");
    case.fetch_of(case.settings(), "owner/name", &files[..1])
        .unwrap();
    let error = case
        .fetch_of(unreachable(), "owner/name", &files)
        .unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    case.fetch().unwrap();
    case.assert_whole(case.fetch_of(unreachable(), "owner/name", &files));
}

#[test]
fn a_token_goes_to_the_hub_and_nowhere_else() {
    let case = Case::new();
    case.server.state().token = Some("hf_right".to_owned());
    let with = |token: Option<&str>| Settings {
        token: token.map(str::to_owned),
        ..case.settings()
    };
    let files = ["a b.json", NAME];
    let said = |token| {
        let error = case
            .fetch_of(with(token), "owner/name", &files)
            .unwrap_err();
        error.to_string()
    };
    let wrong = said(Some("hf_wrong"));
    assert!(
        wrong.contains("refuses the token") && wrong.contains("Invalid credentials"),
        "{wrong}"
    );
    assert!(!wrong.contains("hf_wrong"), "{wrong}");
    let none = said(None);
    assert!(
        none.contains("`owner/name`") && none.contains("`HF_TOKEN` is not set"),
        "{none}"
    );
    case.assert_whole(case.fetch_of(with(Some("hf_right")), "owner/name", &files));
    assert_eq!(case.server.state().leaks, 0);
}

#[test]
fn what_the_hub_does_not_have_is_named() {
    let case = Case::new();
    let said = |name: &str, files: &[&str]| {
        let error = case.fetch_of(case.settings(), name, files).unwrap_err();
        error.to_string()
    };
    let missing = said("owner/other", &["a"]);
    assert!(
        missing.contains("`owner/other` is no file or folder here"),
        "{missing}"
    );
    let revision = said("owner/name@v9", &["a"]);
    assert!(revision.contains("no revision `v9`"), "{revision}");
    let file = said("owner/name", &["b.safetensors"]);
    assert!(
        file.contains("no file `b.safetensors`") && file.contains(NAME),
        "{file}"
    );
    case.server.state().gated = true;
    let gated = said("owner/name", &["a b.json"]);
    assert!(
        gated.contains("accept")
            && gated.contains("/owner/name")
            && gated.contains("Access to this model is restricted"),
        "{gated}"
    );
}

#[test]
fn a_list_without_sizes_is_made_up_for_by_asking_for_each_file() {
    let case = Case::new();
    case.server.state().bare_list = true;
    case.assert_whole(case.fetch());
    let heads = case.server.asked();
    let heads = heads
        .iter()
        .filter(|line| line.starts_with("HEAD "))
        .count();
    assert_eq!(heads, 2);
    let case = Case::new();
    case.server.state().bare_list = true;
    case.server
        .state()
        .altered
        .insert(NAME.to_owned(), vec![7; 3_000_000]);
    let said = case.fetch().unwrap_err().to_string();
    assert!(said.contains("its checksum is"), "{said}");
}

#[test]
fn a_busy_hub_is_asked_again_and_a_stop_keeps_what_came() {
    let case = Case::new();
    case.server.state().busy = 2;
    case.assert_whole(case.fetch());
    let case = Case::new();
    let name = HubName::parse("owner/name").unwrap();
    let mut repository = Hub::new(case.settings()).open(&name).unwrap();
    let stopped = repository.fetch(&[NAME], &mut |progress| match progress.done {
        0..1_000_000 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    assert!(matches!(stopped, Err(HubError::Stopped)));
    let part = &leftovers(&case.folder())[0];
    assert!(fs::metadata(part).unwrap().len() >= 1_000_000);
}
