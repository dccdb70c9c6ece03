//! The letters that stand for bytes, so that a vocabulary can be written as text.
//!
//! Source: Radford et al. 2019 (GPT-2), their released `encoder.py`, `bytes_to_unicode`.

/// Bytes that are printable Latin-1 letters and stand for themselves.
fn is_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The letter of each byte, in the order of a CLIP vocabulary: those that stand for themselves first.
pub(super) fn letters() -> Vec<char> {
    let (printable, others): (Vec<u8>, Vec<u8>) = (0..=255).partition(|&byte| is_itself(byte));
    let others = (256..)
        .zip(others)
        .filter_map(|(code, _)| char::from_u32(code));
    printable
        .into_iter()
        .map(char::from)
        .chain(others)
        .collect()
}

/// The byte that a letter stands for.
pub(super) fn byte_of(letter: char) -> Option<u8> {
    match u32::from(letter) {
        code @ 0..256 => u8::try_from(code).ok().filter(|&byte| is_itself(byte)),
        code => {
            let index = code as usize - 256;
            (0..=255).filter(|&byte| !is_itself(byte)).nth(index)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_letter_and_comes_back() {
        let mut bytes: Vec<u8> = letters().into_iter().filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn letters_that_stand_for_no_byte_are_none() {
        assert_eq!(byte_of('한'), None);
        assert_eq!(byte_of('\u{AD}'), None);
    }
}
