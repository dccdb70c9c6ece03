//! Latents as people hold them: `[n, c, h, w]`, scaled to the spread the U-Net works with.

use std::path::Path;

use latent_formats::{Dtype, SafetensorsWriter, Weights};
use latent_sampling::Latents as Array;

use crate::Error;

/// Name of the tensor in a latents file.
const TENSOR: &str = "latents";

/// Latents of one picture or several, `[n, c, h, w]` f32, scaled to the spread the U-Net works with.
#[derive(Clone, Debug, PartialEq)]
pub struct Latents(Array);

impl Latents {
    /// Latents of `values` in row-major order, or `None` if there are more or fewer than `shape` holds.
    #[must_use]
    pub fn new(values: Vec<f32>, shape: [usize; 4]) -> Option<Self> {
        Array::from_shape_vec(shape, values).ok().map(Self)
    }

    /// Reads the tensor `latents`, `[n, c, h, w]`, of a safetensors file.
    ///
    /// # Errors
    /// [`Error::Format`] if the file is missing or broken; [`Error::Latents`] if the tensor has another shape or holds
    /// numbers that are not finite.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let fault = |reason: String| Error::Latents {
            path: path.to_owned(),
            reason,
        };
        let file = Weights::open(path)?;
        let tensor = file.tensor(TENSOR)?;
        let Ok(shape) = <[usize; 4]>::try_from(tensor.shape) else {
            return Err(fault(format!(
                "`{TENSOR}` has shape {:?}, needed are four axes [n, c, h, w]",
                tensor.shape
            )));
        };
        if shape.contains(&0) {
            return Err(fault(format!(
                "`{TENSOR}` of shape {shape:?} holds nothing"
            )));
        }
        let values = tensor.to_f32();
        if !values.iter().all(|value| value.is_finite()) {
            return Err(fault(format!(
                "`{TENSOR}` holds numbers that are not finite; encode the picture again"
            )));
        }
        let wrong = || {
            fault(format!(
                "`{TENSOR}` does not hold the values of its shape {shape:?}"
            ))
        };
        Self::new(values, shape).ok_or_else(wrong)
    }

    /// Writes the tensor `latents` to a safetensors file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Format`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let file =
            SafetensorsWriter::new().f32(TENSOR, &self.shape(), self.values(), Dtype::F32)?;
        Ok(file.write(path.as_ref())?)
    }

    /// `[n, c, h, w]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        let (n, c, h, w) = self.0.dim();
        [n, c, h, w]
    }

    /// The values in row-major order.
    ///
    /// # Panics
    /// Never: every constructor puts the values into row-major order.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        self.0.as_slice().expect("row-major")
    }

    pub(crate) fn array(&self) -> &Array {
        &self.0
    }
}

impl From<Array> for Latents {
    fn from(array: Array) -> Self {
        if array.is_standard_layout() {
            Self(array)
        } else {
            Self(array.as_standard_layout().into_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latents_survive_their_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("z.safetensors");
        let latents = Latents::new((0..24).map(|i| i as f32 / 3.0).collect(), [1, 2, 3, 4])
            .expect("24 values");
        latents.save(&path).expect("written");
        assert_eq!(Latents::open(&path).expect("read"), latents);
    }

    #[test]
    fn a_tensor_of_three_axes_is_refused_with_its_shape() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("z.safetensors");
        let file = SafetensorsWriter::new()
            .f32(TENSOR, &[2, 3, 4], &[0.0; 24], Dtype::F32)
            .expect("added");
        file.write(&path).expect("written");
        let error = Latents::open(&path).expect_err("refused").to_string();
        assert!(
            error.contains("[2, 3, 4]") && error.contains("[n, c, h, w]"),
            "{error}"
        );
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("z.safetensors");
        Latents::new(vec![f32::NAN; 4], [1, 1, 2, 2])
            .expect("four values")
            .save(&path)
            .expect("written");
        assert!(
            Latents::open(&path)
                .expect_err("refused")
                .to_string()
                .contains("not finite")
        );
    }
}
