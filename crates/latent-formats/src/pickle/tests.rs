use super::*;
use crate::Weights;
use proptest::prelude::*;

/// Made by `tests/fixtures/pickle/make.py` with torch.
const STATE: &[u8] = include_bytes!("../../tests/fixtures/pickle/state.ckpt");
const LEGACY: &[u8] = include_bytes!("../../tests/fixtures/pickle/legacy.pt");
const EXPECTED: &[u8] = include_bytes!("../../tests/fixtures/pickle/expected.safetensors");
const EVIL: &[u8] = include_bytes!("../../tests/fixtures/pickle/evil.pt");
/// A textual inversion as A1111 stores it.
const EMBEDDING: &[u8] = include_bytes!("../../tests/fixtures/pickle/embedding_a1111.pt");

fn open(bytes: &[u8]) -> Result<Weights, FormatError> {
    Weights::from_bytes("a.ckpt", Bytes::from_vec(bytes.to_vec()))
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
    out.extend(
        [
            b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            &sizes[..],
            &[10, 0],
            &[0; 16],
            name,
        ]
        .concat(),
    );
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

fn fault(pickle: &[u8]) -> String {
    open(&zipped(pickle)).unwrap_err().to_string()
}

fn equals_what_torch_saved(bytes: &[u8]) {
    let (found, expected) = (open(bytes).unwrap(), open(EXPECTED).unwrap());
    assert_eq!(
        found.names().collect::<Vec<_>>(),
        expected.names().collect::<Vec<_>>()
    );
    for name in expected.names() {
        let (found, expected) = (found.tensor(name).unwrap(), expected.tensor(name).unwrap());
        assert_eq!(
            (found.dtype, found.shape),
            (expected.dtype, expected.shape),
            "{name}"
        );
        assert_eq!(found.bytes, expected.bytes, "{name}");
    }
}

#[test]
fn views_of_every_kind_equal_what_torch_saved_as_safetensors() {
    equals_what_torch_saved(STATE);
}

#[test]
fn files_from_before_torch_1_6_hold_the_same() {
    equals_what_torch_saved(LEGACY);
}

#[test]
fn a_textual_inversion_is_read_with_its_texts() {
    let weights = open(EMBEDDING).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["string_to_param.*"]);
    let (_, shape) = weights.describe("string_to_param.*").unwrap();
    assert_eq!(shape, [3, 32]);
    let first = weights.read_f32("string_to_param.*").unwrap()[0];
    assert!((first - 0.1783).abs() < 5e-5);
    assert_eq!(weights.metadata()["name"], "my-style");
    assert_eq!(weights.metadata()["step"], "100");
}

#[test]
fn a_name_that_no_tensor_needs_is_refused_and_not_run() {
    let message = open(EVIL).unwrap_err().to_string();
    assert!(
        message.contains("`posix.system`") && message.contains("not run"),
        "{message}"
    );
}

#[test]
fn broken_pickles_are_errors_that_say_what() {
    for (pickle, expected) in [
        (&b"}"[..], "ends too early"),
        (b".", "empty stack"),
        (b"(N0000.", "empty stack"),
        (b"t.", "group that never began"),
        (b"h\x05.", "never stored"),
        (b"NN\x86NR.", "without a tuple"),
        (b"N)R.", "no function"),
        (b"}(Nu.", "key without a value"),
        (b"N(NNu.", "into what holds none"),
        (b"X\xff\xff\xff\xffa.", "ends too early"),
        (b"cos\nsystem\n.", "`os.system`"),
        (b"cos", "has no end"),
        (b"i.", "operation 0x69"),
        (b"NQ.", "names a storage in a way of its own"),
    ] {
        let message = fault(pickle);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn every_way_to_run_code_is_refused_by_name() {
    for (pickle, name) in [
        (&b"cos\nsystem\n(X\x04\0\0\0trueltR."[..], "`os.system`"),
        (b"cbuiltins\neval\n(X\x03\0\0\x001+1tR.", "`builtins.eval`"),
        (
            b"c__builtin__\nexec\n(X\x01\0\0\0atR.",
            "`__builtin__.exec`",
        ),
        (
            b"csubprocess\nPopen\n(X\x02\0\0\0lstR.",
            "`subprocess.Popen`",
        ),
        (
            b"coperator\nattrgetter\n(X\x01\0\0\0atR.",
            "`operator.attrgetter`",
        ),
        // By names on the stack, as protocol 4 has them.
        (
            b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x01a\x85R.",
            "`builtins.exec`",
        ),
        // Deep inside the arguments of functions that are known.
        (
            b"ccollections\nOrderedDict\n(ccollections\nOrderedDict\n(cbuiltins\neval\n(NtRtRtR.",
            "`builtins.eval`",
        ),
        // Remembered and called later.
        (
            b"cposix\nsystem\nq\x05000h\x05(X\x01\0\0\0atR.",
            "`posix.system`",
        ),
        // A new object of a class, its state, and a registered extension.
        (b"cos\n_wrap_close\n)\x81.", "`os._wrap_close`"),
        (b"(cos\nsystem\nX\x01\0\0\0ao.", "`os.system`"),
        (b"(X\x01\0\0\0aios\nsystem\n.", "operation 0x69"),
        (b"\x82\x01.", "operation 0x82"),
    ] {
        let message = fault(pickle);
        assert!(message.contains(name), "{name}: {message}");
    }
}

#[test]
fn a_container_that_holds_itself_is_an_error() {
    // A dictionary under its own key `a`.
    assert!(fault(b"}q\0X\x01\0\0\0ah\0s.").contains("nested deeper"));
}

#[test]
fn containers_that_multiply_without_end_are_an_error() {
    // Fourteen lists, each of sixteen times the one before: 16^14 lists of nothing.
    let mut pickle = b"]".to_vec();
    for level in 0..14u8 {
        pickle.extend([b'q', level, b'0', b']', b'(']);
        pickle.extend([b'h', level].repeat(16));
        pickle.push(b'e');
    }
    pickle.push(b'.');
    assert!(fault(&pickle).contains("more values"));
}

#[test]
fn a_short_pickle_that_recalls_what_is_long_is_an_error() {
    // A thousand dictionaries made of one list of a thousand pairs.
    let mut pairs = b"(".to_vec();
    pairs.extend(b"NN\x86".repeat(1000));
    pairs.extend(b"lq\x000ccollections\nOrderedDict\nq\x010(");
    pairs.extend(b"h\x01h\0\x85R".repeat(1000));
    pairs.extend(b"l.");
    assert!(fault(&pairs).contains("multiplies its values"));
    // A thousand dictionaries with one key of six thousand letters.
    let mut names = b"X\x70\x17\0\0".to_vec();
    names.extend(b"n".repeat(6000));
    names.extend(b"q\x000(");
    names.extend(b"}h\0K\x01s".repeat(1000));
    names.extend(b"l.");
    assert!(fault(&names).contains("longer names"));
}

/// A pickle of one tensor: offset, size and stride of a storage of 8 bytes.
fn tensor_of(offset: u8, size: u8, stride: u8) -> String {
    let pickle = [
        &b"ctorch._utils\n_rebuild_tensor_v2\n("[..],
        b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0kX\x03\0\0\0cpuK\x02tQ",
        &[b'K', offset, b'K', size, 0x85, b'K', stride, 0x85],
        b"\x89NtR.",
    ];
    let pickle = pickle.concat();
    let mut machine = Machine::default();
    let (root, _) = machine.run(&pickle).unwrap();
    let places = Places::from([("k".to_string(), (100, 8))]);
    match flatten(&machine, root, &places) {
        Ok(table) => format!("{:?}", table.entries[0].1),
        Err(reason) => reason,
    }
}

#[test]
fn a_tensor_stays_inside_of_its_storage() {
    assert!(
        tensor_of(0, 2, 1).contains("offset: 100, strides: None"),
        "{}",
        tensor_of(0, 2, 1)
    );
    assert!(tensor_of(1, 1, 1).contains("offset: 104"));
    for (offset, size, stride) in [
        (1, 2, 1),
        (0, 3, 1),
        (0, 2, 2),
        (2, 1, 1),
        (0, 9, 0),
        (255, 255, 255),
    ] {
        assert!(
            tensor_of(offset, size, stride).contains("leave its storage"),
            "{offset} {size} {stride}"
        );
    }
}

#[test]
fn files_cut_anywhere_are_errors() {
    for whole in [STATE, LEGACY] {
        for len in (0..whole.len() - 1).step_by(31) {
            assert!(open(&whole[..len]).is_err(), "{len}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_changed_byte_makes_it_panic(legacy: bool, at: prop::sample::Index, value: u8) {
        let mut bytes = if legacy { LEGACY.to_vec() } else { STATE.to_vec() };
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(weights) = open(&bytes) {
            weights.names().for_each(|name| drop(weights.read_f32(name).unwrap()));
        }
    }

    #[test]
    fn no_pickle_makes_it_panic(pickle in prop::collection::vec(prop::sample::select(b"(.012NJKMGXUBC)]}tlaesudqrhjcRQb\x80\x81\x85\x86\x87\x88\x8a\x8c\x8d\x93\x94\x95\0\x01\n".to_vec()), 0..60)) {
        let _ = open(&zipped(&pickle));
    }
}
