//! A walk through latent diffusion, step by step, with real numbers: a picture becomes a latent and comes back, then
//! noise becomes a picture.
//!
//! `cargo run --release -p latent-examples --example tour`
//!
//! `cargo run --release -p latent-examples --example tour -- --korean` tells it in Korean; `-- photo.png` takes a
//! picture of yours, `-- --model DIR` any Stable Diffusion 1.x folder in diffusers' layout.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod autoencoder;
mod denoising;
mod guide;
mod schedule;

use std::error::Error;

use latent_examples::open;

use guide::Guide;

/// What every chapter returns.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let guide = Guide::from_arguments()?;
    let (pipeline, config) = open(guide.model.as_deref())?;
    let picture = guide.picture()?;
    std::fs::create_dir_all(guide::FOLDER)?;

    autoencoder::the_lessons_shapes(&guide, &pipeline, &picture)?;
    let latents = autoencoder::there_and_back(&guide, &pipeline, &picture)?;
    autoencoder::why_it_pays(&guide);
    autoencoder::the_scaling_factor(&guide, &pipeline, &picture)?;
    let schedule = schedule::noise_by_timestep(&guide, &pipeline, &config, &latents)?;
    denoising::noise_to_pictures(&guide, &pipeline, &config, &schedule)?;

    guide.say(
        &format!("The pictures are in `{}/`. Each chapter is one short file in `examples/tour/`.", guide::FOLDER),
        &format!("그림은 `{}/`에 있습니다. 각 장의 코드는 `examples/tour/`에 있는 짧은 파일 하나씩입니다.", guide::FOLDER),
    );
    Ok(())
}
