//! Tensors with other values than their file has, such as those with an adapter merged in.

use std::env;
use std::fs::File;
use std::io::{BufWriter, Write as _};

use super::{Entry, Weights};
use crate::{Bytes, Dtype, FormatError};

/// Every tensor begins at a multiple of this, which fits the widest kind and a line of the cache.
const ALIGNMENT: usize = 64;

/// Gathers f32 tensors that stand in for those of a file.
///
/// They lie in a file without a name in the folder for temporary files, which the system removes with its last user:
/// so they are mapped like all weights, and their memory can be given back once they are packed.
pub struct ChangedTensors {
    file: BufWriter<File>,
    /// Bytes written so far.
    end: usize,
    entries: Vec<(String, Entry)>,
}

impl ChangedTensors {
    /// No tensors yet.
    ///
    /// # Errors
    /// [`FormatError::Io`] if no temporary file can be made.
    pub fn new() -> Result<Self, FormatError> {
        Ok(Self {
            file: BufWriter::new(tempfile::tempfile().map_err(fault)?),
            end: 0,
            entries: Vec::new(),
        })
    }

    /// Adds a tensor; of two of one name the last counts.
    ///
    /// # Errors
    /// [`FormatError::TensorToWrite`] if the shape holds another count of values; [`FormatError::Io`] if the disk is
    /// full.
    pub fn push(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<(), FormatError> {
        if shape.iter().product::<usize>() != values.len() {
            return Err(FormatError::TensorToWrite {
                name: name.to_owned(),
                reason: format!("shape {shape:?} does not hold its {} values", values.len()),
            });
        }
        let begin = self.end.next_multiple_of(ALIGNMENT);
        self.file
            .write_all(&[0; ALIGNMENT][..begin - self.end])
            .map_err(fault)?;
        for value in values {
            self.file.write_all(&value.to_le_bytes()).map_err(fault)?;
        }
        self.end = begin + size_of_val(values);
        let entry = Entry::dense(Dtype::F32, shape.to_vec(), begin);
        self.entries.push((name.to_owned(), entry));
        Ok(())
    }

    /// `weights` with these tensors in the place of those of their names; new names are added.
    ///
    /// # Errors
    /// [`FormatError::Io`] if the disk is full, or the file cannot be mapped.
    pub fn over(self, weights: &Weights) -> Result<Weights, FormatError> {
        let mut weights = weights.clone();
        if self.end == 0 {
            return Ok(weights);
        }
        let file = self
            .file
            .into_inner()
            .map_err(|error| fault(error.into_error()))?;
        let number = weights.files.len();
        weights.files.push(Bytes::map_file(&file).map_err(fault)?);
        for (name, entry) in self.entries {
            weights.entries.insert(name, (number, entry));
        }
        Ok(weights)
    }
}

fn fault(source: std::io::Error) -> FormatError {
    FormatError::Io {
        action: "write a temporary file in",
        path: env::temp_dir(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SafetensorsWriter;

    #[test]
    fn changed_tensors_stand_in_for_those_of_the_file_and_the_others_stay() {
        let file = SafetensorsWriter::new()
            .f32("a", &[2], &[1.0, 2.0], Dtype::F16)
            .and_then(|file| file.f32("b", &[1], &[3.0], Dtype::F16))
            .unwrap()
            .to_bytes()
            .unwrap();
        let weights = Weights::from_bytes("memory", Bytes::from_vec(file)).unwrap();
        let mut changed = ChangedTensors::new().unwrap();
        changed.push("a", &[2], &[1.1, 2.2]).unwrap();
        changed.push("c", &[1], &[5.5]).unwrap();
        let weights = changed.over(&weights).unwrap();
        assert_eq!(weights.read_f32("a").unwrap(), [1.1, 2.2]);
        assert_eq!(weights.read_f32("b").unwrap(), [3.0]);
        let stored = weights.stored("c").expect("it can stay where it lies");
        stored.release();
        assert_eq!(stored.to_f32(), [5.5]);
    }

    #[test]
    fn a_shape_of_another_count_is_refused_and_no_change_is_no_error() {
        let mut changed = ChangedTensors::new().unwrap();
        assert!(changed.push("a", &[3], &[1.0]).is_err());
        let file = SafetensorsWriter::new().to_bytes().unwrap();
        let weights = Weights::from_bytes("memory", Bytes::from_vec(file)).unwrap();
        assert!(
            ChangedTensors::new()
                .unwrap()
                .over(&weights)
                .unwrap()
                .is_empty()
        );
    }
}
