//! A prompt for those who give none.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use latent_data::icons::{BuildConfig, Kind, Profile};

use crate::fault::Fault;

/// A prompt of words that the built-in model learned: the same for the same seed, another at another moment without.
///
/// # Errors
/// For another model, whose words are not known here.
pub(crate) fn prompt(model: Option<&Path>, seed: Option<u64>) -> Result<String, Fault> {
    if let Some(model) = model {
        return Err(
            Fault::usage(format!("`{}` needs a prompt", model.display()))
                .hint("say what the picture shows: `latent generate \"a red apple\" --model ...`"),
        );
    }
    // The kind it knows best: one thing on white.
    let config = BuildConfig {
        profile: Profile::First,
        kinds: Some(vec![Kind::White]),
        scenes: 0,
        ..BuildConfig::default()
    };
    let prompts: Vec<String> = config
        .recipes()?
        .into_iter()
        .filter_map(|recipe| recipe.en.into_iter().next())
        .collect();
    let place = mixed(seed.unwrap_or_else(now)) % prompts.len().max(1) as u64;
    prompts
        .into_iter()
        .nth(place as usize)
        .ok_or_else(|| Fault::usage("there is no prompt; give one"))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

/// Neighbouring seeds give words far apart.
///
/// Source: the finaliser of SplitMix64, Steele et al. 2014 (doi:10.1145/2714064.2660195), Figure 13.
fn mixed(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_surprise_and_others_have_others() {
        let of = |seed| prompt(None, Some(seed)).unwrap();
        assert_eq!(of(7), of(7));
        let mut all: Vec<String> = (0..20).map(of).collect();
        all.sort();
        all.dedup();
        assert!(all.len() > 10, "{all:?}");
    }

    #[test]
    fn another_model_needs_a_prompt() {
        let error = prompt(Some("m".as_ref()), None).unwrap_err().to_string();
        assert!(error.contains("needs a prompt"), "{error}");
    }
}
