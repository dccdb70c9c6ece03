//! What a file's bytes are named by on a hub.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Sums over the bytes of one file as they come.
pub(crate) enum Sum {
    /// SHA-256, which names files of the large file storage.
    Sha256(Sha256),
    /// SHA-1 over a header and the bytes, by which git names small files.
    Git(Sha1),
    /// A name that is no sum, as some mirrors give.
    None,
}

impl Sum {
    /// The kind of sum that `etag` is, of a file of `size` bytes.
    pub(crate) fn of_etag(etag: &str, size: u64) -> Self {
        let is_hex = etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        match etag.len() {
            64 if is_hex => Self::Sha256(Sha256::new()),
            40 if is_hex => Self::Git(Sha1::new_with_prefix(format!("blob {size}\0"))),
            _ => Self::None,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(bytes),
            Self::Git(sum) => sum.update(bytes),
            Self::None => {}
        }
    }

    /// The sum in hexadecimal digits; `None` if nothing was summed.
    pub(crate) fn finish(self) -> Option<String> {
        match self {
            Self::Sha256(sum) => Some(hex(&sum.finalize())),
            Self::Git(sum) => Some(hex(&sum.finalize())),
            Self::None => None,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(etag: &str, bytes: &[u8]) -> Option<String> {
        let mut sum = Sum::of_etag(etag, bytes.len() as u64);
        // In two halves, as bytes come.
        let (first, second) = bytes.split_at(bytes.len() / 2);
        sum.update(first);
        sum.update(second);
        sum.finish()
    }

    /// The values of `git hash-object` and of FIPS 180-4's example.
    #[test]
    fn sums_are_those_of_git_and_of_the_standard() {
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(sum(git, b"hello\n").as_deref(), Some(git));
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sum(sha, b"abc").as_deref(), Some(sha));
        assert_eq!(sum("v1-abc", b"abc"), None);
    }
}
