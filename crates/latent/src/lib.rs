//! Latent diffusion: words to pictures, on a CPU or a GPU.
