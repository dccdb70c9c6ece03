//! Kinds of numbers in weights files, and their way to `f32` and back.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A kind of number that a weights file may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned byte.
    U8,
    /// Signed byte.
    I8,
    /// Eight-bit float, 4 bits of exponent, no infinity; without its scale.
    F8E4m3,
    /// Eight-bit float, 5 bits of exponent; without its scale.
    F8E5m2,
    /// 16-bit integer.
    I16,
    /// Unsigned 16-bit integer.
    U16,
    /// IEEE half precision.
    F16,
    /// The upper half of an `f32`.
    Bf16,
    /// 32-bit integer.
    I32,
    /// Unsigned 32-bit integer.
    U32,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// 64-bit integer.
    I64,
    /// Unsigned 64-bit integer.
    U64,
}

/// Every kind with its name in safetensors and its bytes per value.
const DTYPES: &[(Dtype, &str, usize)] = &[
    (Dtype::Bool, "BOOL", 1),
    (Dtype::U8, "U8", 1),
    (Dtype::I8, "I8", 1),
    (Dtype::F8E4m3, "F8_E4M3", 1),
    (Dtype::F8E5m2, "F8_E5M2", 1),
    (Dtype::I16, "I16", 2),
    (Dtype::U16, "U16", 2),
    (Dtype::F16, "F16", 2),
    (Dtype::Bf16, "BF16", 2),
    (Dtype::I32, "I32", 4),
    (Dtype::U32, "U32", 4),
    (Dtype::F32, "F32", 4),
    (Dtype::F64, "F64", 8),
    (Dtype::I64, "I64", 8),
    (Dtype::U64, "U64", 8),
];

impl Dtype {
    /// Its name in safetensors files, as in `BF16`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Bytes per value.
    pub fn size(self) -> usize {
        self.row().2
    }

    fn row(self) -> &'static (Dtype, &'static str, usize) {
        // `every_kind_stands_at_its_place` holds the order of the table.
        &DTYPES[self as usize]
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        DTYPES
            .iter()
            .find(|(_, known, _)| *known == name)
            .map(|row| row.0)
    }

    /// Names of all kinds, for messages.
    pub(crate) fn names() -> String {
        let names: Vec<_> = DTYPES.iter().map(|row| row.1).collect();
        names.join(", ")
    }

    /// Little-endian values of this kind as `f32`, rounded to nearest where they do not fit.
    pub(crate) fn to_f32(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::Bool => bytes.iter().map(|&b| f32::from(u8::from(b != 0))).collect(),
            Self::U8 => bytes.iter().map(|&b| f32::from(b)).collect(),
            Self::I8 => bytes.iter().map(|&b| f32::from(b.cast_signed())).collect(),
            Self::F8E4m3 => bytes.iter().map(|&b| f8_e4m3(b)).collect(),
            Self::F8E5m2 => bytes.iter().map(|&b| f8_e5m2(b)).collect(),
            Self::I16 => each(bytes, |b| f32::from(i16::from_le_bytes(b))),
            Self::U16 => each(bytes, |b| f32::from(u16::from_le_bytes(b))),
            Self::F16 => f16_to_f32(bytes),
            Self::Bf16 => each(bytes, |b| {
                f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)
            }),
            Self::I32 => each(bytes, |b| i32::from_le_bytes(b) as f32),
            Self::U32 => each(bytes, |b| u32::from_le_bytes(b) as f32),
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
            Self::I64 => each(bytes, |b| i64::from_le_bytes(b) as f32),
            Self::U64 => each(bytes, |b| u64::from_le_bytes(b) as f32),
        }
    }

    /// Little-endian integers of this kind; `None` for floats and for what an `i64` cannot hold.
    pub(crate) fn to_i64(self, bytes: &[u8]) -> Option<Vec<i64>> {
        match self {
            Self::Bool => Some(bytes.iter().map(|&b| i64::from(b != 0)).collect()),
            Self::U8 => Some(bytes.iter().map(|&b| i64::from(b)).collect()),
            Self::I8 => Some(bytes.iter().map(|&b| i64::from(b.cast_signed())).collect()),
            Self::I16 => Some(each(bytes, |b| i64::from(i16::from_le_bytes(b)))),
            Self::U16 => Some(each(bytes, |b| i64::from(u16::from_le_bytes(b)))),
            Self::I32 => Some(each(bytes, |b| i64::from(i32::from_le_bytes(b)))),
            Self::U32 => Some(each(bytes, |b| i64::from(u32::from_le_bytes(b)))),
            Self::I64 => Some(each(bytes, i64::from_le_bytes)),
            Self::U64 => each(bytes, |b| i64::try_from(u64::from_le_bytes(b)).ok())
                .into_iter()
                .collect(),
            Self::F8E4m3 | Self::F8E5m2 | Self::F16 | Self::Bf16 | Self::F32 | Self::F64 => None,
        }
    }

    /// Appends `values` as little-endian numbers of this kind, rounded to nearest even; `None` unless it is F32, F16
    /// or BF16.
    pub(crate) fn append_f32(self, values: &[f32], bytes: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::F32 => append(values, bytes, f32::to_le_bytes),
            Self::F16 => append(values, bytes, |value| f16::from_f32(value).to_le_bytes()),
            Self::Bf16 => append(values, bytes, |value| bf16::from_f32(value).to_le_bytes()),
            _ => return None,
        }
        Some(())
    }
}

fn append<const N: usize>(values: &[f32], bytes: &mut Vec<u8>, convert: impl Fn(f32) -> [u8; N]) {
    let start = bytes.len();
    bytes.resize(start + values.len() * N, 0);
    let places = bytes[start..].as_chunks_mut::<N>().0;
    for (place, &value) in places.iter_mut().zip(values) {
        *place = convert(value);
    }
}

/// Many at a time, so that the processor's own conversion is asked for once and not for each value.
fn f16_to_f32(bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / 2];
    let mut halves = [f16::ZERO; 1024];
    for (out, bytes) in out.chunks_mut(1024).zip(bytes.chunks(2048)) {
        let halves = &mut halves[..out.len()];
        for (half, &bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(bytes);
        }
        halves.convert_to_f32_slice(out);
    }
    out
}

fn each<T, const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes
        .as_chunks::<N>()
        .0
        .iter()
        .map(|&b| convert(b))
        .collect()
}

/// Source: OCP 8-bit floating point specification 1.0; the variant torch calls `float8_e4m3fn`.
fn f8_e4m3(byte: u8) -> f32 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => sign * mantissa * 2f32.powi(-9),
        _ => sign * (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    }
}

/// The upper byte of an `f16`.
fn f8_e5m2(byte: u8) -> f32 {
    f16::from_bits(u16::from(byte) << 8).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_stands_at_its_place() {
        for (index, (dtype, name, _)) in DTYPES.iter().enumerate() {
            assert_eq!(*dtype as usize, index, "{name}");
            assert_eq!(Dtype::from_name(name), Some(*dtype));
        }
    }

    #[test]
    fn integers_and_floats_become_the_same_f32() {
        assert_eq!(Dtype::I8.to_f32(&[255, 3]), [-1.0, 3.0]);
        assert_eq!(Dtype::Bool.to_f32(&[0, 1]), [0.0, 1.0]);
        assert_eq!(Dtype::I16.to_f32(&(-300i16).to_le_bytes()), [-300.0]);
        assert_eq!(Dtype::I64.to_f32(&(-5i64).to_le_bytes()), [-5.0]);
        assert_eq!(Dtype::F64.to_f32(&0.1f64.to_le_bytes()), [0.1f32]);
        assert_eq!(Dtype::Bf16.to_f32(&[0xc0, 0x3f]), [1.5]);
        assert_eq!(Dtype::F16.to_f32(&[0x00, 0x3e]), [1.5]);
    }

    #[test]
    fn eight_bit_floats_meet_the_specification() {
        // 448 is the largest e4m3 value, 2^-9 the smallest; 57344 the largest e5m2.
        let e4m3 = Dtype::F8E4m3.to_f32(&[0x7e, 0x01, 0x38, 0xb8]);
        assert_eq!(e4m3, [448.0, 2f32.powi(-9), 1.0, -1.0]);
        assert!(Dtype::F8E4m3.to_f32(&[0x7f])[0].is_nan());
        assert_eq!(Dtype::F8E5m2.to_f32(&[0x7b, 0x3c]), [57344.0, 1.0]);
    }

    #[test]
    fn integers_beyond_i64_are_refused() {
        assert_eq!(Dtype::U64.to_i64(&u64::MAX.to_le_bytes()), None);
        assert_eq!(Dtype::U64.to_i64(&7u64.to_le_bytes()), Some(vec![7]));
        assert_eq!(Dtype::F32.to_i64(&[0; 4]), None);
    }

    #[test]
    fn every_half_becomes_the_number_it_means() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let pairs = |dtype: Dtype| bits.iter().copied().zip(dtype.to_f32(&bytes));
        for (bits, value) in pairs(Dtype::F16) {
            let expected = f16::from_bits(bits).to_f32();
            assert!(
                value == expected || value.is_nan() && expected.is_nan(),
                "{bits:#x}"
            );
        }
        for (bits, value) in pairs(Dtype::Bf16) {
            let expected = bf16::from_bits(bits).to_f32();
            assert!(
                value == expected || value.is_nan() && expected.is_nan(),
                "{bits:#x}"
            );
        }
    }

    #[test]
    fn halves_are_rounded_to_nearest_even() {
        let mut bytes = Vec::new();
        // Halfway between 1 and the next bf16 (1 + 2^-7): to even, so down.
        Dtype::Bf16
            .append_f32(&[1.0 + 2f32.powi(-8)], &mut bytes)
            .unwrap();
        assert_eq!(Dtype::Bf16.to_f32(&bytes), [1.0]);
        bytes.clear();
        Dtype::F16
            .append_f32(&[1.0 + 3.0 * 2f32.powi(-11)], &mut bytes)
            .unwrap();
        assert_eq!(Dtype::F16.to_f32(&bytes), [1.0 + 2f32.powi(-9)]);
    }
}
