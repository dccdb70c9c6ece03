//! Whole runs of long, weighted, scheduled and composed prompts on the tiny models, against loops that are written out here.
//!
//! The loops know nothing of prompts: they are given the tokens of each chunk and the states of each call.

mod common;

use burn::tensor::Tensor;
use common::{Tiny, furthest};
use latent::models::{ClipTextModel, ClipTokenizer, TextTime, UNetCondition, Weights};
use latent::sampling::{
    Compat, Denoiser, Latents as Array, RunOptions, SchedulerConfig, Start, Stopped,
    TorchGenerator, choose, guidance, sample,
};
use latent::{Control, Generated, Picture, Pipeline, Precision, Request};
use ndarray::Array4;

const SD1: Tiny = Tiny("sd1-tiny");
const SDXL: Tiny = Tiny("sdxl-tiny");
const GUIDANCE: f64 = 7.5;
const SEED: u64 = 5;

/// States of one condition at a call, and its share.
type Share = (f64, UNetCondition);

/// A walk from noise that is told of each call what is unwanted and what is wanted.
struct Loop<'a, F: Fn(usize) -> (UNetCondition, Vec<Share>)> {
    pipeline: &'a Pipeline,
    told: F,
    calls: usize,
    generator: TorchGenerator,
}

impl<F: Fn(usize) -> (UNetCondition, Vec<Share>)> Loop<'_, F> {
    fn once(&self, input: &Array, timestep: f64, condition: UNetCondition) -> Array {
        let values = input.iter().copied().collect();
        let sample = self.pipeline.compute().tensor(values, input.dim().into());
        let unet = self.pipeline.unet();
        let output = unet.forward(sample, &[timestep as f32], condition);
        let (values, _) = latent_nn::to_host(output);
        Array4::from_shape_vec(input.raw_dim(), values).expect("the input's shape")
    }
}

impl<F: Fn(usize) -> (UNetCondition, Vec<Share>)> Denoiser for Loop<'_, F> {
    fn predict(&mut self, input: &Array, timestep: f64) -> Result<Array, Stopped> {
        let (unwanted, wanted) = (self.told)(self.calls);
        self.calls += 1;
        let base = self.once(input, timestep, unwanted);
        let mut sum = base.clone();
        for (share, condition) in wanted {
            let found = self.once(input, timestep, condition);
            sum += &((&found - &base) * share as f32);
        }
        Ok(guidance::guide(&sum, &base, GUIDANCE))
    }

    fn noise(&mut self, shape: [usize; 4]) -> Array {
        self.generator.randn_latents(shape)
    }
}

/// The latents of a run of `sampler` on the model's own scheduler.
fn walked(
    tiny: Tiny,
    pipeline: &Pipeline,
    (sampler, steps): (&str, usize),
    told: impl Fn(usize) -> (UNetCondition, Vec<Share>),
) -> Vec<f32> {
    let text = std::fs::read_to_string(tiny.folder().join("scheduler/scheduler_config.json"));
    let folder = SchedulerConfig::from_text(&text.expect("the scheduler")).expect("a config");
    let config = choose(&folder, Some(sampler), None)
        .expect("a sampler")
        .config;
    let mut world = Loop {
        pipeline,
        told,
        calls: 0,
        generator: TorchGenerator::new(SEED),
    };
    let side = 64 / pipeline.downsampling();
    let noise = world.noise([1, 4, side, side]);
    let options = RunOptions::new(steps);
    let latents = sample(&config, &options, Start::Noise(noise), &mut world).expect("a run");
    latents.iter().copied().collect()
}

fn request(prompt: &str, sampler: &str, steps: usize) -> Request {
    Request::new(prompt)
        .sampler(sampler)
        .steps(steps)
        .guidance(GUIDANCE as f32)
        .size(64, 64)
        .seed(SEED)
}

fn assert_same(found: &Generated, expected: &[f32]) {
    let off = furthest(found.latents.values(), expected);
    assert!(
        off <= 1e-4,
        "latents differ by {off:e} of their largest value"
    );
}

/// `words` repeated until they are `tokens` tokens, and those.
fn long_prompt(tiny: Tiny, words: &str, tokens: usize) -> (String, Vec<u32>) {
    let tokenizer = ClipTokenizer::open(&tiny.folder().join("tokenizer"), 1000).expect("opens");
    let each = tokenizer.encode(words).pieces.len();
    assert_eq!(tokens % each, 0, "{words} are {each} tokens");
    let prompt = vec![words; tokens / each].join(" ");
    let ids = tokenizer.encode(&prompt).ids[1..=tokens].to_vec();
    (prompt, ids)
}

/// The ids of a chunk of so many tokens as a tokenizer pads it.
fn chunk(tokenizer: &ClipTokenizer, tokens: &[u32]) -> Vec<u32> {
    let mut ids = vec![tokenizer.bos()];
    ids.extend(tokens);
    ids.push(tokenizer.eos());
    ids.resize(77, tokenizer.pad());
    ids
}

/// Last states of each chunk, one behind the other.
fn last_states(pipeline: &Pipeline, chunks: &[Vec<u32>]) -> Tensor<3> {
    let encoder = pipeline.text_encoder().expect("a text encoder");
    let states = chunks.iter().map(|ids| {
        let ids = pipeline.compute().ids(ids, [1, 77]);
        encoder.forward(ids).last
    });
    Tensor::cat(states.collect(), 1)
}

/// The states of a text that one chunk holds.
fn short(pipeline: &Pipeline, text: &str) -> Tensor<3> {
    let ids = pipeline.tokenizer().expect("a tokenizer").encode(text).ids;
    last_states(pipeline, &[ids])
}

#[test]
fn a_prompt_of_150_tokens_is_two_chunks_behind_one_another() {
    let pipeline = SD1.pipeline();
    let (prompt, tokens) = long_prompt(SD1, "a fox a a", 150);
    let tokenizer = pipeline.tokenizer().expect("a tokenizer");
    let chunks: Vec<Vec<u32>> = tokens.chunks(75).map(|ids| chunk(tokenizer, ids)).collect();
    let (wanted, unwanted) = (last_states(&pipeline, &chunks), short(&pipeline, ""));
    assert_eq!(wanted.dims()[1], 154);
    let expected = walked(SD1, &pipeline, ("ddim", 4), |_| {
        let wanted = UNetCondition::Text(wanted.clone());
        (UNetCondition::Text(unwanted.clone()), vec![(1.0, wanted)])
    });
    for weights in [Weights::A1111, Weights::ComfyUi] {
        let request = request(&prompt, "ddim", 4).weights(weights);
        let drawn = pipeline.generate(&request).expect("a picture");
        assert_same(&drawn, &expected);
        assert!(drawn.warnings.is_empty(), "{:?}", drawn.warnings);
    }
    // Letter by letter the second half is cut, and said.
    let cut = pipeline
        .generate(&request(&prompt, "ddim", 4))
        .expect("a picture");
    assert!(furthest(cut.latents.values(), &expected) > 1e-3);
    assert!(
        cut.warnings[0].contains("this end was cut: \"") && cut.warnings[0].contains("--weights"),
        "{:?}",
        cut.warnings
    );
}

/// States of both encoders side by side, and the pooled ones of the first chunk.
fn xl_states(pipeline: &Pipeline, tokens: &[u32]) -> (Tensor<3>, Tensor<2>) {
    let (second, tokenizer_2) = pipeline.second_text().expect("a second text encoder");
    let first = pipeline.text_encoder().expect("a text encoder");
    let tokenizer = pipeline.tokenizer().expect("a tokenizer");
    let states = |encoder: &ClipTextModel, tokenizer: &ClipTokenizer| {
        let each = tokens.chunks(75).map(|tokens| {
            let ids = chunk(tokenizer, tokens);
            encoder.forward(pipeline.compute().ids(&ids, [1, 77]))
        });
        let (hidden, pooled): (Vec<_>, Vec<_>) = each
            .map(|states| (states.penultimate, states.pooled))
            .unzip();
        (Tensor::cat(hidden, 1), pooled[0].clone())
    };
    let (text, _) = states(first, tokenizer);
    let (text_2, pooled) = states(second, tokenizer_2);
    (Tensor::cat(vec![text, text_2], 2), pooled)
}

#[test]
fn stable_diffusion_xl_reads_150_tokens_with_both_encoders() {
    let pipeline = SDXL.pipeline();
    let (prompt, tokens) = long_prompt(SDXL, "a fox a a", 150);
    let (text, pooled) = xl_states(&pipeline, &tokens);
    let numbers = vec![64.0, 64.0, 0.0, 0.0, 64.0, 64.0];
    let told = |text: &Tensor<3>, pooled: &Tensor<2>| {
        UNetCondition::TextTime(TextTime {
            text: text.clone(),
            pooled: pooled.clone(),
            numbers: numbers.clone(),
        })
    };
    let expected = walked(SDXL, &pipeline, ("euler", 4), |_| {
        let unwanted = told(&text.zeros_like(), &pooled.zeros_like());
        (unwanted, vec![(1.0, told(&text, &pooled))])
    });
    let request = request(&prompt, "euler", 4).weights(Weights::A1111);
    let drawn = pipeline.generate(&request).expect("a picture");
    assert_same(&drawn, &expected);
    // An empty text in place of zeros is one chunk, beside the two of the prompt.
    let (text_0, pooled_0) = xl_states(&pipeline, &[320]);
    let (negative, _) = long_prompt(SDXL, "a", 1);
    let expected = walked(SDXL, &pipeline, ("euler", 4), |_| {
        (told(&text_0, &pooled_0), vec![(1.0, told(&text, &pooled))])
    });
    let request = request.negative_prompt(negative);
    assert_same(&pipeline.generate(&request).expect("a picture"), &expected);
}

#[test]
fn words_change_at_the_call_behind_their_step() {
    let pipeline = SD1.pipeline();
    let [fox, owl, empty] = ["a fox", "a owl", ""].map(|text| short(&pipeline, text));
    let tell = |second: bool| {
        let wanted = if second { owl.clone() } else { fox.clone() };
        let wanted = UNetCondition::Text(wanted);
        (UNetCondition::Text(empty.clone()), vec![(1.0, wanted)])
    };
    let drawn = |prompt: &str, sampler: &str| {
        let request = request(prompt, sampler, 6).weights(Weights::A1111);
        pipeline.generate(&request).expect("a picture")
    };
    // Step 2 is the last of the fox, and calls are counted from 0.
    let expected = walked(SD1, &pipeline, ("ddim", 6), |call| tell(call > 2));
    assert_same(&drawn("a [fox:owl:2]", "ddim"), &expected);
    assert_same(&drawn("a [fox:owl:0.34]", "ddim"), &expected);
    // Heun's method calls the network twice a step, and its steps count twice.
    let expected = walked(SD1, &pipeline, ("heun", 6), |call| tell(call > 6));
    assert_same(&drawn("a [fox:owl:0.5]", "heun"), &expected);
    // The first of those that take turns has the first two calls.
    let expected = walked(SD1, &pipeline, ("ddim", 6), |call| {
        tell(call.max(1) % 2 == 0)
    });
    assert_same(&drawn("a [fox|owl]", "ddim"), &expected);
}

#[test]
fn what_several_prompts_find_is_added_by_their_shares() {
    let pipeline = SD1.pipeline();
    let [fox, snow, rain] = ["a fox", " snow", "rain"].map(|text| short(&pipeline, text));
    let expected = walked(SD1, &pipeline, ("ddim", 4), |_| {
        let told = |states: &Tensor<3>| UNetCondition::Text(states.clone());
        (told(&rain), vec![(1.0, told(&fox)), (-0.4, told(&snow))])
    });
    let composed = request("a fox AND snow :-0.4", "ddim", 4)
        .negative_prompt("rain")
        .weights(Weights::A1111);
    let drawn = pipeline.generate(&composed).expect("a picture");
    assert_same(&drawn, &expected);
    // Two halves of one prompt are the prompt, whatever guidance and ControlNets do.
    let halves = "a fox :0.5 AND a fox :0.5";
    for request in [
        request(halves, "euler_a", 4),
        request(halves, "euler_a", 4).guidance(1.0),
        Request {
            guidance_rescale: 0.7,
            ..request(halves, "ddim", 4)
        },
    ] {
        let request = request.weights(Weights::A1111);
        let whole = Request {
            prompt: "a fox".into(),
            ..request.clone()
        };
        let whole = pipeline.generate(&whole).expect("a picture");
        let halves = pipeline.generate(&request).expect("a picture");
        assert_same(&halves, whole.latents.values());
    }
}

#[test]
fn a_controlnet_steers_prompts_of_different_lengths_as_it_steers_each() {
    for guess in [false, true] {
        let picture = Picture::filled(64, 64, [90, 20, 200]).expect("a picture");
        let control = Control {
            guess,
            ..Control::new(SD1.folder().join("../adapters/controlnet"), picture)
        };
        let builder = Pipeline::builder().device("cpu").precision(Precision::F32);
        let pipeline = builder.control(control).open(SD1.folder()).expect("opens");
        let drawn = |prompt: &str, negative: &str| {
            let request = request(prompt, "ddim", 3).negative_prompt(negative);
            let request = request.weights(Weights::A1111);
            pipeline.generate(&request).expect("a picture").latents
        };
        // A chunk that repeats another adds nothing that attention does not have already.
        let (once, twice) = (drawn("a fox", "rain"), drawn("a fox BREAK a fox", "rain"));
        assert!(
            furthest(twice.values(), once.values()) <= 1e-4,
            "guess: {guess}"
        );
        let halves = drawn("a fox :0.5 AND a fox BREAK a fox :0.5", "rain");
        assert!(halves.values().iter().all(|value| value.is_finite()));
    }
}

#[test]
fn weights_change_the_picture_by_the_rule_that_is_asked_for() {
    let pipeline = SD1.pipeline();
    let drawn = |prompt: &str, weights| {
        let request = request(prompt, "ddim", 3).weights(weights);
        pipeline.generate(&request).expect("a picture").latents
    };
    let plain = drawn("a red fox", Weights::A1111);
    let [a1111, comfyui] =
        [Weights::A1111, Weights::ComfyUi].map(|rule| drawn("a (red:1.6) fox", rule));
    for (one, other) in [(&plain, &a1111), (&plain, &comfyui), (&a1111, &comfyui)] {
        assert!(furthest(one.values(), other.values()) > 1e-4);
    }
    let read = Request {
        compat: Compat::A1111,
        generator: Some("torch".into()),
        ..request("a (red:1.6) fox", "ddim", 3).weights(Weights::None)
    };
    let ignored = pipeline.generate(&read).expect("a picture").latents;
    let segments = drawn("a (red:1.0) fox", Weights::A1111);
    assert_eq!(ignored, segments, "weights are read, and left out");
}

#[test]
fn a_second_pass_has_words_of_its_own_and_a_batch_those_of_each_picture() {
    let pipeline = SD1.pipeline();
    let request = |prompt: &str| {
        let hires = latent::Hires {
            steps: Some(2),
            ..latent::Hires::new(1.5)
        };
        let request = request(prompt, "ddim", 3).weights(Weights::A1111);
        request.hires(hires)
    };
    let drawn = |prompt: &str| {
        pipeline
            .generate(&request(prompt))
            .expect("a picture")
            .latents
    };
    // A share of 1.0 is the first step of the second pass; a number of steps goes on counting.
    assert_eq!(drawn("a [fox:owl:1.0]"), drawn("a [fox:owl:3]"));
    assert_ne!(drawn("a [fox:owl:1.0]"), drawn("a fox"));
    let both = request("a [fox|owl]").with_seeds([1, 2]);
    let both = pipeline.generate(&both).expect("pictures").latents;
    let half = both.values().len() / 2;
    for (k, seed) in [1, 2].into_iter().enumerate() {
        let alone = pipeline
            .generate(&request("a [fox|owl]").seed(seed))
            .expect("one");
        assert_eq!(
            &both.values()[k * half..(k + 1) * half],
            alone.latents.values()
        );
    }
}

#[test]
fn base_and_refiner_follow_one_schedule() {
    let pipeline = || {
        let refiner = Tiny("sdxl-refiner-tiny").pipeline();
        SDXL.pipeline().with_refiner(refiner).expect("they fit")
    };
    let drawn = |prompt: &str| {
        let request = Request {
            denoising_end: Some(0.5),
            ..request(prompt, "euler", 6).weights(Weights::A1111)
        };
        pipeline().generate(&request).expect("a picture").latents
    };
    // The base makes calls 0 to 2 of 6; what changes behind the last of them is the refiner's.
    let (fox, owl) = (drawn("a fox"), drawn("a owl"));
    let (late, early) = (drawn("a [fox:owl:0.99]"), drawn("a [fox:owl:2]"));
    assert_eq!(late, fox);
    assert!(early != fox && early != owl);
    assert_eq!(drawn("a [fox:owl:0]"), owl);
}

#[test]
fn pictures_of_a_comfyui_batch_come_from_one_seed_and_others_keep_theirs() {
    let pipeline = SD1.pipeline();
    let batch = request("a fox", "euler_ancestral", 3)
        .compat(Compat::ComfyUi)
        .count(2);
    let drawn = pipeline.generate(&batch).expect("pictures");
    assert_eq!(drawn.settings[1].seed, SEED);
    let text = drawn.settings[1].parameters();
    assert!(
        text.contains("RNG: ComfyUI, Compat: comfyui, Batch size: 2, Batch pos: 1"),
        "{text}"
    );
    let half = drawn.latents.values().len() / 2;
    let alone = request("a fox", "euler_ancestral", 3).compat(Compat::ComfyUi);
    let alone = pipeline.generate(&alone).expect("a picture");
    // 256 latents are whole blocks of torch's, so the first picture's noise does not know of the second.
    assert_eq!(&drawn.latents.values()[..half], alone.latents.values());
    assert_ne!(&drawn.latents.values()[half..], alone.latents.values());
    let a1111 = request("a fox", "Euler a", 3)
        .compat(Compat::A1111)
        .count(2);
    let drawn = pipeline.generate(&a1111).expect("pictures");
    assert_eq!(drawn.settings[1].seed, SEED + 1);
    let text = drawn.settings[1].parameters();
    assert!(
        text.contains("Schedule type: Uniform") && text.contains("RNG: NV"),
        "{text}"
    );
}

#[test]
fn prompts_that_cannot_be_read_are_refused() {
    let pipeline = SDXL.pipeline();
    let refused = |request: Request| pipeline.generate(&request).unwrap_err().to_string();
    let two = Request {
        prompt_2: "a cat".into(),
        ..request("a fox AND snow", "euler", 2).weights(Weights::A1111)
    };
    assert!(refused(two).contains("`prompt_2`"));
    let book = "fox ".repeat(9000);
    let error = refused(request(&book, "euler", 2).weights(Weights::A1111));
    assert!(
        error.contains("chunks of 75 tokens; at most 100"),
        "{error}"
    );
}
