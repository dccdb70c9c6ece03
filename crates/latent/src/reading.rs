//! Words to what the U-Net is told of them, of any length and weight.

use std::collections::HashMap;
use std::rc::Rc;

use burn::tensor::Tensor;
use latent_models::{Chunk, ChunkStates, Clock, Grammar, Weights};
use latent_nn::to_host;

use crate::pipeline::{Pipeline, Text};
use crate::prompts::stages;
use crate::sdxl::Words;
use crate::{Error, Request};

/// Chunks that a prompt may have.
const MOST_CHUNKS: usize = 100;

/// What the U-Net is told of one picture.
pub(crate) enum Condition {
    /// Text states `[1, l, c]`.
    Text(Box<Tensor<3>>),
    /// What Stable Diffusion XL's text encoders read.
    Words(Box<Words>),
    Class(u32),
    Nothing,
}

impl Condition {
    /// Tokens of its text.
    pub(crate) fn length(&self) -> usize {
        match self {
            Self::Text(states) => states.dims()[1],
            Self::Words(words) => words.text.dims()[1],
            Self::Class(_) | Self::Nothing => 0,
        }
    }

    /// Repeats the last state up to a length, as A1111 does for prompts of different lengths.
    fn pad(&mut self, length: usize) {
        let more = length.saturating_sub(self.length());
        let states = match self {
            Self::Text(states) => states.as_mut(),
            Self::Words(words) => &mut words.text,
            Self::Class(_) | Self::Nothing => return,
        };
        if more > 0 {
            let [n, l, c] = states.dims();
            let last = states.clone().slice([0..n, l - 1..l, 0..c]);
            *states = Tensor::cat(vec![states.clone(), last.repeat(&[1, more, 1])], 1);
        }
    }
}

/// The steps of a pass, and how many of them were done before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) clock: Clock,
    pub(crate) before: usize,
}

/// What a pass is told of one prompt: a condition for each stage.
pub(crate) struct Line {
    /// The last call of each stage.
    ends: Vec<usize>,
    /// Places in [`Reader::conditions`].
    conditions: Vec<usize>,
}

impl Line {
    /// The condition `at` all calls.
    pub(crate) fn always(at: usize) -> Self {
        Self {
            ends: vec![usize::MAX],
            conditions: vec![at],
        }
    }

    /// The condition at a call.
    pub(crate) fn at(&self, call: usize) -> usize {
        let stage = self.ends.partition_point(|end| *end < call);
        self.conditions[stage.min(self.conditions.len() - 1)]
    }
}

/// Reads prompts with the text encoders of a pipeline; a chunk that comes again is not read again.
pub(crate) struct Reader<'a> {
    pipeline: &'a Pipeline,
    grammar: Grammar,
    weights: Weights,
    /// By encoder, layers left out, and ids.
    chunks: HashMap<(usize, usize, Vec<u32>), Rc<Read>>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) warnings: Vec<String>,
}

/// What an encoder knows of one chunk.
struct Read {
    /// `[l, c]`.
    states: Vec<f32>,
    /// `[1, p]`.
    pooled: Tensor<2>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(pipeline: &'a Pipeline, request: &Request) -> Self {
        Self {
            pipeline,
            grammar: request.grammar(),
            weights: request.weighing(),
            chunks: HashMap::new(),
            conditions: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Reads what each encoder is to read, for each pass.
    ///
    /// # Errors
    /// [`Error::Request`] if it is too long, or the model reads no words.
    pub(crate) fn lines(
        &mut self,
        texts: [&str; 2],
        skip: usize,
        paces: &[Pace],
    ) -> Result<Vec<Line>, Error> {
        if self.grammar != Grammar::A1111 {
            // Nothing changes on the way.
            let read = self.read(&[(texts.map(str::to_owned), 1)], skip)?;
            self.conditions.extend(read);
            let at = self.conditions.len() - 1;
            return Ok(paces.iter().map(|_| Line::always(at)).collect());
        }
        let mut lines = Vec::new();
        for pace in paces {
            let stages = stages(self.grammar, texts, &pace.clock);
            let mut distinct: Vec<([String; 2], usize)> = Vec::new();
            let mut places = HashMap::new();
            let (mut ends, mut conditions) = (Vec::new(), Vec::new());
            for stage in stages {
                let place = *places.entry(stage.texts.clone()).or_insert(distinct.len());
                match distinct.get_mut(place) {
                    Some((_, count)) => *count += 1,
                    None => distinct.push((stage.texts, 1)),
                }
                ends.push(stage.end);
                conditions.push(self.conditions.len() + place);
            }
            let read = self.read(&distinct, skip)?;
            self.conditions.extend(read);
            lines.push(Line { ends, conditions });
        }
        Ok(lines)
    }

    /// Makes the prompts that a pass follows at once as long as each other.
    pub(crate) fn pad(&mut self, lines: &[&Line]) {
        let used: Vec<usize> = lines
            .iter()
            .flat_map(|line| line.conditions.iter().copied())
            .collect();
        let lengths = used.iter().map(|place| self.conditions[*place].length());
        let longest = lengths.max().unwrap_or(0);
        for place in used {
            self.conditions[place].pad(longest);
        }
    }

    /// What A1111 reads at once, with how often: its mean is taken over all of it.
    fn read(
        &mut self,
        texts: &[([String; 2], usize)],
        skip: usize,
    ) -> Result<Vec<Condition>, Error> {
        let pipeline = self.pipeline;
        let second = pipeline.sdxl.iter().map(|sdxl| &sdxl.text_2);
        let encoders: Vec<&Text> = pipeline.text.iter().chain(second).collect();
        if encoders.is_empty() {
            return Err(Error::Request(
                "this model has no text encoder; it cannot be asked for words".into(),
            ));
        }
        let xl = pipeline.sdxl.is_some();
        let condition = |mut states: Vec<Tensor<3>>, pooled: Tensor<2>| match xl {
            true => Condition::Words(Box::new(Words {
                text: Tensor::cat(states, 2),
                pooled,
            })),
            false => Condition::Text(Box::new(states.swap_remove(0))),
        };
        let mut found = Vec::new();
        if self.grammar == Grammar::Literal {
            for (texts, _) in texts {
                let (states, pooled) = self.literal(&encoders, texts, skip);
                found.push(condition(states, pooled));
            }
            return Ok(found);
        }
        let (states, pooled) = self.weighted(&encoders, texts, skip)?;
        for (states, pooled) in states.into_iter().zip(pooled) {
            found.push(condition(states, pooled));
        }
        Ok(found)
    }

    /// States of each encoder, and the pooled ones of the last; what does not fit is cut, and noted.
    fn literal(
        &mut self,
        encoders: &[&Text],
        texts: &[String; 2],
        skip: usize,
    ) -> (Vec<Tensor<3>>, Tensor<2>) {
        let mut read: Vec<(Tensor<3>, Tensor<2>)> = Vec::new();
        for (text, words) in encoders.iter().zip(texts) {
            let ids = text.encode(words, &mut self.warnings);
            read.push(self.states(text, &ids, skip));
        }
        let (states, mut pooled): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        let last = pooled.swap_remove(pooled.len() - 1);
        (states, last)
    }

    /// For each text the states of each encoder, all chunks after one another, and the pooled ones of its first chunk by the
    /// last encoder.
    fn weighted(
        &mut self,
        encoders: &[&Text],
        texts: &[([String; 2], usize)],
        skip: usize,
    ) -> Result<(Vec<Vec<Tensor<3>>>, Vec<Tensor<2>>), Error> {
        let mut chunks = Vec::new();
        for (texts, _) in texts {
            let each = encoders.iter().zip(texts);
            let each = each.map(|(text, words)| text.tokenizer.chunks(self.grammar, words));
            chunks.push(each.collect::<Vec<Vec<Chunk>>>());
        }
        let lengths = chunks.iter().flatten().map(Vec::len);
        let longest = lengths.max().unwrap_or(1);
        if longest > MOST_CHUNKS {
            return Err(Error::Request(format!(
                "the prompt takes {longest} chunks of {} tokens; at most {MOST_CHUNKS} are read",
                encoders[0].tokenizer.length() - 2
            )));
        }
        let mut states = vec![Vec::new(); texts.len()];
        let mut pooled = Vec::new();
        for (encoder, text) in encoders.iter().enumerate() {
            let of_encoder: Vec<&[Chunk]> = chunks.iter().map(|each| &each[encoder][..]).collect();
            let counts = texts.iter().map(|(_, count)| *count);
            let batch: Vec<(&[Chunk], usize)> = of_encoder.into_iter().zip(counts).collect();
            let values = self.encode((encoder, text), &batch, longest, skip);
            pooled = batch
                .iter()
                .map(|(chunks, _)| self.chunk((encoder, text), &chunks[0], skip).pooled.clone())
                .collect();
            for (states, values) in states.iter_mut().zip(values) {
                let tokens = longest * text.tokenizer.length();
                let shape = [1, tokens, values.len() / tokens];
                states.push(self.pipeline.compute.tensor(values, shape));
            }
        }
        Ok((states, pooled))
    }

    /// The weighted states of each text of a batch, chunks without words put behind short ones.
    fn encode(
        &mut self,
        (encoder, text): (usize, &Text),
        batch: &[(&[Chunk], usize)],
        longest: usize,
        skip: usize,
    ) -> Vec<Vec<f32>> {
        let empty = text.tokenizer.empty_chunk();
        let all = batch.iter().flat_map(|(chunks, _)| chunks.iter());
        let plain = all.flat_map(|chunk| &chunk.weights).all(|one| *one == 1.0);
        let weights = if plain { Weights::None } else { self.weights };
        let nothing = match weights {
            Weights::ComfyUi => self.chunk((encoder, text), &empty, skip).states.clone(),
            Weights::A1111 | Weights::None => Vec::new(),
        };
        let mut found = vec![Vec::new(); batch.len()];
        for place in 0..longest {
            let mut read: Vec<ChunkStates> = Vec::new();
            for (chunks, count) in batch {
                let chunk = chunks.get(place).unwrap_or(&empty);
                read.push(ChunkStates {
                    states: self.chunk((encoder, text), chunk, skip).states.clone(),
                    weights: chunk.weights.clone(),
                    count: *count,
                });
            }
            weights.apply(&mut read, &nothing);
            for (found, read) in found.iter_mut().zip(read) {
                found.extend(read.states);
            }
        }
        found
    }

    fn chunk(&mut self, (encoder, text): (usize, &Text), chunk: &Chunk, skip: usize) -> Rc<Read> {
        let key = (encoder, skip, chunk.ids.clone());
        if let Some(read) = self.chunks.get(&key) {
            return Rc::clone(read);
        }
        let (states, pooled) = self.states(text, &chunk.ids, skip);
        let read = Rc::new(Read {
            states: to_host(states).0,
            pooled,
        });
        self.chunks.insert(key, Rc::clone(&read));
        read
    }

    /// States `[1, l, c]` and pooled states `[1, p]` of one chunk.
    fn states(&self, text: &Text, ids: &[u32], skip: usize) -> (Tensor<3>, Tensor<2>) {
        let ids = self.pipeline.compute.ids(ids, [1, ids.len()]);
        let states = text.encoder.forward(ids.clone());
        let hidden = match (self.pipeline.sdxl.is_some(), skip) {
            (false, 0) => states.last,
            (false, skip) => text.encoder.forward_skip(ids, skip),
            // Always from the last layer but one on, and never normalised.
            (true, 0) => states.penultimate,
            (true, skip) => text.encoder.forward_hidden(ids, skip + 1),
        };
        (hidden, states.pooled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_each_call_its_stage() {
        let line = Line {
            ends: vec![1, 4, 10],
            conditions: vec![5, 6, 5],
        };
        let told = [0, 1, 2, 4, 5, 10, 99].map(|call| line.at(call));
        assert_eq!(told, [5, 5, 6, 6, 5, 5, 5]);
        assert_eq!(Line::always(3).at(1000), 3);
    }
}
