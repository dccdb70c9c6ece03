//! Picture to noise: what is left of a latent at each timestep.

use std::path::Path;

use latent::sampling::{
    Latents as Array, NoiseSchedule, Prediction, SchedulerConfig, TorchGenerator,
};
use latent::{Latents, Pipeline};
use latent_formats::Sheet;

use crate::Result;
use crate::guide::{FOLDER, Guide, spread};

/// Shares of the way to pure noise that are shown.
const SHARES: [f64; 6] = [0.0, 0.1, 0.25, 0.5, 0.75, 1.0];

/// Chapter 4: the noise schedule, at some timesteps, on the latents of chapter 1.
pub(crate) fn noise_by_timestep(
    guide: &Guide,
    pipeline: &Pipeline,
    config: &SchedulerConfig,
    latents: &Latents,
) -> Result<NoiseSchedule> {
    guide.chapter("4. The noise schedule", "4. 잡음 스케줄");
    let schedule = NoiseSchedule::new(config)?;
    guide.say(
        &format!(
            "Training never removes noise, it adds some. There are {} timesteps; at timestep t the latent is mixed as \
             √ᾱ · latent + √(1-ᾱ) · noise, and ᾱ (alpha bar), the share of the latent's variance that is left, falls \
             from nearly 1 to nearly 0:",
            schedule.len()
        ),
        &format!(
            "학습할 때는 잡음을 없애지 않고 오히려 더합니다. 타임스텝은 {}개이고, 타임스텝 t에서 잠재값은 √ᾱ · 잠재값 + √(1-ᾱ) · 잡음으로 \
             섞입니다. ᾱ(알파 바)는 남아 있는 잠재값의 몫(분산의 비율)이며, 거의 1에서 거의 0까지 내려갑니다.",
            schedule.len()
        ),
    );
    println!("       t         ᾱ      √ᾱ  √(1-ᾱ)  std(x)");
    let clean = Array::from_shape_vec(latents.shape(), latents.values().to_vec())?;
    let noise = TorchGenerator::new(0).randn_latents(latents.shape());
    let mut pictures = Vec::new();
    for share in SHARES {
        let t = (share * (schedule.len() - 1) as f64).round() as usize;
        let noisy = Latents::from(schedule.add_noise(&clean, &noise, &[t]));
        let (alpha, sigma) = schedule.scales(t);
        let (alpha_bar, spread) = (schedule.alpha_bar(t), spread(noisy.values()));
        println!("    {t:>4} {alpha_bar:>9.5} {alpha:>7.4} {sigma:>7.4} {spread:>7.3}");
        pictures.extend(pipeline.decode(&noisy)?);
    }
    let path = format!("{FOLDER}/2-noised.png");
    Sheet::default().draw(&pictures)?.save(Path::new(&path))?;
    println!();
    guide.say(
        &format!("`{path}` shows these latents decoded: noise among latents is not grain, but wrong colours and forms."),
        &format!("`{path}`는 이 잠재값들을 디코딩한 것입니다. 잠재값의 잡음은 자글자글한 점이 아니라 엉뚱한 색과 형태로 보입니다."),
    );
    let (english, korean) = learned(config.settings().prediction_type);
    guide.say(english, korean);
    Ok(schedule)
}

/// What the U-Net is trained to say about a noised latent.
fn learned(prediction: Prediction) -> (&'static str, &'static str) {
    match prediction {
        Prediction::V => (
            "The U-Net is shown such a mixture and t, and learns to name v = √ᾱ · noise - √(1-ᾱ) · latent. From x and v \
             both parts follow, and v still says something at the last timestep, where x is nothing but noise.",
            "U-Net은 이렇게 섞인 값과 t를 보고 v = √ᾱ · 잡음 - √(1-ᾱ) · 잠재값을 맞히도록 배웁니다. x와 v를 알면 잠재값과 잡음을 둘 다 \
             구할 수 있고, x가 온통 잡음뿐인 마지막 타임스텝에서도 v는 여전히 뜻이 있습니다.",
        ),
        _ => (
            "The U-Net is shown such a mixture and t, and learns to name the noise in it. Take that noise away, and an \
             estimate of the clean latent is left: (x - √(1-ᾱ) · noise) / √ᾱ.",
            "U-Net은 이렇게 섞인 값과 t를 보고 그 안의 잡음을 맞히도록 배웁니다. 그 잡음을 빼면 깨끗한 잠재값의 추정이 남습니다: \
             (x - √(1-ᾱ) · 잡음) / √ᾱ.",
        ),
    }
}
