//! The directory of a zip archive whose members are not packed, as PyTorch writes it.

/// A member of the archive.
#[derive(Debug, PartialEq)]
pub(super) struct ZipEntry {
    pub(super) name: String,
    /// First byte of its content, from the start of the archive.
    pub(super) offset: usize,
    pub(super) len: usize,
}

const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const MEMBER: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";
/// In place of a number that stands in the 64-bit part.
const ELSEWHERE: u64 = 0xffff_ffff;

/// Little-endian numbers of an archive, `None` beyond its end.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(self, at: usize, width: usize) -> Option<u64> {
        let bytes = self.0.get(at..at.checked_add(width)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |number, &byte| number << 8 | u64::from(byte)),
        )
    }

    fn size(self, at: usize, width: usize) -> Option<usize> {
        usize::try_from(self.number(at, width)?).ok()
    }
}

/// Source: PKWARE APPNOTE 6.3, sections 4.3.12 to 4.3.16.
pub(super) fn entries(bytes: &[u8]) -> Result<Vec<ZipEntry>, String> {
    let reader = Reader(bytes);
    let cut = "its zip directory is missing; it was cut, fetch it again";
    let (count, mut at) = directory(reader).ok_or(cut)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let (entry, next) = member(reader, at).ok_or(cut)??;
        entries.push(entry);
        at = next;
    }
    Ok(entries)
}

/// Count of members, and the place of the first one's record.
fn directory(reader: Reader<'_>) -> Option<(u64, usize)> {
    // The end record is followed by a comment of at most 65,535 bytes.
    let from = reader.0.len().saturating_sub(22 + 65_535);
    let end = from
        + reader.0[from..]
            .windows(4)
            .rposition(|window| window == END)?;
    let count = reader.number(end + 10, 2)?;
    let start = reader.number(end + 16, 4)?;
    if start != ELSEWHERE && count != 0xffff {
        return Some((count, usize::try_from(start).ok()?));
    }
    // The 64-bit locator stands right before the end record and names the place of the 64-bit end record.
    let end = reader.size(end.checked_sub(20)? + 8, 8)?;
    if !reader.0.get(end..)?.starts_with(END_64) {
        return None;
    }
    Some((
        reader.number(end.checked_add(32)?, 8)?,
        reader.size(end.checked_add(48)?, 8)?,
    ))
}

/// One record of the directory and the place of the next; `None` if it lies outside of the archive.
fn member(reader: Reader<'_>, at: usize) -> Option<Result<(ZipEntry, usize), String>> {
    if !reader.0.get(at..)?.starts_with(MEMBER) {
        return None;
    }
    let lengths = [28, 30, 32].map(|field| reader.size(at + field, 2));
    let [name_len, extra_len, comment_len] = lengths;
    let extra = at + 46 + name_len?;
    let next = extra + extra_len? + comment_len?;
    let name = String::from_utf8_lossy(reader.0.get(at + 46..extra)?).into_owned();
    if reader.number(at + 10, 2)? != 0 || reader.number(at + 8, 2)? & 1 != 0 {
        let reason =
            format!("`{name}` in it is packed or encrypted; save it again with `torch.save`");
        return Some(Err(reason));
    }
    let sizes = [(24, 4), (20, 4), (42, 4)].map(|(field, width)| reader.number(at + field, width));
    let [size, packed, local] = sizes;
    let wide = wide_numbers(reader, extra, extra + extra_len?, [size?, packed?, local?])?;
    let [len, _, local] = wide.map(usize::try_from);
    let local = local.ok()?;
    if !reader.0.get(local..)?.starts_with(LOCAL) {
        return None;
    }
    // The record before the content has extra fields of its own: PyTorch aligns storages with them.
    let offset = local + 30 + reader.size(local + 26, 2)? + reader.size(local + 28, 2)?;
    let len = len.ok()?;
    reader.0.get(offset..offset.checked_add(len)?)?;
    Some(Ok((ZipEntry { name, offset, len }, next)))
}

/// Puts the numbers of the 64-bit extra field where the record has none.
fn wide_numbers(
    reader: Reader<'_>,
    mut at: usize,
    end: usize,
    mut numbers: [u64; 3],
) -> Option<[u64; 3]> {
    if !numbers.contains(&ELSEWHERE) {
        return Some(numbers);
    }
    while at < end {
        let (kind, len) = (reader.number(at, 2)?, reader.size(at + 2, 2)?);
        at += 4;
        if kind == 1 {
            let mut place = at;
            for number in numbers.iter_mut().filter(|number| **number == ELSEWHERE) {
                *number = reader.number(place, 8)?;
                place += 8;
            }
            return Some(numbers);
        }
        at += len;
    }
    None
}
