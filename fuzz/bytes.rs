//! What a stranger's bytes are given to: one function a target of the fuzzer, and of the test that replays its corpus.
//!
//! None may panic, hang, or take memory that the size of its input does not justify.

use std::path::Path;

use latent_formats::{Bytes, Picture, Weights};

/// A target's name and what it does with bytes.
type Target = (&'static str, fn(&[u8]));

/// Every target by name.
pub(crate) const ALL: &[Target] = &[
    ("safetensors", safetensors),
    ("pickle", pickle),
    ("picture", picture),
];

/// A weights file, whose every tensor is read.
fn weights(name: &str, bytes: &[u8]) {
    let Ok(weights) = Weights::from_bytes(name, Bytes::from_vec(bytes.to_vec())) else {
        return;
    };
    for name in weights.names() {
        let values = weights.read_f32(name).map_or(0, |values| values.len());
        assert!(
            values <= 8 * bytes.len(),
            "`{name}` has more values than the file has bits"
        );
    }
}

pub(crate) fn safetensors(bytes: &[u8]) {
    weights("a.safetensors", bytes);
}

/// A `.ckpt` as it is, and as the pickle inside of one.
pub(crate) fn pickle(bytes: &[u8]) {
    weights("a.ckpt", bytes);
    weights("a.ckpt", &zipped(bytes));
}

/// A pickle in a zip archive of one member.
fn zipped(pickle: &[u8]) -> Vec<u8> {
    let name = b"a/data.pkl";
    let sizes = [(pickle.len() as u32).to_le_bytes(); 2].concat();
    let mut out = [
        b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        &sizes[..],
        &[10, 0, 0, 0],
        name,
        pickle,
    ]
    .concat();
    let start = (out.len() as u32).to_le_bytes();
    let directory = [
        b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        &sizes[..],
        &[10, 0],
        &[0; 16],
        name,
    ];
    out.extend(directory.concat());
    out.extend(
        [
            b"PK\x05\x06\0\0\0\0\x01\0\x01\0\0\0\0\0",
            &start[..],
            &[0, 0],
        ]
        .concat(),
    );
    out
}

/// Larger pictures take time and memory that their format justifies: a WebP says sixty-four megapixels in a few bytes.
const MOST_PIXELS: usize = 1 << 21;

/// A picture file with all that is told in it.
pub(crate) fn picture(bytes: &[u8]) {
    let measured = Picture::measure(bytes, Path::new("a.png"));
    if measured.is_ok_and(|[width, height]| width * height > MOST_PIXELS) {
        return;
    }
    if let Ok(picture) = Picture::decode(bytes, Path::new("a.png")) {
        assert!(picture.text().len() <= bytes.len());
    }
}
