//! The words of a data set's captions.

use latent::Vocabulary;
use latent_data::DataSet;

/// The words, things and styles of the captions of `data`: what a model that is trained on it knows.
pub fn vocabulary(data: &DataSet) -> Vocabulary {
    let captions = data.examples().iter().map(|example| &example.captions);
    Vocabulary::of_captions(
        captions.map(|captions| captions.iter().map(|caption| caption.text.as_str())),
    )
}
