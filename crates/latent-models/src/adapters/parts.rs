//! Parts of other models in the place of a model's own.

use std::path::Path;

use crate::error::{ModelError, Result};
use crate::files::FileSource;
use crate::folder::ModelFolder;
use crate::single_file::{loose_part, part_name};

impl ModelFolder {
    /// This model with another `part`, `unet`, `vae` or `text_encoder`: from a folder of that part, the folder of a
    /// whole model that has one, or a file of that part in any published layout. Files have the sizes of the part that
    /// they replace.
    ///
    /// # Errors
    /// [`ModelError`]: it is missing, broken, holds another part, or does not fit the others.
    pub fn with_part(self, part: &str, path: &Path) -> Result<Self> {
        if self.index().part(part).is_none() {
            return Err(ModelError::Adapter {
                path: path.to_path_buf(),
                reason: format!(
                    "was named to replace {}, and this model has none; leave it out",
                    part_name(part)
                ),
            });
        }
        let source = if path.is_dir() {
            let below = path.join(part);
            FileSource::folder(if below.is_dir() { &below } else { path })
        } else {
            let weights = loose_part(path, part)?;
            self.files().below(part).with_own_weights(weights)
        };
        self.with_parts(vec![(part.to_owned(), source)])
    }

    /// This checkpoint with the moving average of its U-Net in the place of the U-Net.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] if it has none, or is no checkpoint of one file.
    pub fn with_averaged_unet(self) -> Result<Self> {
        let averaged = self.files().single_file().map(|file| file.averaged_unet());
        let reason = match averaged {
            Some(Some(weights)) => {
                let source = self.files().below("unet").with_own_weights(weights);
                return self.with_parts(vec![("unet".to_owned(), source)]);
            }
            Some(None) => "holds no moving average of its weights (`model_ema.`); draw without it",
            None => {
                "is no checkpoint of one file, and only those hold a moving average beside the weights; draw without it"
            }
        };
        Err(ModelError::Adapter {
            path: self.files().path().to_path_buf(),
            reason: reason.to_owned(),
        })
    }
}
