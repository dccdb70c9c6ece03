use super::*;
use latent_formats::{PictureFormat, write_bytes};

/// A folder with files; pictures are one grey level, which tells them apart.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_bytes(&path, content).unwrap();
        self
    }

    fn picture(self, name: &str, level: u8) -> Self {
        let picture = Picture::filled(4, 4, [level; 3]).unwrap();
        let format = PictureFormat::of_path(Path::new(name)).unwrap();
        self.file(name, &picture.encode(format).unwrap())
    }

    fn open(&self) -> DataSet {
        DataSet::open(self.path(), Captions::Required).unwrap()
    }

    fn fault(&self) -> String {
        DataSet::open(self.path(), Captions::Required)
            .unwrap_err()
            .to_string()
    }
}

fn keys(set: &DataSet) -> Vec<&str> {
    set.examples()
        .iter()
        .map(|example| example.key.as_str())
        .collect()
}

fn texts(set: &DataSet, index: usize) -> Vec<&str> {
    let captions = set.examples()[index].captions.iter();
    captions.map(|caption| caption.text.as_str()).collect()
}

fn level(set: &DataSet, index: usize) -> u8 {
    set.load(index).unwrap().pixel(0, 0)[0]
}

#[test]
fn pictures_with_texts_beside_them_are_a_data_set() {
    let folder = Folder::new()
        .picture("b.png", 2)
        .file("b.txt", b"a blue ball\nball\n")
        .picture("a.PNG", 1)
        .file("a.txt", "빨간 사과".as_bytes())
        .picture("sub/c.webp", 3)
        .file("sub/c.txt", b"")
        .file("README.txt", b"not a caption")
        .file(".hidden.png", b"not a picture");
    let set = folder.open();
    assert_eq!(keys(&set), ["a", "b", "sub/c"]);
    assert_eq!([0, 1, 2].map(|index| level(&set, index)), [1, 2, 3]);
    assert_eq!(texts(&set, 0), ["빨간 사과"]);
    assert_eq!(texts(&set, 1), ["a blue ball", "ball"]);
    assert_eq!(texts(&set, 2), [""]);
    assert!(
        set.examples()
            .iter()
            .all(|example| example.flip && example.weight == 1.0)
    );
}

#[test]
fn folders_are_classes() {
    let folder = Folder::new()
        .picture("10/a.png", 1)
        .picture("9/b.png", 2)
        .picture("9/c.png", 3);
    let set = DataSet::open(folder.path(), Captions::Optional).unwrap();
    assert_eq!(set.classes(), ["9", "10"]);
    assert_eq!(set.examples()[0].class.as_deref(), Some("10"));
}

#[test]
fn a_folder_without_captions_says_what_was_looked_for() {
    let folder = Folder::new().picture("a.png", 1).picture("b.png", 2);
    let message = folder.fault();
    assert!(
        message.contains("none of its 2 pictures has one") && message.contains("`NAME.txt`"),
        "{message}"
    );
    assert_eq!(
        DataSet::open(folder.path(), Captions::Optional)
            .unwrap()
            .len(),
        2
    );
    let message = folder.file("a.txt", b"x").fault();
    assert!(
        message.contains("1 of its 2 pictures have none, the first is `b`"),
        "{message}"
    );
}

#[test]
fn an_empty_folder_and_a_missing_one_are_named() {
    let folder = Folder::new().file("notes.md", b"x");
    assert!(
        folder.fault().contains("looked for pictures (.png"),
        "{}",
        folder.fault()
    );
    let message = DataSet::open(Path::new("no/such"), Captions::Required)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("`no/such`") && message.contains("no such file"),
        "{message}"
    );
}

#[test]
fn two_pictures_of_one_stem_are_refused() {
    let folder = Folder::new().picture("a.png", 1).picture("a.webp", 2);
    assert!(
        folder.fault().contains("two pictures are called"),
        "{}",
        folder.fault()
    );
}

const LINES: &str = r#"{"file_name": "x/2.png", "en": ["a cat"], "ko": ["고양이"], "kind": "white", "weight": 0.5, "class": "cat"}

{"file": "1.png", "key": "first", "text": "a dog", "flip": false}
"#;

#[test]
fn lines_of_metadata_are_a_data_set_in_their_order() {
    let folder = Folder::new()
        .picture("1.png", 1)
        .picture("x/2.png", 2)
        .file("metadata.jsonl", LINES.as_bytes());
    let set = folder.open();
    assert_eq!(keys(&set), ["x/2", "first"]);
    assert_eq!([level(&set, 0), level(&set, 1)], [2, 1]);
    let cat = &set.examples()[0];
    let korean = Caption {
        language: Some("ko".into()),
        text: "고양이".into(),
    };
    assert_eq!(cat.captions[1], korean);
    assert_eq!(
        (cat.weight, cat.attributes["kind"].as_str()),
        (0.5, Some("white"))
    );
    assert_eq!(set.weights(), [0.5, 1.0]);
    assert!(!set.examples()[1].flip);
    let same = DataSet::open(&folder.path().join("metadata.jsonl"), Captions::Required).unwrap();
    assert_eq!(same.fingerprint(), set.fingerprint());
}

#[test]
fn broken_lines_are_named_by_their_number() {
    for (line, expected) in [
        ("{\"file_name\": \"1.png\"", "line 3: it is no JSON object"),
        ("{\"text\": \"a\"}", "line 3: it has no `file_name`"),
        ("{\"file_name\": \"9.png\", \"text\": \"a\"}", "9.png"),
        (
            "{\"file_name\": \"../1.png\", \"text\": \"a\"}",
            "line 3: `../1.png` must lie in the folder",
        ),
        (
            "{\"file_name\": \"1.png\", \"text\": 3}",
            "line 3: `text` must be a string",
        ),
    ] {
        let text = format!("{{\"file_name\": \"1.png\", \"text\": \"a\"}}\n\n{line}\n");
        let folder = Folder::new()
            .picture("1.png", 1)
            .file("metadata.jsonl", text.as_bytes());
        assert!(folder.fault().contains(expected), "{}", folder.fault());
    }
}

#[test]
fn metadata_without_captions_says_what_was_looked_for() {
    let folder = Folder::new()
        .picture("1.png", 1)
        .file("metadata.jsonl", b"{\"file_name\": \"1.png\"}");
    assert!(
        folder.fault().contains("looked for `text`, `caption`"),
        "{}",
        folder.fault()
    );
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    let line = "{\"file_name\": \"1.png\", \"text\": \"a\"}\n".repeat(2);
    let folder = Folder::new()
        .picture("1.png", 1)
        .file("metadata.jsonl", line.as_bytes());
    assert!(
        folder.fault().contains("two examples have the key `1`"),
        "{}",
        folder.fault()
    );
}

#[test]
fn a_broken_picture_is_named_when_it_is_loaded() {
    let folder = Folder::new()
        .file("a.png", b"\x89PNG\r\n\x1a\nrubbish")
        .file("a.txt", b"x");
    let message = folder.open().load(0).unwrap_err().to_string();
    assert!(message.contains("a.png`"), "{message}");
}

#[test]
fn the_fingerprint_follows_captions_keys_and_sizes() {
    let make = |caption: &[u8], size: usize| {
        let picture = Picture::filled(size, size, [0; 3]).unwrap();
        let bytes = picture.encode(PictureFormat::Png).unwrap();
        Folder::new()
            .file("a.png", &bytes)
            .file("a.txt", caption)
            .open()
            .fingerprint()
    };
    assert_eq!(make(b"x", 4), make(b"x", 4));
    assert_ne!(make(b"x", 4), make(b"y", 4));
    assert_ne!(make(b"x", 4), make(b"x", 64));
}

#[test]
fn what_training_should_not_see_can_be_dropped() {
    let folder = Folder::new()
        .picture("1.png", 1)
        .picture("x/2.png", 2)
        .file("metadata.jsonl", LINES.as_bytes());
    let mut set = folder.open();
    set.retain(|example| example.key == "first");
    assert_eq!(
        (keys(&set), set.classes().len(), level(&set, 0)),
        (vec!["first"], 0, 1)
    );
}

#[test]
#[cfg(unix)]
fn links_in_a_circle_end_in_an_error() {
    let folder = Folder::new().picture("a.png", 1);
    std::os::unix::fs::symlink(folder.path(), folder.path().join("again")).unwrap();
    assert!(
        folder.fault().contains("link in a circle"),
        "{}",
        folder.fault()
    );
}
