//! WebDataset shards: tar files whose members with one stem are one example.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use latent_formats::Bytes;

use super::data_set::{Example, Found, Place, Shard};
use super::folder::is_picture_ending;
use super::metadata::{Fields, captions_of_text};
use crate::DataError;

/// Tar files are made of blocks.
const BLOCK: usize = 512;

/// Endings of shards, packed or not.
const ENDINGS: &[(&str, bool)] = &[(".tar", false), (".tar.gz", true), (".tgz", true)];

fn ending_of(path: &Path) -> Option<&'static (&'static str, bool)> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    ENDINGS.iter().find(|(ending, _)| name.ends_with(ending))
}

pub(super) fn is_shard(path: &Path) -> bool {
    ending_of(path).is_some()
}

/// A member of a tar file.
struct Member {
    name: String,
    offset: usize,
    len: usize,
}

/// Members that share a stem.
#[derive(Default)]
struct Group {
    stem: String,
    picture: Option<Member>,
    text: Option<Member>,
    json: Option<Member>,
    class: Option<Member>,
}

/// The examples of all shards, in the order of the members.
pub(super) fn read(paths: &[PathBuf]) -> Result<Found, DataError> {
    let mut found = Found {
        looked_for: "`NAME.txt` and `NAME.json` (with `text`, `caption`, `captions`, `en` or `ko`) beside each picture in the shards",
        ..Found::default()
    };
    for path in paths {
        let bytes = open(path)?;
        let number = found.shards.len();
        let prefix = stem_of(path);
        for group in groups(path, members(path, &bytes)?)? {
            found
                .examples
                .extend(group.example(path, &bytes, number, &prefix)?);
        }
        let path = path.clone();
        found.shards.push(Shard { path, bytes });
    }
    Ok(found)
}

/// The file name without `.tar` and the like: keys of two shards may be the same.
fn stem_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let cut = ending_of(path).map_or(0, |(ending, _)| ending.len());
    name[..name.len() - cut].to_string()
}

/// The unpacked bytes; what is packed is unpacked into a file without a name, for pictures are read at random.
fn open(path: &Path) -> Result<Bytes, DataError> {
    if !ending_of(path).is_some_and(|(_, packed)| *packed) {
        return Ok(Bytes::map(path)?);
    }
    let file = File::open(path).map_err(|source| DataError::io("read", path, source))?;
    let mut unpacked = tempfile::tempfile()
        .map_err(|source| DataError::io("make a temporary file for", path, source))?;
    let mut reader = flate2::read::MultiGzDecoder::new(io::BufReader::new(file));
    let mut done = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = reader.read(&mut buffer).map_err(|error| DataError::Shard {
            path: path.to_path_buf(),
            offset: done,
            reason: format!("it cannot be unpacked further ({error}); it was cut, fetch it again"),
        })?;
        if read == 0 {
            break;
        }
        io::Write::write_all(&mut unpacked, &buffer[..read])
            .map_err(|source| DataError::io("write the temporary file of", path, source))?;
        done += read as u64;
    }
    if done == 0 {
        return Ok(Bytes::from_static(&[]));
    }
    Bytes::map_file(&unpacked).map_err(|source| DataError::io("read", path, source))
}

/// Every file in the tar, checked to lie inside of it.
fn members(path: &Path, bytes: &[u8]) -> Result<Vec<Member>, DataError> {
    let broken = |offset: usize, reason: String| DataError::Shard {
        path: path.to_path_buf(),
        offset: offset as u64,
        reason,
    };
    let mut archive = tar::Archive::new(Cursor::new(bytes));
    let mut members = Vec::new();
    let mut reached = 0;
    let entries = archive.entries_with_seek();
    for entry in entries.map_err(|error| broken(0, error.to_string()))? {
        let entry = entry.map_err(|error| broken(reached, format!("{error}; fetch it again")))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let offset = usize::try_from(entry.raw_file_position()).unwrap_or(usize::MAX);
        let len = usize::try_from(entry.size()).unwrap_or(usize::MAX);
        let there = bytes.len().saturating_sub(offset);
        if there < len {
            let reason =
                format!("`{name}` has {len} bytes, {there} are left; it was cut, fetch it again");
            return Err(broken(offset, reason));
        }
        reached = (offset + len).next_multiple_of(BLOCK);
        let kind = entry.header().entry_type();
        if kind.is_file() {
            members.push(Member { name, offset, len });
        } else if kind.is_hard_link() || kind.is_symlink() {
            let reason = format!(
                "`{name}` is a link; pack the files themselves (`tar --hard-dereference -h`)"
            );
            return Err(broken(reached, reason));
        }
    }
    // Without its mark of zeros the end cannot be told from a cut between two members.
    let mark = bytes.get(reached..reached + BLOCK);
    if !mark.is_some_and(|block| block.iter().all(|&byte| byte == 0)) {
        let reason = "the mark of a tar file's end is missing; it was cut, fetch it again";
        return Err(broken(reached.min(bytes.len()), reason.to_string()));
    }
    Ok(members)
}

/// Gathers members by stem, in the order in which the stems are met.
fn groups(path: &Path, members: Vec<Member>) -> Result<Vec<Group>, DataError> {
    let mut groups: Vec<Group> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for member in members {
        let Some((stem, ending)) = split_name(&member.name) else {
            continue;
        };
        let index = *known.entry(stem.to_string()).or_insert_with(|| {
            groups.push(Group {
                stem: stem.to_string(),
                ..Group::default()
            });
            groups.len() - 1
        });
        let group = &mut groups[index];
        let slot = match ending.to_ascii_lowercase().as_str() {
            "txt" => &mut group.text,
            "json" => &mut group.json,
            "cls" => &mut group.class,
            ending if is_picture_ending(ending) => &mut group.picture,
            _ => continue,
        };
        if let Some(first) = slot {
            let reason = format!(
                "`{}` and `{}` are both of one example; rename one",
                first.name, member.name
            );
            return Err(DataError::conflict(path, reason));
        }
        *slot = Some(member);
    }
    Ok(groups)
}

/// The stem ends at the first dot of the file name, as in WebDataset, so that `1.depth.png` is not `1.png`.
fn split_name(name: &str) -> Option<(&str, &str)> {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = start + name[start..].find('.')?;
    (dot > start).then(|| (&name[..dot], &name[dot + 1..]))
}

impl Group {
    /// `None` for members without a picture.
    fn example(
        self,
        path: &Path,
        bytes: &[u8],
        shard: usize,
        prefix: &str,
    ) -> Result<Option<Example>, DataError> {
        let Some(picture) = self.picture else {
            tracing::debug!(shard = %path.display(), stem = self.stem, "no picture of that stem");
            return Ok(None);
        };
        let content = |member: &Member| bytes[member.offset..][..member.len].to_vec();
        let fault = |member: &Member, line: usize, reason: String| DataError::Metadata {
            path: PathBuf::from(format!("{}:{}", path.display(), member.name)),
            line,
            reason,
        };
        let mut fields = match &self.json {
            Some(json) => Fields::parse(&content(json)).map_err(|reason| fault(json, 1, reason))?,
            None => Fields::default(),
        };
        if let Some(text) = &self.text {
            let captions = captions_of_text(&content(text));
            let captions = captions.map_err(|reason| fault(text, reason.line, reason.text))?;
            fields.captions.splice(0..0, captions);
        }
        if let Some(class) = &self.class {
            let name = String::from_utf8_lossy(&content(class)).trim().to_string();
            fields.class = Some(name);
        }
        // A key in the JSON is unique only within its shard, if at all.
        let key = fields.key.take().unwrap_or(self.stem);
        let place = Place::Member {
            shard,
            name: picture.name,
            offset: picture.offset,
            len: picture.len,
        };
        Ok(Some(Example::new(format!("{prefix}/{key}"), fields, place)))
    }
}

#[cfg(test)]
mod tests;
