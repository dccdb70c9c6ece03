//! Which words a picture follows at which step.

use latent_models::{Chunk, ClipTokenizer, Clock, Grammar, Schedule, Weights, split_prompts};

use crate::{Error, Request};

/// One of the prompts that a picture follows at once.
pub(crate) struct Shared {
    /// Its share in the sum of what the network finds.
    pub(crate) share: f64,
    /// Its words for each text encoder.
    pub(crate) texts: [String; 2],
}

/// The prompts that `AND` joins; `texts` are what each text encoder reads.
pub(crate) fn split(grammar: Grammar, texts: [&str; 2]) -> Result<Vec<Shared>, Error> {
    if grammar != Grammar::A1111 {
        let texts = texts.map(str::to_owned);
        return Ok(vec![Shared { share: 1.0, texts }]);
    }
    let [first, second] = texts.map(split_prompts);
    if first.len() != second.len() {
        return Err(Error::Request(format!(
            "`AND` makes {} prompts of `prompt` and {} of `prompt_2`; join as many in both",
            first.len(),
            second.len()
        )));
    }
    let pairs = first.into_iter().zip(second);
    let joined = pairs.map(|(first, second)| Shared {
        share: first.share,
        texts: [first.text, second.text],
    });
    Ok(joined.collect())
}

/// Whether prompts are more than one whole one, so that what they find is a sum.
pub(crate) fn are_summed(shares: impl IntoIterator<Item = f64>) -> bool {
    !shares.into_iter().eq([1.0])
}

/// Words up to a step.
pub(crate) struct Stage {
    /// The last call of the network that is told them, counted from 0.
    pub(crate) end: usize,
    /// The words for each text encoder.
    pub(crate) texts: [String; 2],
}

/// The words of a pass, stage after stage; the last is for all calls that follow, too.
pub(crate) fn stages(grammar: Grammar, texts: [&str; 2], clock: &Clock) -> Vec<Stage> {
    if grammar != Grammar::A1111 {
        let texts = texts.map(str::to_owned);
        return vec![Stage {
            end: clock.steps,
            texts,
        }];
    }
    let schedules = texts.map(Schedule::read);
    let mut ends: Vec<usize> = schedules.iter().flat_map(|s| s.stages(clock)).collect();
    ends.sort_unstable();
    ends.dedup();
    let at = |end| Stage {
        end,
        texts: [0, 1].map(|encoder| schedules[encoder].text_at(end, clock)),
    };
    ends.into_iter().map(at).collect()
}

/// What may surprise in how a prompt is read.
pub(crate) fn surprises(grammar: Grammar, text: &str) -> Vec<String> {
    if grammar != Grammar::A1111 {
        return Vec::new();
    }
    let prompts = split_prompts(text);
    let mut found = Vec::new();
    if let [one] = &prompts[..]
        && one.share != 1.0
    {
        found.push(format!(
            "the number behind the prompt's last colon, {}, is read as its weight, as A1111 reads it",
            one.share
        ));
    }
    let texts = prompts.iter().map(|prompt| prompt.text.as_str());
    found.extend(unscheduled(grammar, texts));
    found
}

/// Why words of texts in brackets do not change on the way, where that may surprise.
pub(crate) fn unscheduled<'t>(
    grammar: Grammar,
    texts: impl IntoIterator<Item = &'t str>,
) -> Vec<String> {
    let mut found = Vec::new();
    let texts = texts.into_iter().filter(|text| text.contains('['));
    for text in texts.filter(|_| grammar == Grammar::A1111) {
        if let Some(why) = Schedule::read(text).unread
            && !found.iter().any(|known| known == why)
        {
            found.push(why.to_owned());
        }
    }
    found
}

/// How a prompt is read: for people who wonder what the model sees.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptReport {
    /// How its text is read.
    pub grammar: Grammar,
    /// What `AND` joins; one prompt where it joins nothing.
    pub prompts: Vec<ReadPrompt>,
    /// The end of a literal prompt, where it does not fit into one chunk.
    pub cut: Option<String>,
    /// What may surprise.
    pub warnings: Vec<String>,
}

/// One of the prompts that a picture follows at once.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadPrompt {
    /// Its share in the sum of what the network finds.
    pub share: f64,
    /// Its words over the steps; one stage where nothing is scheduled.
    pub stages: Vec<ReadStage>,
}

/// Words of some steps.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadStage {
    /// First and last step, counted from 1.
    pub steps: [usize; 2],
    /// The words, weights and breaks still in them.
    pub text: String,
    /// Their tokens.
    pub chunks: Vec<Chunk>,
}

impl PromptReport {
    /// Of the prompt of a request that takes `steps` steps, of a sampler that calls the network once a step.
    ///
    /// # Errors
    /// [`Error::Request`] if it is too long to be read.
    pub fn new(tokenizer: &ClipTokenizer, request: &Request, steps: usize) -> Result<Self, Error> {
        request.validate()?;
        let (grammar, text) = (request.grammar(), &request.prompt);
        let clock = Clock::of(steps);
        let read = |shared: Shared| ReadPrompt {
            share: shared.share,
            stages: read_stages(tokenizer, grammar, &shared.texts[0], &clock),
        };
        let weighed = request.weighing() != Weights::None;
        let read = |shared: Shared| {
            let mut read = read(shared);
            let chunks = read.stages.iter_mut().flat_map(|stage| &mut stage.chunks);
            for chunk in chunks.filter(|_| !weighed) {
                chunk.weights.fill(1.0);
            }
            read
        };
        let prompts = split(grammar, [text, text])?;
        Ok(Self {
            grammar,
            prompts: prompts.into_iter().map(read).collect(),
            cut: match grammar {
                Grammar::Literal => tokenizer.encode(text).cut,
                Grammar::A1111 | Grammar::ComfyUi => None,
            },
            warnings: surprises(grammar, text),
        })
    }
}

/// The stages that are met in the steps of a clock, neighbours of the same words joined.
fn read_stages(
    tokenizer: &ClipTokenizer,
    grammar: Grammar,
    text: &str,
    clock: &Clock,
) -> Vec<ReadStage> {
    let (mut read, mut first) = (Vec::<ReadStage>::new(), 1);
    for Stage { end, texts } in stages(grammar, [text, ""], clock) {
        let last = (end + 1).min(clock.steps);
        if first > last {
            break;
        }
        let [text, _] = texts;
        match read.last_mut().filter(|before| before.text == text) {
            Some(before) => before.steps[1] = last,
            None => read.push(ReadStage {
                steps: [first, last],
                chunks: tokenizer.chunks(grammar, &text),
                text,
            }),
        }
        first = last + 1;
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_encoders_change_their_words_at_the_steps_of_both() {
        let clock = Clock::of(10);
        let found = stages(Grammar::A1111, ["[a:b:3]", "[c:d:0.5]"], &clock);
        let found: Vec<(usize, &str, &str)> = found
            .iter()
            .map(|stage| (stage.end, &stage.texts[0][..], &stage.texts[1][..]))
            .collect();
        assert_eq!(found, [(3, "a", "c"), (5, "b", "c"), (10, "b", "d")]);
    }

    #[test]
    fn prompts_for_two_encoders_need_as_many_parts() {
        let error = split(Grammar::A1111, ["a AND b", "c"]).err().unwrap();
        assert!(error.to_string().contains("2 prompts"), "{error}");
        let literal = split(Grammar::Literal, ["a AND b", "c"]).unwrap();
        assert_eq!((literal.len(), literal[0].share), (1, 1.0));
    }

    #[test]
    fn what_may_surprise_is_said() {
        let said = |text: &str| surprises(Grammar::A1111, text).join("\n");
        assert!(said("aspect ratio 16:9").contains("last colon, 9"));
        assert!(said("a | b [c:d:3]").contains("\\|"));
        assert_eq!(said("a | b"), "");
        assert_eq!(said("a AND b :0.5"), "");
        assert!(surprises(Grammar::ComfyUi, "16:9").is_empty());
    }
}
