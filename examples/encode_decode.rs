//! A picture into latents and back again.
//!
//! `cargo run --release -p latent-examples --example encode_decode -- picture.png [model folder]`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::error::Error;
use std::path::Path;

use latent::{Picture, Pipeline};
use latent_formats::psnr;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let path = arguments
        .next()
        .ok_or("name a picture: `encode_decode picture.png [model folder]`")?;
    let pipeline = match arguments.next() {
        Some(folder) => Pipeline::from_pretrained(folder)?,
        None => Pipeline::builtin()?,
    };

    // The autoencoder halves a picture a fixed number of times, so both sides must be multiples of that.
    let picture = Picture::open(Path::new(&path))?;
    let factor = pipeline.downsampling();
    let (width, height) = (
        picture.width() / factor * factor,
        picture.height() / factor * factor,
    );
    let picture = picture.crop(0, 0, width, height)?;

    let latents = pipeline.encode(&picture)?;
    println!("[1, 3, {height}, {width}] -> {:?}", latents.shape());
    latents.save("latents.safetensors")?;

    let again = pipeline.decode(&latents)?.remove(0);
    again.save(Path::new("decoded.png"))?;
    println!(
        "wrote latents.safetensors and decoded.png, PSNR {:.1} dB",
        psnr(&picture, &again)?
    );
    Ok(())
}
