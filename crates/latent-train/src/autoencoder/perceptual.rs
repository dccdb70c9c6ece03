//! Distance of pictures as a network that knows the captions sees them.

use burn::module::Module;
use burn::tensor::Tensor;
use latent_models::ImageTower;

/// The frozen image tower of the text-encoder stage.
///
/// The usual choice, VGG trained on photographs, would be somebody else's weights; this tower was trained by this
/// project to match pictures with captions, so its features say what a caption could speak of: shape, colour, style.
pub(crate) struct Perceptual {
    tower: ImageTower,
}

impl Perceptual {
    /// `tower` stands on a device with gradients; its weights get none.
    pub(crate) fn new(tower: ImageTower) -> Self {
        Self {
            tower: tower.no_grad(),
        }
    }

    /// Mean over levels of the squared difference of features, each position's scaled to length 1.
    ///
    /// `pictures` and `reconstructions` `[n, 3, h, w]` to `[1]`.
    /// Source: Zhang et al. 2018 (arXiv:1801.03924), Eq. 1, with all channel weights 1.
    pub(crate) fn distance(&self, pictures: Tensor<4>, reconstructions: Tensor<4>) -> Tensor<1> {
        let real = self.tower.features(pictures);
        let made = self.tower.features(reconstructions);
        let levels = real.len() as f32;
        let distances = real.into_iter().zip(made).map(|(real, made)| {
            let difference = unit_length(real) - unit_length(made);
            (difference.clone() * difference).sum_dim(3).mean()
        });
        distances.reduce(|sum, next| sum + next).map_or_else(
            || unreachable!("an image tower has at least one level"),
            |sum| sum / levels,
        )
    }
}

/// Features `[n, h, w, c]` scaled to length 1 at every position.
fn unit_length(features: Tensor<4>) -> Tensor<4> {
    let length = (features.clone() * features.clone())
        .sum_dim(3)
        .add_scalar(1e-10)
        .sqrt();
    features / length
}
