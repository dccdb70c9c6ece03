//! From words to pictures: what the model draws, in both languages.

use super::{Gallery, grouped};
use crate::commands::demo::gallery::pairs;
use crate::commands::demo::page::{Block, Both, Chapter, Language, both, same};
use crate::commands::demo::studio::Studio;
use crate::fault::Fault;

/// The first chapter, and its pictures for the later ones.
pub(super) fn from_words(studio: &mut Studio<'_>) -> Result<(Chapter, Gallery), Fault> {
    let pairs = pairs(studio);
    let (mut rows, mut drawn) = (Vec::new(), Vec::new());
    for language in Language::ALL {
        let mut figures = Vec::new();
        for (place, pair) in pairs.iter().enumerate() {
            let prompt = pair.prompt(language);
            let request = studio.request(prompt, pair.seed);
            let mut picture = studio.draw(&request)?;
            if !drawn.is_empty() {
                // The steps of one run are enough for the lesson, and those of a large model fill memory.
                picture.moments.clear();
            }
            let name = format!("words-{}-{}", language.tag(), place + 1);
            figures.push(studio.figure_of(name, &picture, &request, same(prompt))?);
            drawn.push(picture);
        }
        rows.push(Block::Figures(figures));
    }
    let mut blocks = vec![Block::Text(networks()), Block::Text(sizes(studio))];
    blocks.extend(rows);
    let chapter = Chapter {
        id: "words",
        title: both("From words to a picture", "글에서 그림으로"),
        blocks,
    };
    let first = &pairs[0];
    let gallery = Gallery {
        drawn,
        subject: first.prompt(Language::English).to_owned(),
        seed: first.seed,
        living: pairs[pairs.len().min(2) - 1]
            .prompt(Language::English)
            .to_owned(),
    };
    Ok((chapter, gallery))
}

fn networks() -> Both {
    both(
        "Three networks work together. The text encoder turns the words into a table of numbers, a row for each piece of a \
         word. The U-Net begins with pure noise and takes noise away, step by step, and looks at that table while it does. \
         What it cleans is no picture but a latent: a small stack of numbers. The decoder of the autoencoder turns the \
         finished latent into pixels, once, at the end.",
        "세 신경망이 함께 일합니다. 텍스트 인코더는 글을 숫자 표로 바꿉니다. 글의 조각마다 한 줄씩입니다. U-Net은 순수한 잡음에서 \
         시작해 한 걸음씩 잡음을 걷어 내며, 그동안 이 표를 들여다봅니다. U-Net이 다듬는 것은 그림이 아니라 작은 숫자 더미인 \
         잠재값(latent)입니다. 다 된 잠재값은 오토인코더의 디코더가 맨 마지막에 한 번, 픽셀로 바꿉니다.",
    )
}

fn sizes(studio: &Studio<'_>) -> Both {
    let pipeline = studio.pipeline;
    let [height, width] = pipeline.size();
    let factor = pipeline.downsampling();
    let (rows, columns) = (height / factor, width / factor);
    let channels = pipeline.autoencoder().latent_channels();
    let (pixels, latents) = (3 * height * width, channels * rows * columns);
    let tokens = pipeline
        .tokenizer()
        .map_or(0, |tokenizer| tokenizer.length() - 2);
    let (many, few) = (grouped(pixels), grouped(latents));
    both(
        format!(
            "This model reads up to {tokens} pieces of words. A picture of {width}×{height} pixels has 3 × {height} × {width} = \
             {many} numbers; its latent has {channels} × {rows} × {columns} = {few}, {:.0} times fewer. All the steps are done \
             on those few: that is why latent diffusion is quick.",
            pixels as f64 / latents as f64
        ),
        format!(
            "이 모델은 글을 {tokens}조각까지 읽습니다. {width}×{height} 그림에는 숫자가 3 × {height} × {width} = {many}개 있지만, 그 잠재값에는 \
             {channels} × {rows} × {columns} = {few}개, 곧 {:.0}분의 1밖에 없습니다. 모든 걸음은 이 적은 숫자 위에서 이루어집니다. 잠재 \
             확산이 빠른 까닭입니다.",
            pixels as f64 / latents as f64
        ),
    )
}
