//! Pictures of the class, drawn by the model itself where the folder has too few.

use std::fs;
use std::ops::ControlFlow;

use latent::{Error, Pipeline, Request};
use latent_data::{Captions, DataSet};

use crate::config::{LoraConfig, Prior};
use crate::error::{Result, TrainError};
use crate::events::{Event, Options};

/// The class's pictures, as many as the config asks for; `None` if drawing was stopped. Drawing goes on where it
/// stopped.
pub(super) fn class_pictures(
    config: &LoraConfig,
    prior: &Prior,
    pipeline: &Pipeline,
    options: &Options,
    progress: &mut dyn FnMut(&Event),
) -> Result<Option<DataSet>> {
    let open = || DataSet::open(&prior.path, Captions::Optional);
    let is_empty = match fs::read_dir(&prior.path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => !prior.path.exists(),
    };
    let found = if is_empty && prior.count > 0 {
        0
    } else {
        open()?.len()
    };
    if found < prior.count {
        fs::create_dir_all(&prior.path).map_err(TrainError::io(&prior.path))?;
    }
    let size = config.data.size;
    let side = size / config.buckets.step * config.buckets.step;
    let mut seed = config.run.seed;
    for done in found..prior.count {
        let path = loop {
            let path = prior.path.join(format!("class-{seed:06}.png"));
            seed += 1;
            if !path.exists() {
                break path;
            }
        };
        let request = Request::new(&prior.prompt)
            .seed(seed - 1)
            .steps(prior.steps)
            .guidance(prior.guidance)
            .sampler(&prior.sampler)
            .size(side, side);
        let drawn = pipeline.generate_with(&request, |_| match options.stopped() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        match drawn {
            Err(Error::Stopped) => return Ok(None),
            drawn => {
                for picture in drawn?.pictures {
                    picture.save(&path)?;
                }
            }
        }
        progress(&Event::Preparing {
            what: "class pictures",
            done: done + 1,
            total: prior.count,
        });
    }
    Ok(Some(open()?))
}
