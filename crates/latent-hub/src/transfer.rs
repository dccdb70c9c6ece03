//! One file from the hub, resumed where it broke off, and kept only if it is what was promised.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::HubError;
use crate::cache::io_error;
use crate::checksum::Sum;
use crate::client::{Client, Failure};

/// Times in a row that nothing comes before a download is given up.
const FAILURES: u32 = 5;
/// Bytes read at once.
const BLOCK: usize = 1 << 18;

/// A file to fetch.
pub(crate) struct Transfer<'a> {
    pub(crate) client: &'a Client,
    pub(crate) repository: &'a str,
    pub(crate) commit: &'a str,
    pub(crate) file: &'a str,
    pub(crate) size: u64,
    pub(crate) etag: &'a str,
    /// The first wait before it goes on.
    pub(crate) pause: Duration,
}

/// Called with the bytes that are here, each time some came.
pub(crate) type Report<'r> = dyn FnMut(u64) -> Result<(), HubError> + 'r;

impl Transfer<'_> {
    /// Fetches into `path`, which may hold the beginning already.
    pub(crate) fn run(&self, path: &Path, report: &mut Report<'_>) -> Result<(), HubError> {
        let mut part = Part::open(path, self)?;
        // What an earlier run left may be wrong without this one being so.
        let mut begun_here = part.done == 0;
        report(part.done)?;
        loop {
            self.fill(&mut part, report)?;
            let found = part.sum.finish();
            if found
                .as_deref()
                .is_none_or(|sum| sum == self.etag.to_lowercase())
            {
                if found.is_none() {
                    tracing::warn!(
                        "`{}` came without a checksum; only its size was checked",
                        self.file
                    );
                }
                return part.file.sync_all().map_err(io_error("write", path));
            }
            if begun_here {
                drop(part.file);
                fs::remove_file(path).map_err(io_error("remove", path))?;
                let found = found.unwrap_or_default();
                return Err(self.altered(format!(
                    "its checksum is {found}, promised was {}",
                    self.etag
                )));
            }
            part = Part::create(path, self)?;
            begun_here = true;
        }
    }

    fn altered(&self, reason: String) -> HubError {
        HubError::Altered {
            repository: self.repository.to_owned(),
            file: self.file.to_owned(),
            reason,
        }
    }

    /// Reads until all bytes are here, and goes on where a connection broke.
    fn fill(&self, part: &mut Part, report: &mut Report<'_>) -> Result<(), HubError> {
        let mut failures = 0;
        while part.done < self.size {
            let before = part.done;
            let reason = match self.read_on(part, report) {
                Ok(()) => "the connection was closed".to_owned(),
                Err(Failure::Passing(reason)) => reason,
                Err(Failure::NoSuchPart) => {
                    *part = Part::create(&part.path, self)?;
                    "the server has no such part of it".to_owned()
                }
                Err(Failure::Final(error)) => {
                    if matches!(error, HubError::Altered { .. }) {
                        let _ = fs::remove_file(&part.path);
                    }
                    return Err(error);
                }
            };
            if part.done >= self.size {
                break;
            }
            failures = if part.done > before { 1 } else { failures + 1 };
            if failures > FAILURES {
                return Err(HubError::Dropped {
                    repository: self.repository.to_owned(),
                    file: self.file.to_owned(),
                    done: part.done,
                    size: self.size,
                    reason,
                });
            }
            tracing::debug!("`{}` broke off at {} bytes: {reason}", self.file, part.done);
            std::thread::sleep(self.pause * 2_u32.pow(failures - 1));
        }
        Ok(())
    }

    /// Reads one answer to its end.
    fn read_on(&self, part: &mut Part, report: &mut Report<'_>) -> Result<(), Failure> {
        let answer = self.client.read(self.commit, self.file, part.done)?;
        if let Some(size) = answer.size.filter(|size| *size != self.size) {
            let reason = format!("it has {size} bytes, promised were {}", self.size);
            return Err(Failure::Final(self.altered(reason)));
        }
        if answer.start != part.done {
            if answer.start != 0 {
                return Err(Failure::NoSuchPart);
            }
            // The server sends the whole file whatever it is asked for.
            *part = Part::create(&part.path, self).map_err(Failure::Final)?;
        }
        let mut body = answer.body.into_reader();
        let mut block = vec![0; BLOCK];
        loop {
            let count = match body.read(&mut block) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Passing(error.to_string())),
            };
            if part.done + count as u64 > self.size {
                let reason = format!(
                    "it has more than the {} bytes that were promised",
                    self.size
                );
                return Err(Failure::Final(self.altered(reason)));
            }
            part.append(&block[..count]).map_err(Failure::Final)?;
            report(part.done).map_err(Failure::Final)?;
        }
    }
}

/// What is here of a file.
struct Part {
    path: PathBuf,
    file: File,
    sum: Sum,
    done: u64,
}

impl Part {
    /// What an earlier run left, summed again.
    fn open(path: &Path, transfer: &Transfer<'_>) -> Result<Self, HubError> {
        let fail = io_error("read", path);
        let file = File::options().read(true).write(true).open(path);
        let mut file = match file {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Self::create(path, transfer);
            }
            Err(error) => return Err(fail(error)),
        };
        let mut sum = Sum::of_etag(transfer.etag, transfer.size);
        let (mut done, mut block) = (0, vec![0; BLOCK]);
        loop {
            let count = file.read(&mut block).map_err(&fail)?;
            if count == 0 {
                break;
            }
            sum.update(&block[..count]);
            done += count as u64;
        }
        if done > transfer.size {
            return Self::create(path, transfer);
        }
        file.seek(SeekFrom::Start(done)).map_err(&fail)?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            sum,
            done,
        })
    }

    /// Nothing yet.
    fn create(path: &Path, transfer: &Transfer<'_>) -> Result<Self, HubError> {
        Ok(Self {
            path: path.to_path_buf(),
            file: File::create(path).map_err(io_error("write", path))?,
            sum: Sum::of_etag(transfer.etag, transfer.size),
            done: 0,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file
            .write_all(bytes)
            .map_err(io_error("write", &self.path))?;
        self.sum.update(bytes);
        self.done += bytes.len() as u64;
        Ok(())
    }
}
