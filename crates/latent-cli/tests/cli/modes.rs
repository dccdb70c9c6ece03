//! Image to image, inpainting, outpainting, variations and the second pass, as the command runs them.

use std::fs;
use std::path::{Path, PathBuf};

use latent_formats::Picture;

use crate::support::{Said, names, picture, run, text, tiny_model};

/// A picture, and masks for it, in a folder.
struct Table(tempfile::TempDir);

impl Table {
    fn new() -> Self {
        let table = Self(tempfile::tempdir().expect("a folder"));
        picture(64, 64, 1)
            .save(&table.path("init.png"))
            .expect("saved");
        let mask = |name: &str, white: fn(usize, usize) -> bool| {
            let places = (0..64 * 64).map(|at| (at % 64, at / 64));
            let grey = places.flat_map(|(x, y)| [if white(x, y) { 255 } else { 0 }; 3]);
            let mask = Picture::new(64, 64, grey.collect()).expect("a mask");
            mask.save(&table.path(name)).expect("saved");
        };
        mask("mask.png", |x, y| x >= 32 && y >= 16);
        mask("black.png", |_, _| false);
        mask("thin.png", |x, _| x == 33);
        table
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Draws `output` with the tiny model; words that end in `.png` are files of the table.
    fn draw(&self, output: &str, more: &str) -> Said {
        let model = tiny_model();
        let words: Vec<String> = more
            .split_whitespace()
            .map(|word| match word.ends_with(".png") {
                true => text(&self.path(word)).to_owned(),
                false => word.to_owned(),
            })
            .collect();
        let output = self.path(output);
        let mut flags = vec![
            "generate",
            "a fox",
            "--model",
            text(&model),
            "--device",
            "cpu",
        ];
        flags.extend(["--precision", "f32", "--steps", "4", "-o", text(&output)]);
        flags.extend(words.iter().map(String::as_str));
        run(flags)
    }

    fn open(&self, name: &str) -> Picture {
        Picture::open(&self.path(name)).expect("a picture")
    }

    fn parameters(&self, name: &str) -> String {
        let picture = self.open(name);
        let found = picture.text().iter().find(|(key, _)| key == "parameters");
        found.expect("settings").1.clone()
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).expect("the picture")
}

#[test]
fn what_a_mask_leaves_black_keeps_its_bytes() {
    let table = Table::new();
    table
        .draw("a.png", "--init init.png --mask mask.png")
        .fine();
    let (old, new) = (table.open("init.png"), table.open("a.png"));
    let places = (0..64 * 64).map(|at| (at % 64, at / 64));
    let (inside, outside): (Vec<_>, Vec<_>) = places.partition(|&(x, y)| x >= 32 && y >= 16);
    assert!(
        outside
            .iter()
            .all(|&(x, y)| old.pixel(x, y) == new.pixel(x, y))
    );
    assert!(
        inside
            .iter()
            .any(|&(x, y)| old.pixel(x, y) != new.pixel(x, y))
    );
    let told = table.parameters("a.png");
    assert!(
        told.contains("Denoising strength: 1, Mask blur: 0"),
        "{told}"
    );
    let off = "--init init.png --mask mask.png --keep-unmasked false";
    table.draw("b.png", off).fine();
    assert_ne!(table.open("b.png").pixel(0, 0), old.pixel(0, 0));
}

#[test]
fn outpainting_enlarges_and_keeps_the_picture_beyond_the_fading() {
    let table = Table::new();
    table
        .draw("a.png", "--init init.png --outpaint 8,16,0,5 --mask-blur 4")
        .fine();
    let (old, new) = (table.open("init.png"), table.open("a.png"));
    assert_eq!((new.width(), new.height()), (72, 85));
    for (x, y) in [(4, 4), (63, 30), (30, 59)] {
        assert_eq!(old.pixel(x, y), new.pixel(x + 8, y + 16), "{x},{y}");
    }
}

#[test]
fn any_size_is_drawn_and_is_the_corner_of_the_padded_one() {
    let table = Table::new();
    table.draw("odd.png", "--width 61 --height 50").fine();
    table.draw("even.png", "--width 64 --height 56").fine();
    let even = table.open("even.png").crop(0, 0, 61, 50).expect("inside");
    assert_eq!(table.open("odd.png").rgb(), even.rgb());
    assert!(table.parameters("odd.png").contains("Size: 61x50"));
    table
        .draw(
            "i.png",
            "--init init.png --strength 0.5 --width 37 --height 41",
        )
        .fine();
    let picture = table.open("i.png");
    assert_eq!((picture.width(), picture.height()), (37, 41));
}

#[test]
fn a_picture_of_many_is_the_picture_alone_in_every_mode() {
    let table = Table::new();
    let modes = [
        "--init init.png --strength 0.6 --sampler euler_a",
        "--init init.png --mask mask.png --sampler euler_a",
        "--hires-scale 1.5 --hires-upscaler lanczos --sampler euler_a",
    ];
    for mode in modes {
        table
            .draw("many.png", &format!("{mode} --seed 7 --count 2"))
            .fine();
        table.draw("alone.png", &format!("{mode} --seed 8")).fine();
        assert!(
            bytes(&table.path("many-2.png")) == bytes(&table.path("alone.png")),
            "{mode}"
        );
    }
    let varied = "--seed 7 --variation-strength 0.3 --variation-seed";
    table
        .draw("many.png", &format!("{varied} 1 --count 2"))
        .fine();
    table.draw("alone.png", &format!("{varied} 2")).fine();
    assert!(bytes(&table.path("many-2.png")) == bytes(&table.path("alone.png")));
    let told = table.parameters("alone.png");
    assert!(
        told.contains("Seed: 7,") && told.contains("Variation seed: 2,"),
        "{told}"
    );
}

#[test]
fn a_second_pass_over_pixels_is_image_to_image_of_the_enlarged_picture() {
    let table = Table::new();
    let hires = "--hires-scale 2 --hires-steps 2 --hires-strength 0.5 --hires-upscaler lanczos";
    table.draw("hires.png", hires).fine();
    table.draw("small.png", "").fine();
    let small = table.open("small.png");
    let large = small
        .resize(128, 128, latent_formats::Filter::Lanczos)
        .expect("resized");
    large.save(&table.path("large.png")).expect("saved");
    // Two steps done at a strength of a half are those of a run of four.
    table
        .draw("twice.png", "--init large.png --strength 0.5")
        .fine();
    assert_eq!(table.open("hires.png").rgb(), table.open("twice.png").rgb());
    let told = table.parameters("hires.png");
    let words =
        "Denoising strength: 0.5, Hires upscale: 2, Hires steps: 2, Hires upscaler: Lanczos";
    assert!(
        told.contains("Size: 64x64") && told.contains(words),
        "{told}"
    );
    table.draw("latent.png", "--hires-scale 1.25").fine();
    assert_eq!(table.open("latent.png").width(), 80);
}

#[test]
fn what_cannot_be_is_refused_in_one_sentence() {
    let table = Table::new();
    picture(32, 32, 0)
        .save(&table.path("small.png"))
        .expect("saved");
    let before = names(table.0.path());
    let cases = [
        ("--mask mask.png", 2, "without a picture to start from"),
        ("--strength 0.5", 2, "without a picture to start from"),
        ("--init init.png --strength 0", 2, "`strength` is 0"),
        ("--init init.png --strength 1.01", 2, "`strength` is 1.01"),
        ("--init init.png --strength 0.1", 2, "strength"),
        ("--init init.png --mask small.png", 2, "the mask is 32x32"),
        ("--init init.png --mask black.png", 2, "black everywhere"),
        ("--init init.png --mask thin.png", 2, "--mask-grow 8"),
        ("--init init.png --mask-grow 8", 2, "without a mask"),
        ("--init init.png --outpaint 1,2,3", 2, "four numbers"),
        ("--init init.png --outpaint 0,0,0,0", 2, "adds no pixels"),
        ("--init missing.png", 3, "missing.png"),
        ("--variation-strength 0.5", 2, "--variation-seed"),
        ("--hires-scale 0.5", 2, "hires.scale"),
        ("--hires-steps 5", 2, "--hires-scale"),
        ("--init init.png --hires-scale 2", 2, "`hires`"),
    ];
    for (flags, code, words) in cases {
        let said = table.draw("never.png", flags);
        assert_eq!(said.code, code, "{flags}: {}", said.stderr);
        assert!(said.stderr.contains(words), "{flags}: {}", said.stderr);
        assert!(
            !said.stderr.contains("panicked"),
            "{flags}: {}",
            said.stderr
        );
    }
    assert_eq!(names(table.0.path()), before);
    table
        .draw("grown.png", "--init init.png --mask thin.png --mask-grow 8")
        .fine();
}
