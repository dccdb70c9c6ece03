use super::*;
use crate::{SafetensorsWriter, write_bytes};

/// Two shards and their index in a folder of their own.
fn sharded(index: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for (file, name, value) in [("1.safetensors", "a", 1.0), ("2.safetensors", "b", 2.0)] {
        let values = [value, value];
        let writer = SafetensorsWriter::new()
            .f32(name, &[2], &values, Dtype::F32)
            .unwrap();
        writer.write(&folder.path().join(file)).unwrap();
    }
    let path = folder.path().join("model.safetensors.index.json");
    write_bytes(&path, index.as_bytes()).unwrap();
    (folder, path)
}

fn one() -> Weights {
    let bytes = SafetensorsWriter::new()
        .f32("down.0.conv.weight", &[2, 1], &[3.0, 4.0], Dtype::F16)
        .unwrap();
    Weights::from_bytes("unet", Bytes::from_vec(bytes.to_bytes().unwrap())).unwrap()
}

#[test]
fn shards_are_one_set_of_tensors() {
    let index = r#"{"metadata": {"total_size": 16}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
    let (_folder, path) = sharded(index);
    let weights = Weights::open(&path).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(weights.read_f32("a").unwrap(), [1.0, 1.0]);
    assert_eq!(weights.read_f32("b").unwrap(), [2.0, 2.0]);
}

#[test]
fn an_index_that_promises_too_much_is_refused() {
    for (index, expected) in [
        (
            r#"{"weight_map": {"c": "1.safetensors"}}"#,
            "has no tensor `c`",
        ),
        (r#"{"weight_map": {"a": "3.safetensors"}}"#, "3.safetensors"),
        (
            r#"{"weight_map": {"a": "../1.safetensors"}}"#,
            "only files in its own folder",
        ),
        (
            r#"{"weight_map": {"a": "/etc/passwd"}}"#,
            "only files in its own folder",
        ),
        (r#"{"weights": {}}"#, "unknown field `weights`"),
    ] {
        let (_folder, path) = sharded(index);
        let message = Weights::open(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_misspelt_name_is_answered_with_the_nearest() {
    let message = one()
        .read_f32("down.0.conv.wieght")
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        "`unet` has no tensor `down.0.conv.wieght`; the nearest name in it is `down.0.conv.weight`"
    );
    let message = one().read_f32("text.embedding").unwrap_err().to_string();
    assert_eq!(message, "`unet` has no tensor `text.embedding`");
}

#[test]
fn another_shape_is_refused_with_both() {
    let weights = one();
    assert_eq!(
        weights
            .read_f32_shaped("down.0.conv.weight", &[2, 1])
            .unwrap(),
        [3.0, 4.0]
    );
    let message = weights
        .read_f32_shaped("down.0.conv.weight", &[1, 2])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("has shape [2, 1], needed [1, 2]"),
        "{message}"
    );
}

#[test]
fn a_lfs_pointer_is_told_apart() {
    let text = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n";
    let message = Weights::from_bytes("a.safetensors", Bytes::from_static(text))
        .unwrap_err()
        .to_string();
    assert!(message.contains("git lfs pull"), "{message}");
}

#[test]
fn a_file_of_no_known_format_is_refused_by_its_content() {
    let message = Weights::from_bytes("a.html", Bytes::from_static(b"<html><body>"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("its content is none of safetensors"),
        "{message}"
    );
}

#[test]
fn strides_are_followed() {
    // A 2x3 matrix stored column after column, one byte before it.
    let entry = Entry {
        dtype: Dtype::U8,
        shape: vec![2, 3],
        offset: 1,
        strides: Some(vec![1, 2]),
    };
    assert_eq!(*entry.bytes(&[9, 0, 3, 1, 4, 2, 5]), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn edit_distance_counts_changes() {
    for (a, b, distance) in [
        ("", "abc", 3),
        ("kitten", "sitting", 3),
        ("same", "same", 0),
        ("abc", "", 3),
    ] {
        assert_eq!(edit_distance(a, b), distance);
    }
}

#[test]
fn a_tensor_is_shown_under_other_names_in_parts_and_transposed() {
    let bytes = SafetensorsWriter::new()
        .f32("m", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], Dtype::F16)
        .unwrap();
    let weights = Weights::from_bytes("m", Bytes::from_vec(bytes.to_bytes().unwrap())).unwrap();
    let shown = weights.renamed(|_| {
        vec![
            Renamed::transposed("turned"),
            Renamed {
                rows: (1, 2),
                ..Renamed::transposed("second")
            },
        ]
    });
    assert_eq!(shown.describe("turned").unwrap().1, [3, 2]);
    let turned = [1.0, 4.0, 2.0, 5.0, 3.0, 6.0];
    assert_eq!(shown.read_f32("turned").unwrap(), turned);
    assert!(shown.stored("turned").is_none());
    assert_eq!(shown.describe("second").unwrap().1, [3, 1]);
    assert_eq!(shown.read_f32("second").unwrap(), [4.0, 5.0, 6.0]);
    let back = shown.renamed(|name| match name {
        "turned" => vec![Renamed::transposed("m")],
        _ => Vec::new(),
    });
    assert_eq!(back.read_f32("m").unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}
