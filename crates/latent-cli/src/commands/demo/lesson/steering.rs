//! How the words steer: guidance, and the negative prompt.

use super::Gallery;
use crate::commands::demo::page::{Block, Chapter, both};
use crate::commands::demo::studio::Studio;
use crate::fault::Fault;

/// Strengths of guidance that are shown.
const STRENGTHS: [f32; 4] = [1.0, 2.0, 4.0, 8.0];
/// Wishes of which something can be unwished.
const UNWISHED: &[(&str, &str)] = &[
    ("an apple, 3d style", "red"),
    ("a butterfly, flat style", "orange"),
    ("a fish, cartoon style", "blue"),
];

/// The same seed with guidance of several strengths.
pub(super) fn guidance(studio: &mut Studio<'_>, gallery: &Gallery) -> Result<Chapter, Fault> {
    let mut rows = Vec::new();
    let seeds = [gallery.seed, gallery.seed + 1];
    for seed in seeds.into_iter().take(studio.few(1, 2)) {
        let mut figures = Vec::new();
        for strength in STRENGTHS {
            let request = studio.request(&gallery.subject, seed).guidance(strength);
            let caption = both(
                format!("guidance {strength}, seed {seed}"),
                format!("가이던스 {strength}, 시드 {seed}"),
            );
            figures.push(studio.figure(
                format!("guidance-{strength}-seed-{seed}"),
                &request,
                caption,
            )?);
        }
        rows.push(Block::Figures(figures));
    }
    let usual = studio.pipeline.defaults().guidance;
    let mut blocks = vec![
        Block::Text(both(
            "At each step the U-Net is asked twice: with the words, and without any. What the words change is the difference \
             of the two answers, and guidance goes further that way than the words alone would lead:",
            "걸음마다 U-Net에게 두 번 묻습니다. 한 번은 글을 보여 주고, 한 번은 글 없이. 글이 무엇을 바꾸는지는 두 답의 차이에 있습니다. \
             가이던스는 그쪽으로, 글만 따를 때보다 더 멀리 갑니다.",
        )),
        Block::Formula("answer = without + g · (with − without)".to_owned()),
        Block::Text(both(
            format!(
                "With g = 1 the answer is that with the words, as it was learned, and the second question is spared, so a picture \
                 takes half the time. More guidance follows the words more strictly and makes clearer forms; too much makes \
                 glaring colours, hard edges, and pictures that are all alike. This model's own strength is {usual}. The noise is \
                 the same in each row."
            ),
            format!(
                "g = 1이면 배운 그대로, 글을 보여 주었을 때의 답을 씁니다. 두 번째 질문이 필요 없어 시간도 절반입니다. 가이던스가 커지면 글을 더 \
                 엄격히 따르고 형태가 또렷해집니다. 지나치면 색이 튀고 윤곽이 거칠어지며 그림이 다 비슷해집니다. 이 모델이 평소에 쓰는 값은 \
                 {usual}입니다. 한 줄에 있는 그림들은 같은 잡음에서 출발했습니다."
            ),
        )),
    ];
    blocks.extend(rows);
    Ok(Chapter {
        id: "guidance",
        title: both("What guidance does", "가이던스가 하는 일"),
        blocks,
    })
}

/// The same seeds with and without something unwished.
pub(super) fn negative_prompt(
    studio: &mut Studio<'_>,
    gallery: &Gallery,
) -> Result<Chapter, Fault> {
    let known = UNWISHED
        .iter()
        .find(|(prompt, negative)| studio.knows(prompt) && studio.knows(negative));
    let (prompt, negative) = known.copied().unwrap_or((&gallery.subject, "red"));
    let [mut without, mut with] = [Vec::new(), Vec::new()];
    for seed in 1..=studio.few(1, 4) as u64 {
        let request = studio.request(prompt, seed);
        let caption = both(format!("seed {seed}"), format!("시드 {seed}"));
        without.push(studio.figure(format!("negative-without-{seed}"), &request, caption)?);
        let request = request.negative_prompt(negative);
        let caption = both(format!("not: {negative}"), format!("빼고: {negative}"));
        with.push(studio.figure(format!("negative-with-{seed}"), &request, caption)?);
    }
    Ok(Chapter {
        id: "negative",
        title: both("What a negative prompt does", "네거티브 프롬프트가 하는 일"),
        blocks: vec![
            Block::Text(both(
                "The second question of guidance need not be asked without words: a negative prompt takes that place. The way then \
                 leads from what is not wanted to what is, so that thing is avoided more than by leaving it unsaid. Without guidance \
                 (g = 1) nobody asks the second question, and a negative prompt does nothing.",
                "가이던스의 두 번째 질문을 꼭 글 없이 할 필요는 없습니다. 네거티브 프롬프트가 그 자리에 들어갑니다. 그러면 원하지 않는 것에서 \
                 원하는 것 쪽으로 길이 나므로, 말하지 않기만 했을 때보다 더 확실히 그것을 피합니다. 가이던스가 없으면(g = 1) 두 번째 질문도 \
                 없으니 네거티브 프롬프트는 아무 일도 하지 않습니다.",
            )),
            Block::Figures(without),
            Block::Figures(with),
        ],
    })
}
