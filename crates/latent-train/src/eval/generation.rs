//! What a pipeline draws, as the judge sees it.

use std::collections::BTreeMap;
use std::path::Path;

use latent::{Pipeline, Request};
use latent_data::{Captions, DataSet, Example};
use latent_formats::Picture;
use serde::Serialize;

use super::judge::{cosine, nearest};
use super::naming::{Names, Naming};
use super::tally::{Tally, Worded, add_words};
use super::wording::Wording;
use super::{Hits, Judge, WordHits, concepts, frechet_distance, kernel_distance, spread, word};
use crate::error::{Result, TrainError};

/// What to draw and how.
#[derive(Clone, Debug)]
pub struct GenerationOptions {
    /// Captions drawn, evenly picked from the data.
    pub count: usize,
    /// Training pictures among which the nearest is sought; evenly picked.
    pub training_limit: usize,
    /// Seed of the first picture; the others follow.
    pub seed: u64,
    /// Steps of the sampler; the pipeline's own if absent.
    pub steps: Option<usize>,
    /// Guidance strength; the pipeline's own if absent.
    pub guidance: Option<f32>,
    /// Sampler by name; the pipeline's own if absent.
    pub sampler: Option<String>,
}

impl Default for GenerationOptions {
    fn default() -> Self {
        Self {
            count: 300,
            training_limit: 20_000,
            seed: 1,
            steps: None,
            guidance: None,
            sampler: None,
        }
    }
}

/// Scores of drawn pictures. Distances are 1 - cosine of the judge's vectors.
#[derive(Clone, Debug, Serialize)]
pub struct GenerationReport {
    /// Pictures drawn, one a caption.
    pub pictures: usize,
    /// Fréchet distance to the captions' own pictures. It shrinks with the number of pictures: compare equal numbers.
    pub frechet_distance: f64,
    /// Kernel distance to the same, which does not.
    pub kernel_distance: f64,
    /// Mean cosine of drawn picture and caption.
    pub alignment: f64,
    /// The same of the captions' own pictures: what a perfect model would have.
    pub alignment_of_data: f64,
    /// The drawn picture is nearer to its caption in English than to the captions that name another thing in the place of
    /// one of its own: 99 for each, evenly spread over the training set's. A thing's name is the shortest caption of a
    /// training picture that shows it alone, without style and article.
    pub named: Hits,
    /// The same of the captions' own pictures: how often the judge knows things when they are drawn right.
    pub named_of_data: Hits,
    /// `named` by `kind` of the captions' metadata.
    pub named_by_kind: BTreeMap<String, Hits>,
    /// `named_of_data` by `kind`.
    pub named_by_kind_of_data: BTreeMap<String, Hits>,
    /// `named` by the captions' language.
    pub named_by_language: BTreeMap<String, Hits>,
    /// The words that captions turn on, by the first word of the list that each is in; absent if the judge's folder
    /// lists none.
    pub worded: Option<BTreeMap<String, WordHits>>,
    /// The nearest training picture shows the right concept.
    pub concepts: Hits,
    /// The same of the captions' own pictures.
    pub concepts_of_data: Hits,
    /// `concepts` by `kind`.
    pub by_kind: BTreeMap<String, Hits>,
    /// `concepts` by the captions' language.
    pub by_language: BTreeMap<String, Hits>,
    /// Median distance of drawn pictures to the nearest training picture.
    pub nearest_training: f64,
    /// The same of the captions' own pictures; 0 where they are training pictures.
    pub nearest_training_of_data: f64,
    /// Share of drawn pictures that are nearer to a training picture than 0.01.
    pub near_copies: f64,
}

/// A caption that is drawn, with the language's name.
struct Asked {
    example: usize,
    caption: String,
    language: String,
}

/// Draws captions of `data` and scores them against `training`.
///
/// Each picture's caption is its first in English, or for every second picture in Korean, where it has one.
/// `progress` hears pictures done and in all.
///
/// # Errors
/// The data cannot be read, or a picture cannot be drawn.
pub fn evaluate_generation(
    pipeline: &Pipeline,
    judge: &Judge,
    data: &Path,
    training: &Path,
    options: &GenerationOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<GenerationReport> {
    let data = DataSet::open(data, Captions::Required)?;
    let training = DataSet::open(training, Captions::Optional)?;
    let asked = asked(&data, options.count);
    let (places, known) = seen(&training, judge, options.training_limit)?;
    let names = Names::of(&training);
    let total = asked.len();
    let mut scores = Scores::default();
    for (index, asked) in asked.iter().enumerate() {
        let drawn = draw(pipeline, &asked.caption, options, index as u64)?;
        let own = judge.see(&[data.load(asked.example)?])?.remove(0);
        let drawn = judge.see(&[drawn])?.remove(0);
        let wording = Wording::read(judge, &asked.caption);
        let example = &data.examples()[asked.example];
        let shows = |vector: &[f32]| {
            let (place, _) = nearest(vector, &known)?;
            Some(shows(&training.examples()[places[place]], example))
        };
        let naming = Naming::read(judge, &names, example);
        let named = |vector: &[f32]| Some(naming.as_ref()?.right(vector));
        let of = [word(example, "kind"), &asked.language];
        scores
            .concepts
            .add([&drawn, &own].map(|seen| shows(seen)), of);
        scores.named.add([&drawn, &own].map(|seen| named(seen)), of);
        let other = scores.own.last().map(Vec::as_slice);
        add_words(&mut scores.worded, &wording, [&drawn, &own], other);
        scores.add(own, drawn, &wording.caption, &known);
        progress(index + 1, total);
    }
    Ok(scores.report(!judge.opposites().is_empty()))
}

/// Whether the training picture shows what the caption's picture shows: the same concept, or of several at least one.
fn shows(found: &Example, asked: &Example) -> bool {
    let found = concepts(found);
    concepts(asked)
        .iter()
        .any(|concept| found.contains(concept))
}

fn draw(
    pipeline: &Pipeline,
    caption: &str,
    options: &GenerationOptions,
    index: u64,
) -> Result<Picture> {
    let mut request = Request::new(caption).seed(options.seed.wrapping_add(index));
    if let Some(steps) = options.steps {
        request = request.steps(steps);
    }
    if let Some(guidance) = options.guidance {
        request = request.guidance(guidance);
    }
    if let Some(sampler) = &options.sampler {
        request = request.sampler(sampler);
    }
    let drawn = pipeline.generate(&request)?.pictures.into_iter().next();
    drawn.ok_or_else(|| TrainError::Other(format!("nothing was drawn for `{caption}`")))
}

/// Places and vectors of training pictures.
fn seen(training: &DataSet, judge: &Judge, limit: usize) -> Result<(Vec<usize>, Vec<Vec<f32>>)> {
    let places: Vec<usize> = spread(training.len(), limit).collect();
    let mut vectors = Vec::new();
    for part in places.chunks(64) {
        let pictures: Vec<Picture> = part
            .iter()
            .map(|&place| Ok(training.load(place)?))
            .collect::<Result<_>>()?;
        vectors.extend(judge.see(&pictures)?);
    }
    Ok((places, vectors))
}

fn asked(data: &DataSet, count: usize) -> Vec<Asked> {
    spread(data.len(), count)
        .enumerate()
        .filter_map(|(index, example)| {
            let captions = &data.examples()[example].captions;
            let language = if index % 2 == 1 { "ko" } else { "en" };
            let of_language =
                |caption: &&latent_data::Caption| caption.language.as_deref() == Some(language);
            let caption = captions.iter().find(of_language).or(captions.first())?;
            Some(Asked {
                example,
                caption: caption.text.clone(),
                language: caption.language.clone().unwrap_or_else(|| "-".into()),
            })
        })
        .collect()
}

/// What is gathered picture by picture.
#[derive(Default)]
struct Scores {
    own: Vec<Vec<f32>>,
    drawn: Vec<Vec<f32>>,
    alignment: Vec<f64>,
    alignment_of_data: Vec<f64>,
    distances: Vec<f64>,
    distances_of_data: Vec<f64>,
    named: Both,
    worded: Worded,
    concepts: Both,
}

/// Hits of drawn pictures and of the data's own.
#[derive(Default)]
struct Both {
    drawn: Tally,
    of_data: Tally,
}

impl Both {
    /// Counts a caption if its pictures could be judged.
    fn add(&mut self, right: [Option<bool>; 2], [kind, language]: [&str; 2]) {
        if let [Some(drawn), Some(of_data)] = right {
            self.drawn.add(drawn, kind, language);
            self.of_data.add(of_data, kind, language);
        }
    }
}

impl Scores {
    fn add(&mut self, own: Vec<f32>, drawn: Vec<f32>, caption: &[f32], known: &[Vec<f32>]) {
        let distance =
            |vector: &[f32]| nearest(vector, known).map_or(1.0, |(_, cosine)| 1.0 - cosine);
        self.alignment.push(cosine(&drawn, caption));
        self.alignment_of_data.push(cosine(&own, caption));
        self.distances.push(distance(&drawn));
        self.distances_of_data.push(distance(&own));
        self.own.push(own);
        self.drawn.push(drawn);
    }

    /// `worded`: whether the judge lists words that captions turn on.
    fn report(self, worded: bool) -> GenerationReport {
        let near = self
            .distances
            .iter()
            .filter(|&&distance| distance < 0.01)
            .count();
        GenerationReport {
            pictures: self.drawn.len(),
            frechet_distance: frechet_distance(&self.own, &self.drawn),
            kernel_distance: kernel_distance(&self.own, &self.drawn),
            alignment: mean(&self.alignment),
            alignment_of_data: mean(&self.alignment_of_data),
            named: self.named.drawn.all,
            named_of_data: self.named.of_data.all,
            named_by_kind: self.named.drawn.by_kind,
            named_by_kind_of_data: self.named.of_data.by_kind,
            named_by_language: self.named.drawn.by_language,
            worded: worded.then_some(self.worded),
            concepts: self.concepts.drawn.all,
            concepts_of_data: self.concepts.of_data.all,
            by_kind: self.concepts.drawn.by_kind,
            by_language: self.concepts.drawn.by_language,
            near_copies: near as f64 / self.distances.len().max(1) as f64,
            nearest_training: median(self.distances),
            nearest_training_of_data: median(self.distances_of_data),
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
