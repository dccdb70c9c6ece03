//! Chunks and weights of prompts against their published rules (`tools/make_prompt_values.py`), and strings of all kinds.

mod common;

use std::path::{Path, PathBuf};

use common::fixture;
use latent_models::{
    Chunk, ChunkStates, ClipTokenizer, Clock, Grammar, Part, Schedule, Weights, split_prompts,
};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Values {
    arithmetic: Arithmetic,
    chunks: Vec<Case>,
}

#[derive(Deserialize)]
struct Arithmetic {
    tokens: usize,
    counts: Vec<usize>,
    weights: Vec<Vec<f32>>,
    states: Vec<Vec<f32>>,
    empty: Vec<f32>,
    a1111: Vec<Vec<f32>>,
    a1111_alone: Vec<Vec<f32>>,
    comfyui: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct Case {
    prompt: String,
    grammar: String,
    ids: Vec<Vec<u32>>,
    /// Runs of one weight with their lengths.
    weights: Vec<Vec<(f32, usize)>>,
}

fn values() -> Values {
    serde_json::from_slice(&std::fs::read(fixture("prompts.json")).unwrap()).unwrap()
}

/// CLIP's own vocabulary, which the program carries.
fn clip() -> ClipTokenizer {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/sd1/tokenizer");
    ClipTokenizer::open(&path, 77).unwrap()
}

#[test]
fn long_prompts_are_cut_where_a1111_and_comfyui_cut_them() {
    let (tokenizer, cases) = (clip(), values().chunks);
    assert_eq!(cases.len(), 21);
    for case in cases {
        let grammar = match &case.grammar[..] {
            "a1111" => Grammar::A1111,
            _ => Grammar::ComfyUi,
        };
        let found = tokenizer.chunks(grammar, &case.prompt);
        let place = format!("{}: {:?}", case.grammar, case.prompt);
        assert_eq!(found.len(), case.ids.len(), "{place}");
        for ((chunk, ids), weights) in found.iter().zip(&case.ids).zip(&case.weights) {
            let mut padded = vec![49406];
            padded.extend(ids);
            padded.resize(77, 49407);
            assert_eq!(chunk.ids, padded, "{place}");
            let runs = weights
                .iter()
                .flat_map(|(weight, count)| std::iter::repeat_n(*weight, *count));
            let mut expected: Vec<f32> = [1.0].into_iter().chain(runs).collect();
            expected.resize(77, 1.0);
            assert_eq!(chunk.weights, expected, "{place}");
            assert_eq!(chunk.pieces.len(), ids.len(), "{place}");
        }
    }
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let off = (found - expected).abs();
        assert!(
            off <= 2e-6 * expected.abs().max(1.0),
            "{what}: {found} is not {expected}"
        );
    }
}

#[test]
fn weights_change_states_by_each_programs_formula() {
    let values = values().arithmetic;
    let batch = || -> Vec<ChunkStates> {
        let each = values
            .states
            .iter()
            .zip(&values.weights)
            .zip(&values.counts);
        each.map(|((states, weights), count)| ChunkStates {
            states: states.clone(),
            weights: weights.clone(),
            count: *count,
        })
        .collect()
    };
    assert!(values.weights.iter().all(|one| one.len() == values.tokens));
    let mut found = batch();
    Weights::A1111.apply(&mut found, &[]);
    for (found, expected) in found.iter().zip(&values.a1111) {
        assert_near(&found.states, expected, "A1111, of a batch");
    }
    for (chunk, expected) in batch().into_iter().zip(&values.a1111_alone) {
        let mut alone = [chunk];
        Weights::A1111.apply(&mut alone, &[]);
        assert_near(&alone[0].states, expected, "A1111, alone");
    }
    let mut found = batch();
    Weights::ComfyUi.apply(&mut found, &values.empty);
    for (found, expected) in found.iter().zip(&values.comfyui) {
        assert_near(&found.states, expected, "ComfyUI");
    }
    let mut found = batch();
    Weights::None.apply(&mut found, &[]);
    assert_eq!(found, batch());
}

#[test]
fn weights_that_leave_nothing_leave_zeros() {
    let mut chunk = [ChunkStates {
        states: vec![1.0, 2.0, 3.0, 4.0],
        weights: vec![0.0, 0.0],
        count: 1,
    }];
    Weights::A1111.apply(&mut chunk, &[]);
    assert_eq!(chunk[0].states, [0.0; 4]);
}

#[test]
fn the_vectors_of_an_embedding_are_never_torn_apart() {
    let tokenizer = clip().with_word("<style>", 4).unwrap();
    let before = "word ".repeat(73);
    let (first, last) = (49408, 49411);
    for (grammar, prompt) in [
        (Grammar::A1111, format!("{before}<style> word")),
        (Grammar::ComfyUi, format!("{before}embedding:<style> word")),
        (Grammar::ComfyUi, format!("{before}(<style>:1.2) word")),
    ] {
        let chunks = tokenizer.chunks(grammar, &prompt);
        assert_eq!(chunks.len(), 2, "{prompt}");
        assert_eq!(chunks[0].pieces.len(), 73, "{prompt}");
        assert_eq!(
            chunks[1].ids[1..=5],
            [first, 49409, 49410, last, 2653],
            "{prompt}"
        );
    }
    // One that no chunk holds goes on in the next.
    let long = clip().with_word("<book>", 80).unwrap();
    let chunks = long.chunks(Grammar::A1111, "a <book>");
    let lengths: Vec<usize> = chunks.iter().map(|chunk| chunk.pieces.len()).collect();
    assert_eq!(lengths, [1, 75, 5]);
    // Another's name is text.
    let chunks = tokenizer.chunks(Grammar::ComfyUi, "embedding:other");
    assert!(chunks[0].pieces.len() > 2);
}

#[test]
fn a_second_vocabulary_pads_its_chunks_as_its_files_say() {
    let tokenizer = ClipTokenizer::open(&fixture("sd2-tiny/tokenizer"), 8).unwrap();
    let chunks = tokenizer.chunks(Grammar::A1111, "a BREAK b");
    let ids: Vec<&[u32]> = chunks.iter().map(|chunk| &chunk.ids[..]).collect();
    assert_eq!(
        ids,
        [
            [712, 320, 713, 0, 0, 0, 0, 0],
            [712, 321, 713, 0, 0, 0, 0, 0]
        ]
    );
    assert_eq!(tokenizer.empty_chunk().ids, [712, 713, 0, 0, 0, 0, 0, 0]);
}

/// Letters, every mark of the grammars, and what lies near them.
fn any_prompt() -> impl Strategy<Value = String> {
    let mark = prop_oneof![
        Just("(".to_owned()),
        Just(")".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just(":".to_owned()),
        Just("|".to_owned()),
        Just("\\".to_owned()),
        Just(",".to_owned()),
        Just(" ".to_owned()),
        Just(":1.2)".to_owned()),
        Just(":0.5]".to_owned()),
        Just("BREAK".to_owned()),
        Just(" AND ".to_owned()),
        Just("embedding:<x>".to_owned()),
        Just("<|endoftext|>".to_owned()),
        "[0-9.+eE-]{1,4}",
        "\\PC{1,3}",
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(mark, 0..60).prop_map(|marks| marks.concat())
}

fn whole(chunk: &Chunk, length: usize) -> bool {
    chunk.ids.len() == length
        && chunk.weights.len() == length
        && chunk.pieces.len() <= length - 2
        && chunk.weights.iter().all(|weight| weight.is_finite())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_string_ends_the_program_or_loses_a_token(text in any_prompt(), steps in 1_usize..60) {
        let small = ClipTokenizer::open(&fixture("sd1-tiny/tokenizer"), 9).unwrap();
        let small = small.with_word("<x>", 3).unwrap();
        for prompt in split_prompts(&text) {
            prop_assert!(prompt.share.is_finite());
            let schedule = Schedule::read(&prompt.text);
            for clock in [Clock::of(steps), Clock { steps, first_pass: Some(7) }] {
                let stages = schedule.stages(&clock);
                prop_assert_eq!(stages.last(), Some(&steps));
                for end in stages {
                    prop_assert!(schedule.text_at(end, &clock).len() <= prompt.text.len());
                }
            }
        }
        for grammar in [Grammar::Literal, Grammar::A1111, Grammar::ComfyUi] {
            let chunks = small.chunks(grammar, &text);
            prop_assert!(!chunks.is_empty());
            prop_assert!(chunks.iter().all(|chunk| whole(chunk, 9)));
            if grammar == Grammar::A1111 {
                let found = chunks.iter().flat_map(|chunk| chunk.pieces.clone());
                let parts = grammar.parts(&text).into_iter();
                let texts = parts.filter_map(|part| match part {
                    Part::Text { text, .. } => Some(text),
                    Part::Break => None,
                });
                let long = ClipTokenizer::open(&fixture("sd1-tiny/tokenizer"), 4096).unwrap();
                let long = long.with_word("<x>", 3).unwrap();
                let expected: Vec<String> = texts.flat_map(|text| long.encode(&text).pieces).collect();
                prop_assert_eq!(found.collect::<Vec<_>>(), expected);
            }
        }
    }
}
