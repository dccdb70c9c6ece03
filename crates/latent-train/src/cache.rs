//! Rows of numbers computed once and kept on disk: latents of pictures, states of captions.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::f16;
use latent_formats::{Dtype, SafetensorsWriter, Weights};

use crate::error::{Result, TrainError};

const TENSOR: &str = "rows";

/// Equally long rows in f16, in files of `per_file` rows.
///
/// A file appears whole or not at all, so a build that was stopped goes on with the first missing file. The folder's
/// name carries the checksum of everything the rows depend on.
pub(crate) struct RowCache {
    files: Vec<Weights>,
    plan: Plan,
}

/// How a cache is laid out.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Its folder, whose name changes with the content.
    pub(crate) folder: PathBuf,
    /// Rows in all.
    pub(crate) rows: usize,
    /// Numbers of a row.
    pub(crate) length: usize,
    /// Rows of a file.
    pub(crate) per_file: usize,
}

impl Plan {
    fn file(&self, index: usize) -> PathBuf {
        self.folder.join(format!("rows-{index:05}.safetensors"))
    }

    fn range(&self, index: usize) -> Range<usize> {
        index * self.per_file..((index + 1) * self.per_file).min(self.rows)
    }
}

impl RowCache {
    /// Opens the cache and makes the files that are missing; `make` gives the values of a range of rows, `done` hears
    /// how many rows there are.
    ///
    /// `make` returning `None` stops the build without an error; so does this function then.
    pub(crate) fn build(
        plan: Plan,
        mut make: impl FnMut(Range<usize>) -> Result<Option<Vec<f32>>>,
        mut done: impl FnMut(usize),
    ) -> Result<Option<Self>> {
        fs::create_dir_all(&plan.folder).map_err(TrainError::io(&plan.folder))?;
        let mut files = Vec::new();
        for index in 0..plan.rows.div_ceil(plan.per_file) {
            let range = plan.range(index);
            let path = plan.file(index);
            let shape = [range.len(), plan.length];
            if !path.exists() {
                let Some(values) = make(range.clone())? else {
                    return Ok(None);
                };
                let writer = SafetensorsWriter::new();
                writer
                    .f32(TENSOR, &shape, &values, Dtype::F16)?
                    .write(&path)?;
            }
            files.push(open(&path, &shape)?);
            done(range.end);
        }
        Ok(Some(Self { files, plan }))
    }

    /// Row `index` in f32.
    pub(crate) fn row(&self, index: usize) -> Result<Vec<f32>> {
        let file = &self.files[index / self.plan.per_file];
        let bytes = file.tensor(TENSOR)?.bytes;
        let row = index % self.plan.per_file * self.plan.length * 2;
        let bytes = &bytes[row..row + self.plan.length * 2];
        Ok(bytes
            .chunks_exact(2)
            .map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32())
            .collect())
    }
}

/// Opens a file of rows; a damaged one is named, with the way out.
fn open(path: &Path, shape: &[usize]) -> Result<Weights> {
    let fault = |reason: String| {
        TrainError::Other(format!(
            "{}: is not what this cache should hold ({reason}); delete the file, it is made again",
            path.display()
        ))
    };
    let weights = Weights::open(path).map_err(|error| fault(error.to_string()))?;
    let found = weights
        .tensor(TENSOR)
        .map_err(|error| fault(error.to_string()))?;
    if found.shape != shape || found.dtype != Dtype::F16 {
        return Err(fault(format!("shape {:?}, needed {shape:?}", found.shape)));
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(folder: &Path) -> Plan {
        Plan {
            folder: folder.join("rows"),
            rows: 5,
            length: 3,
            per_file: 2,
        }
    }

    fn rows(range: Range<usize>) -> Vec<f32> {
        range.flat_map(|row| [row as f32, 0.5, -1.0]).collect()
    }

    #[test]
    fn rows_come_back_as_they_were_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let make = |range| Ok(Some(rows(range)));
        let cache = RowCache::build(plan(folder.path()), make, |_| {})
            .expect("built")
            .expect("whole");
        for row in 0..5 {
            assert_eq!(cache.row(row).expect("read"), rows(row..row + 1));
        }
    }

    #[test]
    fn a_stopped_build_goes_on_where_it_stopped() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut made = Vec::new();
        let mut stop_at_4 = |range: Range<usize>| {
            made.push(range.clone());
            Ok((range.start < 4).then(|| rows(range)))
        };
        assert!(
            RowCache::build(plan(folder.path()), &mut stop_at_4, |_| {})
                .expect("stopped")
                .is_none()
        );
        let mut again = Vec::new();
        let make = |range: Range<usize>| {
            again.push(range.clone());
            Ok(Some(rows(range)))
        };
        assert!(
            RowCache::build(plan(folder.path()), make, |_| {})
                .expect("built")
                .is_some()
        );
        assert_eq!(made, [0..2, 2..4, 4..5]);
        assert_eq!(again.first(), Some(&(4..5)));
        assert_eq!(again.len(), 1);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let make = |range| Ok(Some(rows(range)));
        RowCache::build(plan(folder.path()), make, |_| {}).expect("built");
        fs::write(folder.path().join("rows/rows-00001.safetensors"), b"no").expect("written");
        let error = RowCache::build(plan(folder.path()), make, |_| {})
            .err()
            .expect("refused");
        assert!(error.to_string().contains("rows-00001"), "{error}");
    }
}
