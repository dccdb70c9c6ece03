//! The five lines: words to a picture, with the model inside the program.
//!
//! `cargo run --release -p latent-examples --example draw`

use latent::{Pipeline, Request};

fn main() -> Result<(), latent::Error> {
    let pipeline = Pipeline::builtin()?; // or Pipeline::from_pretrained("path/to/model")?
    let request = Request::new("a red apple, 3d style").seed(7).steps(20);
    let pictures = pipeline.generate(&request)?;
    pictures.save("apple.png")?;
    Ok(())
}
