//! What the common families have beside their weights, inside the program: configs, tokenizers, schedulers.

/// Files by path with `/`.
pub(super) type Files = &'static [(&'static str, &'static [u8])];

const VOCAB: &[u8] = include_bytes!("../../assets/sd1/tokenizer/vocab.json");
const MERGES: &[u8] = include_bytes!("../../assets/sd1/tokenizer/merges.txt");

/// Rows of [`Files`]: the path in the folder, and the file in `assets/`.
macro_rules! assets {
    ($($path:literal = $file:literal),+ $(,)? ; $($tokenizer:literal),+) => {
        &[
            $(($path, include_bytes!(concat!("../../assets/", $file)))),+,
            $(
                (concat!($tokenizer, "/vocab.json"), VOCAB),
                (concat!($tokenizer, "/merges.txt"), MERGES)
            ),+
        ]
    };
}

/// Stable Diffusion 1.x.
pub(super) const SD1: Files = assets!(
    "model_index.json" = "sd1/model_index.json",
    "unet/config.json" = "sd1/unet/config.json",
    "vae/config.json" = "sd1/vae/config.json",
    "text_encoder/config.json" = "sd1/text_encoder/config.json",
    "scheduler/scheduler_config.json" = "sd1/scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json" = "sd1/tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json" = "sd1/tokenizer/special_tokens_map.json";
    "tokenizer"
);

/// Stable Diffusion 1.x, trained further for inpainting.
pub(super) const SD1_INPAINT: Files = assets!(
    "model_index.json" = "sd1/model_index.json",
    "unet/config.json" = "sd1-inpaint/unet/config.json",
    "vae/config.json" = "sd1/vae/config.json",
    "text_encoder/config.json" = "sd1/text_encoder/config.json",
    "scheduler/scheduler_config.json" = "sd1/scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json" = "sd1/tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json" = "sd1/tokenizer/special_tokens_map.json";
    "tokenizer"
);

/// Stable Diffusion 2.x that predicts noise, for pictures of 512x512.
pub(super) const SD2_EPSILON: Files = assets!(
    "model_index.json" = "sd1/model_index.json",
    "unet/config.json" = "sd2/unet_512.json",
    "vae/config.json" = "sd1/vae/config.json",
    "text_encoder/config.json" = "sd2/text_encoder/config.json",
    "scheduler/scheduler_config.json" = "sd1/scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json" = "sd2/tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json" = "sd2/tokenizer/special_tokens_map.json";
    "tokenizer"
);

/// Stable Diffusion 2.x that predicts velocity, for pictures of 768x768.
pub(super) const SD2_V: Files = assets!(
    "model_index.json" = "sd2/model_index.json",
    "unet/config.json" = "sd2/unet_768.json",
    "vae/config.json" = "sd1/vae/config.json",
    "text_encoder/config.json" = "sd2/text_encoder/config.json",
    "scheduler/scheduler_config.json" = "sd2/scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json" = "sd2/tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json" = "sd2/tokenizer/special_tokens_map.json";
    "tokenizer"
);

/// Stable Diffusion 2.x, trained further for inpainting, which predicts noise.
pub(super) const SD2_INPAINT: Files = assets!(
    "model_index.json" = "sd1/model_index.json",
    "unet/config.json" = "sd2/unet_inpaint.json",
    "vae/config.json" = "sd1/vae/config.json",
    "text_encoder/config.json" = "sd2/text_encoder/config.json",
    "scheduler/scheduler_config.json" = "sd1/scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json" = "sd2/tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json" = "sd2/tokenizer/special_tokens_map.json";
    "tokenizer"
);

/// Stable Diffusion XL.
pub(super) const SDXL: Files = assets!(
    "model_index.json" = "sdxl/model_index.json",
    "unet/config.json" = "sdxl/unet/config.json",
    "vae/config.json" = "sdxl/vae/config.json",
    "text_encoder/config.json" = "sd1/text_encoder/config.json",
    "text_encoder_2/config.json" = "sdxl/text_encoder_2/config.json",
    "scheduler/scheduler_config.json" = "sdxl/scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json" = "sd1/tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json" = "sd1/tokenizer/special_tokens_map.json",
    "tokenizer_2/tokenizer_config.json" = "sd2/tokenizer/tokenizer_config.json",
    "tokenizer_2/special_tokens_map.json" = "sd2/tokenizer/special_tokens_map.json";
    "tokenizer", "tokenizer_2"
);

/// Stable Diffusion XL, trained further for inpainting.
pub(super) const SDXL_INPAINT: Files = assets!(
    "model_index.json" = "sdxl/model_index.json",
    "unet/config.json" = "sdxl-inpaint/unet/config.json",
    "vae/config.json" = "sdxl/vae/config.json",
    "text_encoder/config.json" = "sd1/text_encoder/config.json",
    "text_encoder_2/config.json" = "sdxl/text_encoder_2/config.json",
    "scheduler/scheduler_config.json" = "sdxl/scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json" = "sd1/tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json" = "sd1/tokenizer/special_tokens_map.json",
    "tokenizer_2/tokenizer_config.json" = "sd2/tokenizer/tokenizer_config.json",
    "tokenizer_2/special_tokens_map.json" = "sd2/tokenizer/special_tokens_map.json";
    "tokenizer", "tokenizer_2"
);

/// The refiner of Stable Diffusion XL.
pub(super) const SDXL_REFINER: Files = assets!(
    "model_index.json" = "sdxl-refiner/model_index.json",
    "unet/config.json" = "sdxl-refiner/unet/config.json",
    "vae/config.json" = "sdxl/vae/config.json",
    "text_encoder_2/config.json" = "sdxl/text_encoder_2/config.json",
    "scheduler/scheduler_config.json" = "sdxl/scheduler/scheduler_config.json",
    "tokenizer_2/tokenizer_config.json" = "sd2/tokenizer/tokenizer_config.json",
    "tokenizer_2/special_tokens_map.json" = "sd2/tokenizer/special_tokens_map.json";
    "tokenizer_2"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileSource, ModelFolder};

    #[test]
    fn the_configs_inside_the_program_open_as_their_families() {
        let known: [(Files, &str, usize); 8] = [
            (SD1, "sd1", 512),
            (SD1_INPAINT, "sd1-inpaint", 512),
            (SD2_INPAINT, "sd2-inpaint", 512),
            (SD2_EPSILON, "sd2", 512),
            (SD2_V, "sd2", 768),
            (SDXL, "sdxl", 1024),
            (SDXL_INPAINT, "sdxl-inpaint", 1024),
            (SDXL_REFINER, "sdxl-refiner", 1024),
        ];
        for (files, family, size) in known {
            let folder = ModelFolder::from_source(FileSource::memory(files, "inside")).unwrap();
            assert_eq!(folder.family().name, family);
            assert_eq!(folder.size(), [size; 2], "{family}");
            let tokenizers = [folder.tokenizer().unwrap(), folder.tokenizer_2().unwrap()];
            assert!(tokenizers.iter().flatten().all(|one| one.length() == 77));
        }
    }
}
