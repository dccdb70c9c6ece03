use super::*;
use crate::{Captions, DataSet};
use latent_formats::{Picture, PictureFormat};
use proptest::prelude::*;
use std::io::Write;

fn png(level: u8) -> Vec<u8> {
    Picture::filled(4, 4, [level; 3])
        .unwrap()
        .encode(PictureFormat::Png)
        .unwrap()
}

fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn sample() -> Vec<u8> {
    tar(&[
        ("set/0001.png", &png(1)),
        ("set/0001.txt", b"a cat\nthe cat"),
        (
            "set/0002.json",
            br#"{"en": "a dog", "weight": 2, "kind": "white"}"#,
        ),
        ("set/0002.png", &png(2)),
        ("set/0002.cls", b"7\n"),
        ("set/0002.depth.png", b"another thing"),
        ("set/notes.txt", b"no picture of that stem"),
    ])
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn open(name: &str, bytes: &[u8]) -> Result<DataSet, DataError> {
    let folder = tempfile::tempdir().unwrap();
    DataSet::open(&write(folder.path(), name, bytes), Captions::Required)
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn check(set: &DataSet) {
    let keys: Vec<_> = set.examples().iter().map(|e| e.key.as_str()).collect();
    assert_eq!(keys, ["shard/set/0001", "shard/set/0002"]);
    assert_eq!(set.examples()[0].captions[1].text, "the cat");
    let dog = &set.examples()[1];
    assert_eq!((dog.captions[0].text.as_str(), dog.weight), ("a dog", 2.0));
    assert_eq!(
        (dog.class.as_deref(), dog.attributes["kind"].as_str()),
        (Some("7"), Some("white"))
    );
    assert_eq!([0, 1].map(|i| set.load(i).unwrap().pixel(0, 0)[0]), [1, 2]);
}

#[test]
fn members_with_one_stem_are_an_example() {
    check(&open("shard.tar", &sample()).unwrap());
}

#[test]
fn packed_shards_hold_the_same() {
    check(&open("shard.tar.gz", &packed(&sample())).unwrap());
    check(&open("shard.tgz", &packed(&sample())).unwrap());
}

#[test]
fn shards_are_found_by_folder_pattern_and_range() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["s-00.tar", "s-01.tar", "other.tar"] {
        write(
            folder.path(),
            name,
            &tar(&[("a.png", &png(1)), ("a.txt", b"x")]),
        );
    }
    let keys = |path: &Path| -> Vec<String> {
        let set = DataSet::open(path, Captions::Required).unwrap();
        set.examples().iter().map(|e| e.key.clone()).collect()
    };
    assert_eq!(keys(folder.path()), ["other/a", "s-00/a", "s-01/a"]);
    assert_eq!(keys(&folder.path().join("s-*.tar")), ["s-00/a", "s-01/a"]);
    assert_eq!(
        keys(&folder.path().join("s-{00..01}.tar")),
        ["s-00/a", "s-01/a"]
    );
    let missing = DataSet::open(&folder.path().join("s-{00..02}.tar"), Captions::Required);
    assert!(missing.unwrap_err().to_string().contains("s-02.tar"));
}

#[test]
fn a_shard_cut_anywhere_is_refused_by_name_and_place() {
    let whole = sample();
    // The last kilobyte is two blocks of zeros, of which one is needed.
    for len in (0..whole.len() - 1024).step_by(100) {
        let message = open("shard.tar", &whole[..len]).unwrap_err().to_string();
        assert!(
            message.contains("shard.tar` is broken at byte"),
            "{len}: {message}"
        );
    }
    let message = open("shard.tar", &whole[..530]).unwrap_err().to_string();
    assert!(
        message.contains("at byte 512: `set/0001.png` has"),
        "{message}"
    );
}

#[test]
fn a_packed_shard_cut_anywhere_is_refused() {
    let whole = packed(&sample());
    for len in 0..whole.len() {
        assert!(open("shard.tar.gz", &whole[..len]).is_err(), "{len}");
    }
}

#[test]
fn a_picture_without_words_is_refused_where_words_are_needed() {
    let message = open("s.tar", &tar(&[("a.png", &png(1))]))
        .unwrap_err()
        .to_string();
    assert!(message.contains("`NAME.txt` and `NAME.json`"), "{message}");
}

#[test]
fn broken_members_are_named() {
    let json = tar(&[("a.png", &png(1)), ("a.json", b"{\"text\": 3}")]);
    let message = open("s.tar", &json).unwrap_err().to_string();
    assert!(
        message.contains("s.tar:a.json`") && message.contains("`text` must be"),
        "{message}"
    );
    let picture = tar(&[("a.png", b"rubbish"), ("a.txt", b"x")]);
    let message = open("s.tar", &picture)
        .unwrap()
        .load(0)
        .unwrap_err()
        .to_string();
    assert!(message.contains("s.tar:a.png`"), "{message}");
}

#[test]
fn two_pictures_of_one_stem_and_links_are_refused() {
    let double = tar(&[("a.png", &png(1)), ("a.jpg", &png(1)), ("a.txt", b"x")]);
    assert!(
        open("s.tar", &double)
            .unwrap_err()
            .to_string()
            .contains("`a.png` and `a.jpg`")
    );
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    builder.append_link(&mut header, "a.png", "b.png").unwrap();
    let links = builder.into_inner().unwrap();
    assert!(
        open("s.tar", &links)
            .unwrap_err()
            .to_string()
            .contains("`a.png` is a link")
    );
}

#[test]
fn pictures_and_shards_in_one_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "s.tar", &sample());
    write(folder.path(), "a.png", &png(1));
    let message = DataSet::open(folder.path(), Captions::Optional)
        .unwrap_err()
        .to_string();
    assert!(message.contains("pictures and tar shards"), "{message}");
}

#[test]
fn stems_end_at_the_first_dot() {
    for (name, split) in [
        ("a/b.c/1.seg.png", Some(("a/b.c/1", "seg.png"))),
        ("1.png", Some(("1", "png"))),
        (".hidden", None),
        ("none", None),
    ] {
        assert_eq!(split_name(name), split);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_changed_byte_makes_it_panic(at: prop::sample::Index, value: u8) {
        let mut bytes = sample();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(set) = open("s.tar", &bytes) {
            (0..set.len()).for_each(|index| drop(set.load(index)));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        let _ = open("s.tar", &bytes);
        let _ = open("s.tar.gz", &bytes);
    }
}
