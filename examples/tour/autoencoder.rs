//! Picture to latent to picture: what the autoencoder does, why it pays, and its scaling factor.

use std::path::Path;

use latent::models::{SimpleAutoencoder, SimpleAutoencoderConfig};
use latent::{Compute, Latents, Picture, Pipeline};
use latent_formats::{Filter, Sheet, psnr};
use latent_nn::{Init, to_host};

use crate::Result;
use crate::guide::{FOLDER, Guide, SIDE, grouped, print_shape, spread};

/// Chapter 1: the shapes of Stable Diffusion's first version, whatever model is at hand.
pub(crate) fn the_lessons_shapes(
    guide: &Guide,
    pipeline: &Pipeline,
    picture: &Picture,
) -> Result<()> {
    guide.chapter(
        "1. A picture becomes a latent, and a picture again",
        "1. 그림이 잠재값이 되고, 다시 그림이 됩니다",
    );
    guide.say(
        "To a network a picture of 512 x 512 pixels is a tensor [1, 3, 512, 512]: one picture, three colours, rows, \
         columns. An autoencoder is a pair of networks. The encoder halves rows and columns three times, 512 to 256 to \
         128 to 64, and keeps four numbers at each of the 64 x 64 places: the latent. The decoder makes the way back.",
        "신경망에게 512×512 그림은 [1, 3, 512, 512] 모양의 텐서입니다. 그림 하나, 색 세 가지, 가로줄, 세로줄이라는 뜻입니다. \
         오토인코더는 두 신경망의 짝입니다. 인코더는 가로와 세로를 세 번 반으로 줄여(512 → 256 → 128 → 64) 64×64개의 자리마다 숫자를 \
         네 개씩만 남깁니다. 이것이 잠재값(latent)입니다. 디코더는 그 길을 거꾸로 되돌아옵니다.",
    );
    if guide.model.is_some() {
        return Ok(()); // The folder's own autoencoder shows it better.
    }
    guide.say(
        "First the smallest autoencoder that does this: three convolutions down, three up. Nobody has trained it, its \
         weights are random. So its shapes are true, and the picture that it gives back is worthless.",
        "먼저 이 일을 하는 가장 작은 오토인코더를 봅니다. 합성곱 셋으로 내려가고 셋으로 올라옵니다. 다만 학습한 적이 없어 가중치가 \
         무작위입니다. 그래서 모양은 진짜지만, 되돌아온 그림에는 아무 의미가 없습니다.",
    );
    let [latent, again] = untrained(pipeline.compute(), picture)?;
    print_shape([1, 3, SIDE, SIDE], guide.pick("the picture", "그림"));
    print_shape(latent, guide.pick("its latent", "그림의 잠재값"));
    print_shape(
        again,
        guide.pick("the picture that came back", "되돌아온 그림"),
    );
    println!();
    Ok(())
}

/// Shapes of the latent and of what comes back.
fn untrained(compute: &Compute, picture: &Picture) -> Result<[[usize; 4]; 2]> {
    let sizes = SimpleAutoencoderConfig::default();
    let autoencoder = SimpleAutoencoder::new(&sizes, &mut Init::seeded(compute, 0))?;
    let pixels = compute.tensor(picture.to_f32_nchw(), [1, 3, SIDE, SIDE]);
    let latent = autoencoder.encode(pixels).mean;
    let shape = latent.dims();
    Ok([shape, autoencoder.decode(latent).dims()])
}

/// The picture as a model takes it: 512x512 for a folder's, its own size for the small one inside the program.
fn fitted(guide: &Guide, pipeline: &Pipeline, picture: &Picture) -> Result<Picture> {
    let [height, width] = match guide.model {
        Some(_) => [SIDE, SIDE],
        None => pipeline.size(),
    };
    Ok(picture.resize(width, height, Filter::Area)?)
}

/// Chapter 1 with an autoencoder that was trained: the latents, and what they give back.
pub(crate) fn there_and_back(
    guide: &Guide,
    pipeline: &Pipeline,
    picture: &Picture,
) -> Result<Latents> {
    let name = pipeline.model_name();
    guide.say(
        &format!(
            "Now with the autoencoder of the model `{name}`, and the weights that it came with:"
        ),
        &format!("이제 모델 `{name}`의 오토인코더를, 그 모델이 지닌 가중치로 써 봅니다."),
    );
    let picture = fitted(guide, pipeline, picture)?;
    let pixels = [1, 3, picture.height(), picture.width()];
    let latents = pipeline.encode(&picture)?;
    let again = pipeline.decode(&latents)?.remove(0);

    print_shape(pixels, guide.pick("the picture", "그림"));
    print_shape(latents.shape(), guide.pick("its latent", "그림의 잠재값"));
    print_shape(
        [1, 3, again.height(), again.width()],
        guide.pick("the picture that came back", "되돌아온 그림"),
    );
    println!();

    let path = format!("{FOLDER}/1-there-and-back.png");
    let fewer = pixels.iter().product::<usize>() as f64 / latents.values().len() as f64;
    let decibels = psnr(&picture, &again)?;
    Sheet::default()
        .draw(&[picture, again])?
        .save(Path::new(&path))?;
    guide.say(
        &format!(
            "{fewer:.0} times fewer numbers, and the PSNR of the picture that came back is {decibels:.1} dB (higher is \
             closer to the original; above 30 one has to look for the difference). Both are in `{path}`."
        ),
        &format!(
            "숫자는 {fewer:.0}분의 1로 줄었고, 되돌아온 그림의 PSNR은 {decibels:.1} dB입니다(클수록 원본에 가깝고, 30을 \
             넘으면 차이를 일부러 찾아야 보입니다). 두 그림은 `{path}`에 나란히 있습니다."
        ),
    );
    Ok(latents)
}

/// Chapter 2: what a denoising step costs in pixels and in latents.
pub(crate) fn why_it_pays(guide: &Guide) {
    guide.chapter("2. Why that pays", "2. 왜 이득일까요");
    let (pixels, latents) = (3 * SIDE * SIDE, 4 * (SIDE / 8) * (SIDE / 8));
    let (many, few) = (SIDE * SIDE, (SIDE / 8) * (SIDE / 8));
    println!(
        "    {:>9} / {:>6} = {}",
        grouped(pixels),
        grouped(latents),
        pixels / latents
    );
    println!(
        "    {:>9} / {:>6} = {}",
        grouped(many),
        grouped(few),
        many / few
    );
    println!(
        "    {:>9}²/ {:>6}² = {}\n",
        grouped(many),
        grouped(few),
        grouped((many / few).pow(2))
    );
    guide.say(
        "Diffusion calls one large network again and again, twenty times or more for a picture, and every call visits \
         every place. A latent has 48 times fewer numbers (first line). Convolutions pay by the place: 64 times fewer \
         (second line). Self-attention compares each place with each other: 4,096 times fewer pairs (third line), \
         where 262,144² of them would not fit any machine.",
        "확산 모델은 커다란 신경망 하나를 되풀이해 부릅니다. 그림 한 장에 스무 번이 넘고, 부를 때마다 모든 자리를 지나갑니다. 잠재값은 \
         숫자가 48분의 1입니다(첫째 줄). 합성곱의 비용은 자리 수를 따르므로 64분의 1이 됩니다(둘째 줄). 셀프 어텐션은 모든 자리를 모든 \
         자리와 견주므로 쌍의 수가 4,096분의 1입니다(셋째 줄). 262,144²개의 쌍이라면 어떤 컴퓨터도 감당하지 못합니다.",
    );
    guide.say(
        "What is lost is texture that the eye hardly misses. The decoder paints it back, and it runs only once. `latent \
         bench pixel-vs-latent` measures the seconds; the example `pixel_ddpm` goes the other way.",
        "잃는 것은 눈이 거의 알아채지 못하는 미세한 질감입니다. 그것은 디코더가 마지막에 딱 한 번 다시 그려 넣습니다. 실제 시간은 `latent bench \
         pixel-vs-latent`가 재고, 예제 `pixel_ddpm`은 잠재값 없이 픽셀에서 바로 확산하는 길을 보여 줍니다.",
    );
}

/// Chapter 3: why latents are multiplied by a number before diffusion sees them.
pub(crate) fn the_scaling_factor(
    guide: &Guide,
    pipeline: &Pipeline,
    picture: &Picture,
) -> Result<()> {
    guide.chapter("3. The scaling factor", "3. 배율(scaling factor)");
    let picture = fitted(guide, pipeline, picture)?;
    let pixels = [1, 3, picture.height(), picture.width()];
    let autoencoder = pipeline.autoencoder();
    let (raw, _) = autoencoder.latents(pipeline.compute().tensor(picture.to_f32_nchw(), pixels));
    let scaled = autoencoder.to_diffusion(raw.clone());
    let (before, after) = (spread(&to_host(raw).0), spread(&to_host(scaled).0));
    let factor = autoencoder.scaling().factor;
    println!("    {before:.3} x {factor:.5} = {after:.3}\n");
    guide.say(
        "The first number is the spread (standard deviation) of this picture's latents as the encoder gives them, the \
         last what the U-Net sees. The factor is one over the spread of the whole training set, measured once after the \
         autoencoder was trained, so that latents have a spread near 1; a single picture lies somewhat beside it.",
        "첫 숫자는 인코더가 내놓은 이 그림 잠재값의 퍼짐(표준편차)이고, 마지막 숫자는 U-Net이 보게 될 잠재값의 퍼짐입니다. 배율은 학습 \
         데이터 전체에서 잰 퍼짐의 역수입니다. 오토인코더를 학습한 뒤 한 번 재어 두면 잠재값의 퍼짐이 1에 가까워집니다. 그림 한 장만 보면 \
         1에서 조금 벗어나기 마련입니다.",
    );
    guide.say(
        "It matters because the noise always has spread 1. Latents of spread 5 would shine through the noise at the last \
         timestep, those of spread 0.2 would drown early on; with a wrong factor the colours of every picture are wrong.",
        "이것이 중요한 까닭은 잡음의 퍼짐이 언제나 1이기 때문입니다. 잠재값의 퍼짐이 5라면 마지막 타임스텝에서도 잡음 위로 그림이 비치고, \
         0.2라면 일찌감치 잡음에 잠겨 버립니다. 배율이 틀리면 모든 그림의 색이 틀립니다.",
    );
    Ok(())
}
