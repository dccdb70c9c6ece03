//! The `latent` command.
fn main() {}
