//! `latent demo`: its pages are whole, say the same in both languages, and their commands draw their pictures.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use latent_formats::Picture;

use crate::support::{names, run, text, tiny_model};

/// The pages of a quick demo of the model inside the program.
fn demo(folder: &Path) -> [String; 2] {
    let said = run(["demo", "--quick", "-o", text(folder)]).fine();
    assert_eq!(said.stdout.trim(), text(&folder.join("index.html")));
    ["index.html", "ko.html"].map(|name| fs::read_to_string(folder.join(name)).expect("a page"))
}

/// The values of an attribute, in order.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let begin = format!(" {attribute}=\"");
    page.match_indices(&begin)
        .map(|(at, _)| {
            let value = &page[at + begin.len()..];
            value.split('"').next().expect("an end")
        })
        .collect()
}

/// The names of the tags, in order, closing ones with their `/`.
fn tags(page: &str) -> Vec<&str> {
    let after = page.split('<').skip(1);
    after
        .map(|tag| tag.split([' ', '>']).next().expect("a name"))
        .collect()
}

fn check_nesting(page: &str) {
    let mut open = Vec::new();
    for tag in tags(page) {
        match tag.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed)),
            None if ["!doctype", "meta", "img"].contains(&tag) => {}
            None => open.push(tag),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

/// Every picture is there and whole, every link leads somewhere, nothing comes from outside, no file is left over.
fn check_links(folder: &Path, pages: &[String; 2]) {
    let mut used = BTreeSet::from(["index.html".to_owned(), "ko.html".to_owned()]);
    for page in pages {
        for name in values(page, "src") {
            Picture::open(&folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            used.insert(name.to_owned());
        }
        let ids = values(page, "id");
        for link in values(page, "href") {
            match link.strip_prefix('#') {
                Some(id) => assert!(ids.contains(&id), "{link}"),
                None => assert!(folder.join(link).is_file(), "{link}"),
            }
        }
        for outside in [
            "http:", "https:", "//", "<script", "<link", "@import", "url(",
        ] {
            assert!(!page.contains(outside), "{outside}");
        }
        check_nesting(page);
    }
    assert!(used.iter().eq(&names(folder)), "{used:?}");
}

#[test]
fn the_pages_are_whole_and_alike_and_their_commands_draw_their_pictures() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("demo");
    let pages = demo(&folder);
    check_links(&folder, &pages);

    let [english, korean] = &pages;
    assert_eq!(values(english, "id"), values(korean, "id"));
    assert!(values(english, "id").len() >= 8);
    assert_eq!(tags(english), tags(korean));
    assert!(values(english, "href").contains(&"ko.html"));
    assert!(values(korean, "href").contains(&"index.html"));
    let hangul = |page: &str| page.chars().filter(|c| ('가'..='힣').contains(c)).count();
    assert!(hangul(korean) > 10 * hangul(english));
    assert!(english.contains("<html lang=\"en\">") && korean.contains("<html lang=\"ko\">"));

    for name in [
        "words-ko-2.png",
        "guidance-8-seed-1.png",
        "negative-with-1.png",
        "between-2.png",
    ] {
        let figure = english
            .split("<figure")
            .find(|part| part.contains(&format!("\"{name}\"")));
        let command = figure
            .expect(name)
            .split("<code>")
            .nth(1)
            .expect("a command");
        let command = command
            .split("</code>")
            .next()
            .expect("its end")
            .replace("&quot;", "\"");
        let again = folder.join("again.png");
        let mut words = shell_words(&command);
        assert_eq!(words.remove(0), "latent");
        words.extend(["-o".to_owned(), text(&again).to_owned()]);
        run(&words).fine();
        let bytes = |path: &Path| fs::read(path).expect("a picture");
        assert!(bytes(&again) == bytes(&folder.join(name)), "{command}");
    }
}

/// What a shell makes of a line of words, some of them in double quotes.
fn shell_words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    let words = parts.flat_map(|(place, part)| match place % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

#[test]
fn the_same_model_gives_the_same_bytes_with_any_number_of_threads() {
    let folder = tempfile::tempdir().expect("a folder");
    let make = |name: &str, threads: &str| {
        let folder = folder.path().join(name);
        let model = tiny_model();
        let flags = [
            "demo",
            "--quick",
            "--model",
            text(&model),
            "--threads",
            threads,
            "-o",
        ];
        run(flags.into_iter().chain([text(&folder)])).fine();
        let files = names(&folder).into_iter();
        let files = files.map(|name| (fs::read(folder.join(&name)).expect("a file"), name));
        files.collect::<Vec<_>>()
    };
    let (once, again) = (make("once", "1"), make("again", "2"));
    assert!(once.len() > 20 && once == again);
    let page = String::from_utf8(
        once.into_iter()
            .find(|(_, name)| name == "index.html")
            .expect("a page")
            .0,
    );
    assert!(
        page.expect("UTF-8").contains("--model &quot;"),
        "commands name the model"
    );
}

#[test]
fn a_folder_with_files_in_it_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("mine.txt"), "mine").expect("written");
    let said = run(["demo", "--quick", "-o", text(folder.path())]);
    assert_eq!(said.code, 4, "{}", said.stderr);
    assert_eq!(names(folder.path()), ["mine.txt"]);
}

#[test]
fn a_sheet_is_one_picture_with_labels_and_no_pages() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("samples.png");
    let said = run(["demo", "--quick", "--sheet", text(&path)]).fine();
    assert_eq!(said.stdout.trim(), text(&path));
    assert_eq!(names(folder.path()), ["samples.png"]);
    let (sheet, one) = (Picture::open(&path).expect("a sheet"), 128);
    assert!(sheet.width() > 2 * one && sheet.height() > 2 * one);
}
