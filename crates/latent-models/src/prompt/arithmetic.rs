//! What the weight of a token does to its states.

use serde::{Deserialize, Serialize};

/// Which arithmetic applies the weights of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// None: brackets are read, and their weights left out.
    #[default]
    None,
    /// States times their weight, then all of the chunk times one number that restores its mean.
    ///
    /// Source: AUTOMATIC1111 stable-diffusion-webui, emphasis "Original".
    A1111,
    /// From the states of the empty text towards those of the prompt: a weight below 1 stops on the way, one above 1 goes
    /// beyond.
    ///
    /// Source: ComfyUI, `ClipTokenWeightEncoder.encode_token_weights`.
    ComfyUi,
}

impl Weights {
    /// All of them with their names.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("a1111", Self::A1111),
        ("comfyui", Self::ComfyUi),
    ];

    /// What requests and files call it.
    pub fn name(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find(|(_, weights)| *weights == self)
            .map_or("", |(name, _)| name)
    }

    /// Applies weights to the states of one chunk in each text of a batch; `empty` are those of the chunk without words.
    ///
    /// The batch is what AUTOMATIC1111 encodes at once, the stages of one prompt: its mean is taken over all of them.
    ///
    /// # Panics
    /// If the number of weights does not divide that of states, or the chunks are of different sizes.
    pub fn apply(self, chunks: &mut [ChunkStates], empty: &[f32]) {
        match self {
            Self::None => {}
            Self::A1111 => multiply(chunks),
            Self::ComfyUi => chunks
                .iter_mut()
                .for_each(|chunk| interpolate(chunk, empty)),
        }
    }
}

/// States of one chunk of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct ChunkStates {
    /// `[l, c]`, row after row.
    pub states: Vec<f32>,
    /// Of each of the `l` tokens, start, end and padding among them.
    pub weights: Vec<f32>,
    /// Texts of the batch that have it.
    pub count: usize,
}

impl ChunkStates {
    /// Each token's weight with its states.
    fn rows(&mut self) -> impl Iterator<Item = (f32, &mut [f32])> {
        let tokens = self.weights.len();
        assert!(
            tokens > 0 && self.states.len().is_multiple_of(tokens),
            "weights: {tokens} for {} states",
            self.states.len()
        );
        let width = self.states.len() / tokens;
        let rows = self.states.chunks_exact_mut(width.max(1));
        self.weights.iter().copied().zip(rows)
    }
}

fn multiply(chunks: &mut [ChunkStates]) {
    let plain = |chunk: &ChunkStates| chunk.weights.iter().all(|weight| *weight == 1.0);
    if chunks.iter().all(plain) {
        return;
    }
    let before = mean(chunks);
    for chunk in chunks.iter_mut() {
        for (weight, row) in chunk.rows() {
            row.iter_mut().for_each(|state| *state *= weight);
        }
    }
    let restored = (before / mean(chunks)) as f32;
    // Weights that leave nothing have no mean to restore.
    if restored.is_finite() {
        let states = chunks.iter_mut().flat_map(|chunk| &mut chunk.states);
        states.for_each(|state| *state *= restored);
    }
}

/// The mean of all states of a batch.
fn mean(chunks: &[ChunkStates]) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for chunk in chunks {
        let states: f64 = chunk.states.iter().map(|state| f64::from(*state)).sum();
        sum += states * chunk.count as f64;
        count += (chunk.states.len() * chunk.count) as f64;
    }
    sum / count
}

fn interpolate(chunk: &mut ChunkStates, empty: &[f32]) {
    assert_eq!(
        chunk.states.len(),
        empty.len(),
        "weights: the empty chunk is of another size"
    );
    let width = empty.len() / chunk.weights.len().max(1);
    let rows = chunk.rows().zip(empty.chunks_exact(width.max(1)));
    for ((weight, row), empty) in rows.filter(|((weight, _), _)| *weight != 1.0) {
        for (state, empty) in row.iter_mut().zip(empty) {
            *state = (*state - empty) * weight + empty;
        }
    }
}
