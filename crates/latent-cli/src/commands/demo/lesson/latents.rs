//! What latents are: seen as pictures, and their numbers before and after scaling.

use latent::{Channel, Latents, Picture, Projection};
use latent_formats::{Plot, Series, psnr};

use super::{Gallery, grouped};
use crate::commands::demo::page::{Block, Both, Chapter, Figure, Image, both, same};
use crate::commands::demo::studio::{Drawn, Studio};
use crate::fault::Fault;

/// Latents that reach black or white on a tile, in standard deviations of what the U-Net is made for.
const RANGE: f32 = 3.0;
/// What decoded latents are multiplied by, to show a wrong factor.
const WRONG: [f32; 3] = [0.5, 1.0, 2.0];
/// Histograms go from minus this to this, in bars of a quarter.
const SPREAD: f64 = 12.0;
const BARS: usize = 96;

/// The map from latents to colours that the gallery's pictures give.
///
/// # Errors
/// When a picture cannot be scaled down to its latent.
pub(super) fn projection(gallery: &Gallery) -> Result<Projection, Fault> {
    let latents = stacked(&gallery.drawn);
    let pictures: Vec<Picture> = gallery
        .drawn
        .iter()
        .map(|drawn| drawn.picture.clone())
        .collect();
    Ok(Projection::fit(&latents, &pictures)?)
}

/// All latents of the gallery in one.
fn stacked(drawn: &[Drawn]) -> Latents {
    let [_, c, h, w] = drawn[0].latents.shape();
    let values: Vec<f32> = drawn
        .iter()
        .flat_map(|drawn| drawn.latents.values())
        .copied()
        .collect();
    Latents::new(values, [drawn.len(), c, h, w]).expect("pictures of one size")
}

fn plain(image: Image, caption: Both) -> Figure {
    Figure {
        image: [image.clone(), image],
        caption,
        command: None,
    }
}

/// Encoder and decoder, and a latent as pictures.
pub(super) fn a_picture_becomes_a_latent(
    studio: &mut Studio<'_>,
    gallery: &Gallery,
) -> Result<Chapter, Fault> {
    let picture = &gallery.drawn[0].picture;
    let latents = studio.pipeline.encode(picture)?;
    let projection = projection(gallery)?;
    let [text, about_tiles] = told(&projection, latents.shape()[1]);
    Ok(Chapter {
        id: "latents",
        title: both(
            "A picture becomes a latent, and a picture again",
            "그림이 잠재값이 되고, 다시 그림이 됩니다",
        ),
        blocks: vec![
            Block::Text(text),
            Block::Figures(there_and_back(studio, picture, &latents, &projection)?),
            Block::Text(about_tiles),
            Block::Figures(channels(studio, &latents)?),
        ],
    })
}

/// The picture, its latent as colours, and what the decoder makes of it.
fn there_and_back(
    studio: &mut Studio<'_>,
    picture: &Picture,
    latents: &Latents,
    projection: &Projection,
) -> Result<Vec<Figure>, Fault> {
    let colors = projection.pictures(latents)?.remove(0);
    let again = studio.pipeline.decode(latents)?.remove(0);
    let decibels = psnr(picture, &again)?;
    let count = grouped(latents.values().len());
    let command = |line: &str| Some(studio.with_model(line));
    let [there, back] = [
        command("latent encode picture.png -o z.safetensors"),
        command("latent decode z.safetensors -o again.png"),
    ];
    let original = plain(
        studio.keep("latents-picture", picture)?,
        both("the picture", "그림"),
    );
    let caption = both(
        format!("its latent as colours: {count} numbers"),
        format!("잠재값을 색으로: 숫자 {count}개"),
    );
    let small = Figure {
        command: there,
        ..plain(studio.keep_tile("latents-colours", &colors)?, caption)
    };
    let caption = both(
        format!("decoded again: {decibels:.1} dB"),
        format!("다시 디코딩한 그림: {decibels:.1} dB"),
    );
    let copy = Figure {
        command: back,
        ..plain(studio.keep("latents-again", &again)?, caption)
    };
    Ok(vec![original, small, copy])
}

/// Each channel as a tile.
fn channels(studio: &mut Studio<'_>, latents: &Latents) -> Result<Vec<Figure>, Fault> {
    let mut tiles = Vec::new();
    for (place, tile) in latents.tiles(RANGE)?.iter().enumerate() {
        let number = place + 1;
        let image = studio.keep_tile(format!("latents-channel-{number}"), tile)?;
        let caption = both(format!("channel {number}"), format!("채널 {number}"));
        tiles.push(plain(image, caption));
    }
    Ok(tiles)
}

fn told(projection: &Projection, channels: usize) -> [Both; 2] {
    let share = 100.0 * projection.explained();
    [
        both(
            "The autoencoder was trained before all else, on pictures alone: its encoder makes a picture small, its decoder \
             makes it large again, and both learn until little is lost. How little is said in decibels (PSNR): from 30 on \
             one has to look for the difference. Fine texture is lost first; nobody misses it, and the U-Net need not learn \
             it.",
            "오토인코더는 무엇보다 먼저, 그림만 가지고 학습합니다. 인코더는 그림을 작게 줄이고 디코더는 다시 크게 펴는데, 둘은 잃는 것이 \
             거의 없을 때까지 배웁니다. 얼마나 잃었는지는 데시벨(PSNR)로 말합니다. 30을 넘으면 차이를 일부러 찾아야 보입니다. 먼저 잃는 \
             것은 미세한 질감입니다. 없어도 알아채기 어렵고, U-Net이 배울 필요도 없습니다.",
        ),
        both(
            format!(
                "The {channels} channels as tiles, a square for each number: middle grey is 0, white {RANGE} and more, black \
                 -{RANGE} and less. The thing is there to be seen, since each number belongs to one place of the picture. The \
                 colours above are a weighted sum of the channels, fitted to the pictures of this page. Such a straight-line map \
                 already gives {share:.0} % of what the colours vary: the latent is for the most part a small picture, and the \
                 rest, edges and texture, only the decoder can read."
            ),
            format!(
                "채널 {channels}개를 타일로 본 것으로, 네모 하나가 숫자 하나입니다. 가운데 회색은 0, 흰색은 {RANGE} 이상, 검은색은 -{RANGE} \
                 이하입니다. 숫자마다 그림 속 제자리가 있어서 사물이 그대로 비쳐 보입니다. 위의 색은 채널들을 가중치로 더한 것으로, \
                 가중치는 이 페이지의 그림들에 맞추어 구했습니다. 이렇게 단순한 일차식만으로도 색이 달라지는 정도의 {share:.0} %를 설명합니다. \
                 잠재값은 대체로 작은 그림이고, 나머지인 윤곽과 질감은 디코더만이 읽을 수 있다는 뜻입니다."
            ),
        ),
    ]
}

/// Why latents are scaled, in numbers, and what a wrong factor does.
pub(super) fn the_scaling_factor(
    studio: &mut Studio<'_>,
    gallery: &Gallery,
) -> Result<Chapter, Fault> {
    let scaled = stacked(&gallery.drawn);
    let raw = studio.pipeline.unscaled(&scaled)?;
    let histogram = Figure {
        image: [
            studio.keep_whole(
                "scaling-en",
                &plotted(
                    &raw,
                    &scaled,
                    ["value", "share", "before", "after", "noise"],
                )?,
            )?,
            studio.keep_whole(
                "scaling-ko",
                &plotted(&raw, &scaled, ["값", "비율", "앞", "뒤", "잡음"])?,
            )?,
        ],
        caption: both(
            "how often each value occurs in the latents, before and after, and in the noise",
            "잠재값(앞과 뒤)과 잡음에서 각 값이 나오는 비율",
        ),
        command: None,
    };
    let mut figures = Vec::new();
    for (place, factor) in WRONG.into_iter().enumerate() {
        let latents = &gallery.drawn[0].latents;
        let values = latents
            .values()
            .iter()
            .map(|value| value * factor)
            .collect();
        let wrong = Latents::new(values, latents.shape()).expect("as many values");
        let picture = studio.pipeline.decode(&wrong)?.remove(0);
        let image = studio.keep(format!("scaling-{}", place + 1), &picture)?;
        figures.push(plain(image, same(format!("× {factor}"))));
    }
    let [why, rule, wrong] = explained(studio, &raw, &scaled);
    Ok(Chapter {
        id: "scaling",
        title: both(
            "What the scaling factor is for",
            "배율(scaling factor)은 왜 있을까요",
        ),
        blocks: vec![
            Block::Text(why),
            Block::Text(rule),
            table(&raw.channels(), &scaled.channels()),
            Block::Figures(vec![histogram]),
            Block::Text(wrong),
            Block::Figures(figures),
        ],
    })
}

/// The standard deviation over everything.
fn spread(latents: &Latents) -> f64 {
    let [n, c, h, w] = latents.shape();
    let whole = Latents::new(latents.values().to_vec(), [1, 1, n * c, h * w]);
    whole.map_or(0.0, |whole| whole.channels()[0].std)
}

fn explained(studio: &Studio<'_>, raw: &Latents, scaled: &Latents) -> [Both; 3] {
    let (before, after) = (spread(raw), spread(scaled));
    let scaling = studio.pipeline.autoencoder().scaling();
    let why = both(
        format!(
            "Nobody tells the encoder how large its numbers should be. Over the latents of this page their spread (standard \
             deviation) is {before:.2}. But the noise always has spread 1, and the schedule that mixes the two was made for \
             latents that have the same. Were they much larger, the picture would shine through even the last, noisiest step; \
             were they smaller, it would drown at once."
        ),
        format!(
            "인코더에게 숫자가 얼마나 커야 하는지는 아무도 일러 주지 않습니다. 이 페이지에 나온 잠재값들의 퍼짐(표준편차)은 {before:.2}입니다. 그런데 \
             잡음의 퍼짐은 언제나 1이고, 둘을 섞는 스케줄은 잠재값의 퍼짐도 그만하다고 여깁니다. 잠재값이 훨씬 크면 잡음이 가장 심한 \
             마지막 타임스텝에서도 그림이 비쳐 보이고, 훨씬 작으면 그림이 금세 잡음에 잠깁니다."
        ),
    );
    let rule = match &scaling.channels {
        Some(_) => both(
            format!(
                "So the mean of each channel is subtracted and the rest divided by its spread, both measured once over the \
                 training pictures. What the U-Net sees has spread {after:.2}; before decoding the same is undone."
            ),
            format!(
                "그래서 채널마다 평균을 빼고 퍼짐으로 나눕니다. 두 값은 학습 그림 전체에서 한 번 재어 둔 것입니다. U-Net이 보는 값의 퍼짐은 \
                 {after:.2}이고, 디코딩하기 전에 이를 되돌립니다."
            ),
        ),
        None => both(
            format!(
                "So latents are multiplied by one number, the scaling factor: one over the spread, measured once over the \
                 training pictures. Here it is {:.5} (in Stable Diffusion 1 it is 0.18215). What the U-Net sees has spread \
                 {after:.2}; before decoding it is divided out again. One number for all channels leaves some of them off 0, \
                 as the table shows; newer models keep mean and spread of each channel.",
                scaling.factor
            ),
            format!(
                "그래서 잠재값에 숫자 하나, 배율을 곱합니다. 학습 그림 전체에서 한 번 재어 둔 퍼짐의 역수입니다. 여기서는 \
                 {:.5}입니다(Stable Diffusion 1에서는 0.18215). U-Net이 보는 값의 퍼짐은 {after:.2}이고, 디코딩하기 전에 \
                 다시 나눕니다. 숫자 하나로는 표에서 보듯 0에서 벗어난 채널이 남습니다. 그래서 요즘 모델들은 채널마다 평균과 퍼짐을 따로 \
                 둡니다.",
                scaling.factor
            ),
        ),
    };
    let wrong = both(
        "The same latent decoded as if the factor had been wrong. This happens when a decoder is taken from another model and \
         its factor is not: pale pictures at half, glaring ones at twice.",
        "배율이 틀렸다면 같은 잠재값이 이렇게 디코딩됩니다. 다른 모델의 디코더를 가져오면서 그 배율을 빠뜨렸을 때 일어나는 일입니다. 절반이면 \
         그림이 흐릿해지고, 두 배면 지나치게 강해집니다.",
    );
    [why, rule, wrong]
}

fn table(before: &[Channel], after: &[Channel]) -> Block {
    let row = |(place, (before, after)): (usize, (&Channel, &Channel))| {
        let numbers = [before.mean, before.std, after.mean, after.std];
        let numbers = numbers.map(|number| format!("{number:.2}"));
        std::iter::once((place + 1).to_string())
            .chain(numbers)
            .collect()
    };
    Block::Table {
        head: vec![
            both("channel", "채널"),
            both("mean before", "앞: 평균"),
            both("spread before", "앞: 퍼짐"),
            both("mean after", "뒤: 평균"),
            both("spread after", "뒤: 퍼짐"),
        ],
        rows: before.iter().zip(after).enumerate().map(row).collect(),
    }
}

/// The values of latents before and after scaling, and those of the noise; `words` are those on the plot.
fn plotted(raw: &Latents, scaled: &Latents, words: [&str; 5]) -> Result<Picture, Fault> {
    let [value, share, before, after, noise] = words;
    let series = |name: &str, points| Series {
        name: name.into(),
        points,
    };
    let bell = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let scaled = scaled.histogram(SPREAD, BARS);
    let normal = scaled.iter().map(|&(x, _)| (x, bell(x))).collect();
    let plot = Plot {
        x_label: value.into(),
        y_label: share.into(),
        series: vec![
            series(before, raw.histogram(SPREAD, BARS)),
            series(after, scaled),
            series(noise, normal),
        ],
        ..Plot::default()
    };
    Ok(plot.draw(720, 320)?)
}
