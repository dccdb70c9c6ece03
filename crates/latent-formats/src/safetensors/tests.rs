use super::*;
use crate::Weights;
use proptest::prelude::*;

/// A file of a header and `data` zero bytes.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn open(bytes: Vec<u8>) -> Result<Weights, FormatError> {
    Weights::from_bytes("a.safetensors", Bytes::from_vec(bytes))
}

fn fault(header: &str, data: usize) -> String {
    let message = open(file(header, data)).unwrap_err().to_string();
    assert!(message.contains("`a.safetensors`"), "{message}");
    message
}

#[test]
fn our_files_are_those_of_the_reference_crate() {
    let values = [0.5f32, -2.0, 3.0, 1e-3];
    let ours = SafetensorsWriter::new()
        .metadata("format", "pt")
        .f32("b", &[4], &values, Dtype::Bf16)
        .unwrap()
        .f32("a", &[2, 2], &values, Dtype::F32)
        .unwrap()
        .raw("ids", &[2], &[1, 0, 0, 0, 2, 0, 0, 0], Dtype::I32)
        .unwrap()
        .to_bytes()
        .unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&ours).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    let theirs = safetensors::SafeTensors::deserialize(&ours).unwrap();
    let a = theirs.tensor("a").unwrap();
    assert_eq!(
        (a.shape(), a.dtype()),
        (&[2usize, 2][..], safetensors::Dtype::F32)
    );
    assert_eq!(a.data(), values.map(f32::to_le_bytes).as_flattened());
    assert_eq!(theirs.tensor("b").unwrap().data()[..4], [0, 0x3f, 0, 0xc0]);
    assert_eq!(theirs.tensor("ids").unwrap().data()[4], 2);
}

#[test]
fn files_of_the_reference_crate_are_read() {
    let bytes: Vec<u8> = [1.5f32, -7.0].map(f32::to_le_bytes).concat();
    let view =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1, 2], &bytes).unwrap();
    let metadata = [("by".to_string(), "them".to_string())].into();
    let theirs = safetensors::serialize([("x", view)], Some(metadata)).unwrap();
    let weights = open(theirs).unwrap();
    assert_eq!(weights.read_f32_shaped("x", &[1, 2]).unwrap(), [1.5, -7.0]);
    assert_eq!(weights.metadata()["by"], "them");
}

#[test]
fn the_order_of_adding_does_not_change_the_file() {
    let write = |names: [&str; 3]| {
        let add = |writer: SafetensorsWriter<'static>, name: &str| {
            writer.f32(name, &[], &[1.0], Dtype::F32).unwrap()
        };
        names
            .into_iter()
            .fold(SafetensorsWriter::new(), add)
            .to_bytes()
            .unwrap()
    };
    assert_eq!(write(["a", "b", "c"]), write(["c", "a", "b"]));
}

#[test]
fn every_tensor_lies_at_a_multiple_of_its_width() {
    let bytes = SafetensorsWriter::new()
        .raw("a", &[3], &[1, 2, 3], Dtype::U8)
        .unwrap()
        .f32("b", &[1], &[1.0], Dtype::F16)
        .unwrap()
        .f32("c", &[1], &[1.0], Dtype::F32)
        .unwrap()
        .to_bytes()
        .unwrap();
    let table = read(Path::new("a"), &Bytes::from_vec(bytes)).unwrap();
    for (name, entry) in table.entries {
        assert_eq!(entry.offset % entry.dtype.size(), 0, "{name}");
    }
}

#[test]
fn a_tensor_of_nothing_and_a_single_value_are_fine() {
    let header = r#"{"none": {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]},
        "one": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]}}"#;
    let weights = open(file(header, 1)).unwrap();
    assert!(weights.read_f32("none").unwrap().is_empty());
    assert_eq!(weights.read_f32("one").unwrap(), [0.0]);
}

#[test]
fn a_file_of_a_few_bytes_is_refused() {
    let message = open(vec![1, 2, 3]).unwrap_err().to_string();
    assert!(message.contains("it has 3 bytes"), "{message}");
}

#[test]
fn a_truncated_header_is_an_error_not_a_panic() {
    let whole = file(
        r#"{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}"#,
        1,
    );
    for len in 0..whole.len() {
        assert!(open(whole[..len].to_vec()).is_err(), "{len} bytes");
    }
}

#[test]
fn a_header_of_exabytes_is_refused() {
    let mut bytes = file("{}", 0);
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let message = open(bytes).unwrap_err().to_string();
    assert!(
        message.contains("claims 18446744073709551615 bytes"),
        "{message}"
    );
}

#[test]
fn broken_json_is_refused() {
    assert!(fault("{\"a\": ", 0).contains("its header is broken"));
    assert!(open(file("{\"\u{7f}\": 3}", 0)).is_err());
    let deep = "{\"a\":".to_string() + &"[".repeat(10000);
    assert!(fault(&deep, 0).contains("recursion limit"));
}

#[test]
fn a_doubled_key_is_refused_and_named() {
    let entry = r#"{"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}"#;
    let message = fault(&format!("{{\"w\": {entry}, \"w\": {entry}}}"), 1);
    assert!(message.contains("`w` stands twice"), "{message}");
}

#[test]
fn broken_entries_name_their_tensor() {
    for (entry, data, expected) in [
        (
            r#"{"dtype": "F5", "shape": [1], "data_offsets": [0, 1]}"#,
            1,
            "dtype `F5` is none of BOOL",
        ),
        (
            r#"{"dtype": "U8", "shape": [1], "data_offsets": [1, 0]}"#,
            1,
            "before its begin 1",
        ),
        (
            r#"{"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}"#,
            8,
            "ends at byte 9 of the data, 8 are there",
        ),
        (
            r#"{"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}"#,
            4,
            "takes 8 bytes, the entry has 4",
        ),
        (
            r#"{"dtype": "U8", "shape": [4294967296, 4294967296], "data_offsets": [0, 1]}"#,
            1,
            "larger than any memory",
        ),
        (
            r#"{"dtype": "U8", "shape": [-1], "data_offsets": [0, 1]}"#,
            1,
            "invalid value",
        ),
        (
            r#"{"dtype": "U8", "shape": [1]}"#,
            1,
            "missing field `data_offsets`",
        ),
        (
            r#"{"dtype": "U8", "shape": [1], "data_offsets": [0, 1], "x": 0}"#,
            1,
            "unknown field `x`",
        ),
        (r#"[1]"#, 1, "invalid"),
    ] {
        let message = fault(&format!("{{\"some.weight\": {entry}}}"), data);
        assert!(
            message.contains("`some.weight`") && message.contains(expected),
            "{message}"
        );
    }
}

#[test]
fn overlaps_gaps_and_left_over_bytes_are_refused() {
    let two = |a: &str, b: &str| {
        format!(
            r#"{{"a": {{"dtype": "U8", "shape": [2], "data_offsets": {a}}}, "b": {{"dtype": "U8", "shape": [2], "data_offsets": {b}}}}}"#
        )
    };
    assert!(
        fault(&two("[0, 2]", "[1, 3]"), 3)
            .contains("`b` is broken: its bytes overlap those of `a`")
    );
    assert!(fault(&two("[0, 2]", "[3, 5]"), 5).contains("1 bytes before it belong to no tensor"));
    assert!(fault(&two("[0, 2]", "[2, 4]"), 7).contains("its last 3 bytes belong to no tensor"));
    assert!(fault(&two("[1, 3]", "[3, 5]"), 5).contains("1 bytes before it"));
}

#[test]
fn metadata_that_is_no_text_is_refused() {
    assert!(fault(r#"{"__metadata__": {"a": 1}}"#, 0).contains("must map strings to strings"));
}

#[test]
fn tensors_that_do_not_fit_are_refused_on_writing() {
    let writer = SafetensorsWriter::new;
    assert!(writer().f32("a", &[3], &[0.0; 2], Dtype::F32).is_err());
    assert!(writer().f32("a", &[2], &[0.0; 2], Dtype::I8).is_err());
    assert!(
        writer()
            .f32("__metadata__", &[1], &[0.0], Dtype::F32)
            .is_err()
    );
    assert!(writer().raw("a", &[1], &[0; 3], Dtype::F32).is_err());
    let doubled = writer().f32("a", &[1], &[0.0], Dtype::F32).unwrap();
    assert!(doubled.f32("a", &[1], &[0.0], Dtype::F32).is_err());
    let message = writer()
        .f32("a", &[1], &[1e6], Dtype::F16)
        .err()
        .unwrap()
        .to_string();
    assert_eq!(
        message,
        "cannot write tensor `a`: its value 1000000 does not fit into F16"
    );
}

#[test]
fn large_tensors_are_converted_in_parts_without_a_seam() {
    let values: Vec<f32> = (0..200_000).map(|i| i as f32).collect();
    let bytes = SafetensorsWriter::new()
        .f32("a", &[200_000], &values, Dtype::F32)
        .unwrap();
    assert_eq!(
        open(bytes.to_bytes().unwrap())
            .unwrap()
            .read_f32("a")
            .unwrap(),
        values
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = open(bytes);
    }

    #[test]
    fn no_header_makes_it_panic(header in "\\{[\\[\\]{}\",:a0-9FU_]{0,60}", data in 0usize..20) {
        let _ = open(file(&header, data));
    }

    #[test]
    fn a_flipped_byte_is_an_error_or_another_value_never_a_panic(at in 0usize..90, value: u8) {
        let mut bytes = SafetensorsWriter::new().f32("a", &[2], &[1.0, 2.0], Dtype::F32).unwrap().to_bytes().unwrap();
        let at = at % bytes.len();
        bytes[at] = value;
        if let Ok(weights) = open(bytes) {
            for name in weights.names() {
                weights.read_f32(name).unwrap();
            }
        }
    }

    #[test]
    fn what_is_written_is_read(values in prop::collection::vec(any::<f32>(), 0..50)) {
        let bytes = SafetensorsWriter::new().f32("a", &[values.len()], &values, Dtype::F32).unwrap().to_bytes().unwrap();
        let back = open(bytes).unwrap().read_f32("a").unwrap();
        prop_assert!(back.iter().map(|v| v.to_bits()).eq(values.iter().map(|v| v.to_bits())));
    }
}
