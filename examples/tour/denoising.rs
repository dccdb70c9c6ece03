//! Noise to picture: the same walk with two samplers, watched at every step.

use std::path::Path;

use latent::sampling::{
    Denoiser, Latents as Array, NoiseSchedule, RunOptions, SchedulerConfig, Start, StepReport,
    Stopped, TorchGenerator, find, sample,
};
use latent::{Latents, Pipeline};
use latent_examples::Guided;
use latent_formats::Sheet;

use crate::Result;
use crate::guide::{FOLDER, Guide, spread};

const STEPS: usize = 20;
const SEED: u64 = 7;
/// Every how many steps the present estimate is kept for the sheet.
const KEPT: usize = 3;

/// Chapters 5 and 6: from the same noise to a picture, by DDIM and by DPM-Solver++.
pub(crate) fn noise_to_pictures(
    guide: &Guide,
    pipeline: &Pipeline,
    config: &SchedulerConfig,
    schedule: &NoiseSchedule,
) -> Result<()> {
    let words = guide.pick("a red apple, 3d style", "빨간 사과, 3D 스타일");
    let walk = Walk {
        guide,
        pipeline,
        config,
        schedule,
        words,
    };
    explain_ddim(guide, &Guided::new(pipeline, words)?, words);
    let ddim = walk.draw("ddim", "3-ddim")?;

    explain_dpm_solver(guide);
    let dpm_solver = walk.draw("dpmpp_2m_karras", "4-dpm-solver")?;
    if schedule.alpha_bar(schedule.len() - 1) < 1e-6 {
        remark_pure_noise(guide);
    }

    let apart: Vec<f32> = ddim
        .values()
        .iter()
        .zip(dpm_solver.values())
        .map(|(a, b)| a - b)
        .collect();
    let share = 100.0 * spread(&apart) / spread(ddim.values());
    guide.say(
        &format!(
            "Same noise, same words, same network: the two latents differ by {share:.0} % of their spread. Both \
             samplers follow the same curve, each with its own error; with more steps they come together."
        ),
        &format!(
            "잡음도, 글도, 신경망도 같습니다. 두 잠재값의 차이는 그 퍼짐의 {share:.0} %입니다. 두 샘플러는 같은 곡선을 저마다의 오차를 \
             안고 따라가며, 걸음을 늘릴수록 서로 가까워집니다."
        ),
    );
    Ok(())
}

fn explain_ddim(guide: &Guide, network: &Guided<'_>, words: &str) {
    let strength = network.strength();
    guide.chapter(
        "5. Noise becomes a picture: DDIM",
        "5. 잡음이 그림이 됩니다: DDIM",
    );
    guide.say(
        &format!(
            "The words \"{words}\" were turned into states that the U-Net's attention looks at. Each step asks the U-Net \
             twice, with the words and without, and goes {strength} times the way between the two answers: that is \
             guidance. The answer splits x into an estimate of the clean latent and the noise. DDIM mixes the two \
             again, with less noise: x = √ᾱ' · clean + √(1-ᾱ') · noise, where ᾱ' belongs to the next timestep."
        ),
        &format!(
            "글 \"{words}\"은 텍스트 인코더를 거쳐 U-Net의 어텐션이 들여다보는 값이 되었습니다. 한 걸음마다 U-Net에게 두 번, 글을 보여 주며 \
             한 번, 글 없이 한 번 물어, 두 답 사이의 길을 {strength}배만큼 갑니다. 이것이 가이던스입니다. 이 답으로 x를 깨끗한 잠재값의 추정과 \
             잡음으로 나눌 수 있습니다. DDIM은 그 둘을 잡음만 줄여 다시 섞습니다: x = √ᾱ' · 깨끗한 값 + √(1-ᾱ') · 잡음. ᾱ'는 다음 타임스텝의 \
             것입니다."
        ),
    );
    guide.say(
        "std(x) is the spread of the latents after the step, std(clean) that of the estimate. The estimate begins as an \
         average of everything it could become, hence with little spread, and grows as the choice is made.",
        "std(x)는 걸음을 뗀 뒤 잠재값의 퍼짐이고, std(clean)은 깨끗한 값의 추정의 퍼짐입니다. 추정은 될 수 있는 모든 그림의 평균에서 \
         시작하므로 처음에는 퍼짐이 작고, 무엇을 그릴지 정해질수록 커집니다.",
    );
}

fn explain_dpm_solver(guide: &Guide) {
    guide.chapter(
        "6. The same noise with DPM-Solver++",
        "6. 같은 잡음을 DPM-Solver++로",
    );
    guide.say(
        "The way from noise to picture is a curve, and DDIM goes along it in straight pieces. DPM-Solver++ 2M remembers \
         the estimate of the step before and leans its step towards where the estimate is moving, at no further call to \
         the network. Karras' spacing (`dpmpp_2m_karras`) puts the levels of noise closer together where little noise is \
         left and detail is decided.",
        "잡음에서 그림으로 가는 길은 곡선인데, DDIM은 그것을 곧은 토막으로 따라갑니다. DPM-Solver++ 2M은 바로 앞 걸음의 추정을 기억해 \
         두었다가, 추정이 움직이는 쪽으로 걸음을 기울입니다. 신경망을 더 부르지는 않습니다. Karras 간격(`dpmpp_2m_karras`)은 잡음이 얼마 남지 \
         않아 세부가 정해지는 곳에 걸음을 더 촘촘히 놓습니다.",
    );
}

/// For models trained with a zero terminal signal-to-noise ratio (arXiv:2305.08891).
fn remark_pure_noise(guide: &Guide) {
    guide.say(
        "One thing to see in the table: this model's schedule ends in pure noise (ᾱ = 0), for which Karras' spacing was \
         not made. It spends half of its steps where nothing can be seen yet. `latent generate --sampler dpmpp_2m` \
         spaces them evenly, and suits such a model better.",
        "표에서 한 가지 더 볼 것이 있습니다. 이 모델의 스케줄은 순수한 잡음(ᾱ = 0)으로 끝나는데, Karras 간격은 이런 경우를 염두에 두지 \
         않았습니다. 그래서 아직 아무것도 보이지 않는 곳에 걸음의 절반을 씁니다. 걸음을 고르게 놓는 `latent generate --sampler dpmpp_2m`이 \
         이런 모델에는 더 잘 맞습니다.",
    );
}

/// What both walks have in common.
struct Walk<'a> {
    guide: &'a Guide,
    pipeline: &'a Pipeline,
    config: &'a SchedulerConfig,
    schedule: &'a NoiseSchedule,
    words: &'a str,
}

impl Walk<'_> {
    /// Walks with a sampler of the table, saves the picture and a sheet of the estimates on the way.
    fn draw(&self, sampler: &str, name: &str) -> Result<Latents> {
        let pipeline = self.pipeline;
        let mut watched = Watched {
            guide: self.guide,
            schedule: self.schedule,
            network: Guided::new(pipeline, self.words)?,
            random: TorchGenerator::new(SEED),
            estimates: Vec::new(),
        };
        let [height, width] = pipeline
            .size()
            .map(|pixels| pixels / pipeline.downsampling());
        let noise = watched.noise([1, pipeline.autoencoder().latent_channels(), height, width]);
        let config = find(sampler)?.configure(self.config)?;

        println!("     step    t         ᾱ  std(x)  std(clean)");
        let latents = sample(
            &config,
            &RunOptions::new(STEPS),
            Start::Noise(noise),
            &mut watched,
        )?;
        println!();

        let latents = Latents::from(latents);
        let path = format!("{FOLDER}/{name}.png");
        pipeline.decode(&latents)?[0].save(Path::new(&path))?;
        let mut frames = Vec::new();
        for estimate in &watched.estimates {
            frames.extend(pipeline.decode(estimate)?);
        }
        let sheet = format!("{FOLDER}/{name}-steps.png");
        Sheet::default().draw(&frames)?.save(Path::new(&sheet))?;
        self.guide.say(
            &format!("The decoder turns the last latent into `{path}`; `{sheet}` shows the estimate every {KEPT} steps."),
            &format!("디코더가 마지막 잠재값을 `{path}`로 바꾸었습니다. `{sheet}`는 {KEPT}걸음마다의 추정을 보여 줍니다."),
        );
        Ok(latents)
    }
}

/// The network as a sampler sees it, with someone who watches.
struct Watched<'a> {
    guide: &'a Guide,
    schedule: &'a NoiseSchedule,
    network: Guided<'a>,
    random: TorchGenerator,
    estimates: Vec<Latents>,
}

impl Denoiser for Watched<'_> {
    fn predict(&mut self, input: &Array, timestep: f64) -> std::result::Result<Array, Stopped> {
        Ok(self.network.predict(input, timestep))
    }

    fn noise(&mut self, shape: [usize; 4]) -> Array {
        self.random.randn_latents(shape)
    }

    fn report(&mut self, step: StepReport<'_>) -> std::result::Result<(), Stopped> {
        let t = step.timestep.round() as usize;
        let alpha_bar = self.schedule.alpha_bar(t);
        let (latents, denoised) = (
            Latents::from(step.latents.clone()),
            Latents::from(step.denoised.clone()),
        );
        let [x, clean] = [&latents, &denoised].map(|latents| spread(latents.values()));
        let (number, total) = (step.index + 1, step.total);
        let (english, korean) = what_happens(alpha_bar);
        println!(
            "    {number:>2}/{total:<2} {t:>4} {alpha_bar:>9.5} {x:>7.3} {clean:>11.3}  {}",
            self.guide.pick(english, korean)
        );
        if step.index.is_multiple_of(KEPT) {
            self.estimates.push(denoised);
        }
        Ok(())
    }
}

/// What a step decides, by how much of the picture is there.
fn what_happens(alpha_bar: f64) -> (&'static str, &'static str) {
    match alpha_bar {
        ..0.03 => (
            "almost only noise: where things are, light or dark",
            "거의 잡음뿐: 무엇이 어디에 놓이고 얼마나 밝은지",
        ),
        ..0.3 => (
            "more noise than picture: large forms and colours",
            "그림보다 잡음이 많음: 큰 형태와 색",
        ),
        ..0.8 => (
            "more picture than noise: parts get their edges",
            "잡음보다 그림이 많음: 부분마다 윤곽이 생김",
        ),
        _ => (
            "little noise left: fine detail",
            "잡음이 거의 없음: 세부를 다듬음",
        ),
    }
}
