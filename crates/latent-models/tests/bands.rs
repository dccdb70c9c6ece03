//! Autoencoders with a band of lines at a time in memory.

use latent_models::{
    Autoencoder, AutoencoderKl, AutoencoderKlConfig, DownEncoderBlockType, UpDecoderBlockType,
};
use latent_nn::ops::{PartRecord, rehearse};
use latent_nn::{Bands, Compute, Init, Precision, to_host};

/// Stable Diffusion's layers, narrower: four levels, attention in the middle and on the first level of the decoder.
fn autoencoder(compute: &Compute, channels: [usize; 4]) -> Autoencoder {
    let mut up = vec![UpDecoderBlockType::Plain; 4];
    let mut down = vec![DownEncoderBlockType::Plain; 4];
    if channels[0] < 64 {
        up[0] = UpDecoderBlockType::Attention;
        down[3] = DownEncoderBlockType::Attention;
    }
    let config = AutoencoderKlConfig {
        down_block_types: down,
        up_block_types: up,
        block_out_channels: channels.to_vec(),
        layers_per_block: 2,
        ..AutoencoderKlConfig::default()
    };
    Autoencoder::Kl(AutoencoderKl::new(&config, &mut Init::seeded(compute, 7)).unwrap())
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
        .collect()
}

/// The least: 16 lines of every layer.
const THIN: Bands = Bands { values: 1 };

#[test]
fn a_picture_decoded_by_bands_has_the_bits_of_one_decoded_whole() {
    for precision in [Precision::F32, Precision::Bf16] {
        let compute = Compute::cpu(precision);
        let model = autoencoder(&compute, [32, 32, 64, 64]);
        // Lines that are no multiple of a band's, more and fewer columns.
        for [h, w] in [[17, 9], [5, 13], [1, 1]] {
            let latents = compute.tensor(numbers(4 * h * w), [1, 4, h, w]);
            let (whole, shape) = to_host(model.decode(latents.clone()));
            let bands = model.decode_by_bands(latents, THIN).unwrap();
            assert_eq!(shape, [1, 3, 8 * h, 8 * w]);
            assert!(to_host(bands) == (whole, shape), "{precision:?} {h}x{w}");
        }
    }
}

#[test]
fn a_picture_encoded_by_bands_has_the_bits_of_one_encoded_whole() {
    for precision in [Precision::F32, Precision::Bf16] {
        let compute = Compute::cpu(precision);
        let model = autoencoder(&compute, [32, 32, 64, 64]);
        for [h, w] in [[136, 72], [40, 104]] {
            let picture = compute.tensor(numbers(3 * h * w), [1, 3, h, w]);
            let (mean, std) = model.latents(picture.clone());
            let (by_bands, its_std) = model.latents_by_bands(picture, THIN).unwrap();
            assert!(to_host(by_bands) == to_host(mean), "{precision:?} {h}x{w}");
            assert!(
                to_host(its_std.unwrap()) == to_host(std.unwrap()),
                "{precision:?} {h}x{w}"
            );
        }
    }
}

/// Bytes of activations and packed weights at the worst moment of decoding a picture of this side.
fn peak(side: usize, by_bands: bool) -> usize {
    let compute = Compute::cpu(Precision::Bf16);
    let model = autoencoder(&compute, [128, 256, 512, 512]);
    let side = side / 8;
    let ((), parts) = rehearse(|| {
        let latents = compute.tensor(numbers(4 * side * side), [1, 4, side, side]);
        let decoded = if by_bands {
            model.decode_by_bands(latents, Bands::default()).unwrap()
        } else {
            model.decode(latents)
        };
        assert_eq!(decoded.dims(), [1, 3, 8 * side, 8 * side]);
    });
    parts
        .iter()
        .map(|part: &PartRecord| part.peak)
        .max()
        .unwrap_or(0)
}

#[test]
fn memory_of_decoding_by_bands_is_that_of_the_latents_not_of_the_picture() {
    let mib = |bytes: usize| bytes >> 20;
    let (whole, bands) = (peak(512, false), peak(512, true));
    assert!(
        mib(whole) > 700 && mib(bands) < 300,
        "{} and {} MiB",
        mib(whole),
        mib(bands)
    );
    // Four times the picture: the middle of the network, which runs whole, grows with the latents.
    let (whole, bands) = (peak(1024, false), peak(1024, true));
    assert!(
        mib(whole) > 2500 && mib(bands) < 400,
        "{} and {} MiB",
        mib(whole),
        mib(bands)
    );
}
