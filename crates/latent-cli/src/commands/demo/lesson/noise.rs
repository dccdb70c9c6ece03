//! From noise to a picture: the steps, what the seed decides, and what lies between two seeds.

use latent::sampling::Prediction;

use super::{Gallery, latents};
use crate::commands::demo::page::{Block, Both, Chapter, Figure, Image, both, same};
use crate::commands::demo::studio::Studio;
use crate::fault::Fault;

/// Steps of a run that are shown, and in a quick demo.
const SHOWN: usize = 8;
const QUICK: usize = 3;
/// Seeds that are shown.
const SEEDS: usize = 6;
/// How far from the first seed's noise to the second's.
const SHARES: [f64; 6] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0];

/// A run, step by step: the estimate of the picture, and the noisy latent.
pub(super) fn step_by_step(studio: &mut Studio<'_>, gallery: &Gallery) -> Result<Chapter, Fault> {
    let projection = latents::projection(gallery)?;
    let moments = &gallery.drawn[0].moments;
    let total = moments.len();
    let (mut estimates, mut noisy) = (Vec::new(), Vec::new());
    for place in spaced(total, studio.few(QUICK, SHOWN)) {
        let (moment, number) = (&moments[place], place + 1);
        let estimate = studio.pipeline.decode(&moment.denoised)?.remove(0);
        let colors = projection.pictures(&moment.latents)?.remove(0);
        let t = moment.timestep.round();
        let figure = |image: Image, caption: Both| Figure {
            image: [image.clone(), image],
            caption,
            command: None,
        };
        let caption = both(
            format!("step {number} of {total}, t = {t}"),
            format!("{total}걸음 중 {number}걸음, t = {t}"),
        );
        estimates.push(figure(
            studio.keep(format!("steps-estimate-{number}"), &estimate)?,
            caption,
        ));
        let caption = both(format!("after step {number}"), format!("{number}걸음 뒤"));
        noisy.push(figure(
            studio.keep_tile(format!("steps-latent-{number}"), &colors)?,
            caption,
        ));
    }
    let flow = studio.pipeline.scheduler().settings().prediction_type == Prediction::Flow;
    let mixture = if flow {
        "x = (1 − t) · latent + t · noise"
    } else {
        "x = √ᾱ · latent + √(1 − ᾱ) · noise"
    };
    let request = studio.request(&gallery.subject, gallery.seed);
    let [how, estimate, latent] = told(&format!("{} --preview", studio.command(&request)), flow);
    Ok(Chapter {
        id: "steps",
        title: both(
            "How a picture forms, step by step",
            "그림이 한 걸음씩 생겨나는 모습",
        ),
        blocks: vec![
            Block::Text(how),
            Block::Formula(mixture.to_owned()),
            Block::Text(estimate),
            Block::Figures(estimates),
            Block::Text(latent),
            Block::Figures(noisy),
        ],
    })
}

fn told(command: &str, flow: bool) -> [Both; 3] {
    let (share_en, share_ko) = if flow {
        (
            "Here t goes from 0 to 1, a thousandth of the numbers below the pictures.",
            "여기서 t는 0에서 1까지이며, 그림 아래에 적힌 수의 천분의 1입니다.",
        )
    } else {
        (
            "ᾱ, the share of the latent that is left, falls from 1 to 0 as t grows.",
            "ᾱ는 남아 있는 잠재값의 몫으로, t가 커질수록 1에서 0으로 내려갑니다.",
        )
    };
    [
        both(
            "In training, noise was mixed into the latents of pictures, a little at small timesteps t and nothing but noise at \
             the largest, and the U-Net learned to tell the two apart. Drawing goes the other way: it starts at the largest t \
             with noise that the seed gives.",
            "학습할 때는 그림의 잠재값에 잡음을 섞었습니다. 타임스텝 t가 작으면 조금만, 가장 크면 온통 잡음뿐입니다. U-Net은 그 둘을 \
             가려내는 법을 배웠습니다. 그릴 때는 거꾸로 갑니다. 시드가 주는 잡음을 가지고 가장 큰 t에서 시작합니다.",
        ),
        both(
            format!(
                "{share_en} At each step the U-Net's answer gives an estimate of the finished latent, as if all noise could be taken away at \
                 once. Here it is decoded. At first it is coarse: nearly the mean of all pictures that are still possible, which \
                 guidance makes glaring. Form and colour are decided early, detail late. The sampler trusts the estimate only for \
                 a small way and then asks again. \
                 `{command}` shows the same while it draws."
            ),
            format!(
                "{share_ko} 걸음마다 U-Net의 답에서, 잡음을 한꺼번에 다 걷어 낸다면 나올 잠재값의 추정이 나옵니다. 아래는 그것을 디코딩한 것입니다. \
                 처음에는 거칩니다. 아직 가능한 모든 그림의 평균에 가까운 것을 가이던스가 진하게 만들기 때문입니다. 형태와 색은 일찍, 세부는 늦게 정해집니다. 샘플러는 이 \
                 추정을 조금만 믿고 나아간 뒤 다시 묻습니다. `{command}`는 그리는 동안 이 모습을 보여 줍니다."
            ),
        ),
        both(
            "The latent itself, which still has its noise, as colours by the map of the chapter on latents: what the U-Net is \
             given at the next step.",
            "아직 잡음이 섞여 있는 잠재값 자체를, 잠재값 장에서 구한 일차식으로 색을 입혀 본 것입니다. 다음 걸음에서 U-Net이 받는 값입니다.",
        ),
    ]
}

/// `most` places from the first to the last of `total`, evenly.
fn spaced(total: usize, most: usize) -> Vec<usize> {
    let most = most.min(total);
    match most {
        0 | 1 => (0..most).collect(),
        _ => (0..most)
            .map(|k| (k * (total - 1) + (most - 1) / 2) / (most - 1))
            .collect(),
    }
}

/// The same words with other noise.
pub(super) fn seeds(studio: &mut Studio<'_>, gallery: &Gallery) -> Result<Chapter, Fault> {
    let mut figures = Vec::new();
    for seed in 1..=studio.few(2, SEEDS) as u64 {
        let request = studio.request(&gallery.living, seed);
        let caption = both(format!("seed {seed}"), format!("시드 {seed}"));
        figures.push(studio.figure(format!("seeds-{seed}"), &request, caption)?);
    }
    Ok(Chapter {
        id: "seeds",
        title: both("What the seed decides", "시드가 정하는 것"),
        blocks: vec![
            Block::Text(both(
                "The seed gives the noise that a run starts from, and nothing else. Everything after that is arithmetic, so the \
                 same seed, words and settings give the same picture. The words say what; the noise decides which of all such \
                 pictures it becomes: where a light falls, which way a thing turns. The numbers are those of PyTorch's generator, \
                 so other programs start from the same noise.",
                "시드는 출발점이 되는 잡음을 줄 뿐, 그 밖에는 아무 일도 하지 않습니다. 그다음은 모두 계산이므로 시드와 글과 설정이 같으면 \
                 그림도 같습니다. 글은 무엇을 그릴지 말하고, 잡음은 그런 그림 가운데 어느 것이 될지 정합니다. 빛이 어디에 떨어지는지, 사물이 \
                 어느 쪽을 보는지 같은 것들입니다. 난수는 PyTorch의 생성기와 같아서, 다른 프로그램도 같은 잡음에서 출발합니다.",
            )),
            Block::Figures(figures),
        ],
    })
}

/// Pictures between those of two seeds.
pub(super) fn between(studio: &mut Studio<'_>, gallery: &Gallery) -> Result<Chapter, Fault> {
    let (from, to) = (gallery.seed, gallery.seed + 1);
    let shown = spaced(SHARES.len(), studio.few(QUICK, SHARES.len()));
    let mut figures = Vec::new();
    for (number, share) in shown.into_iter().map(|place| SHARES[place]).enumerate() {
        let mut request = studio.request(&gallery.living, from);
        if share > 0.0 {
            request = request.variation(to, share);
        }
        figures.push(studio.figure(
            format!("between-{}", number + 1),
            &request,
            same(format!("{share}")),
        )?);
    }
    Ok(Chapter {
        id: "between",
        title: both("Between two seeds", "두 시드의 사이"),
        blocks: vec![
            Block::Text(both(
                format!(
                    "One can walk from the noise of seed {from} to that of seed {to}. Straight on would not do: half of the one plus \
                     half of the other has a spread of only 0.71, and the U-Net expects 1. So the way goes round, as on a sphere:"
                ),
                format!(
                    "시드 {from}의 잡음에서 시드 {to}의 잡음으로 걸어갈 수 있습니다. 곧장 가서는 안 됩니다. 둘을 반씩 더하면 퍼짐이 0.71밖에 되지 \
                     않는데 U-Net은 1을 기대하기 때문입니다. 그래서 구면을 따라 돌아갑니다(구면 선형 보간)."
                ),
            )),
            Block::Formula("noise = sin((1 − s)θ) / sin θ · a + sin(sθ) / sin θ · b".to_owned()),
            Block::Text(both(
                "θ is the angle between the two noises a and b, and s the share of the way. Nearby noise gives a nearby picture, so \
                 the picture changes little by little, and here and there it jumps.",
                "θ는 두 잡음 a와 b 사이의 각이고, s는 그 길의 얼마를 갔는지입니다. 가까운 잡음에서는 가까운 그림이 나오므로 그림은 조금씩 \
                 바뀌다가 군데군데에서 훌쩍 바뀝니다.",
            )),
            Block::Figures(figures),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_steps_go_from_the_first_to_the_last() {
        assert_eq!(spaced(20, 8), [0, 3, 5, 8, 11, 14, 16, 19]);
        assert_eq!(spaced(4, 8), [0, 1, 2, 3]);
        assert_eq!(spaced(4, 3), [0, 2, 3]);
        assert_eq!((spaced(1, 8), spaced(0, 8)), (vec![0], vec![]));
    }
}
