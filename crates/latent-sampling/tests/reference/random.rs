//! The generators against torch's own values.

use crate::fixture::{Fixture, path};
use latent_sampling::rng::philox4x32;
use latent_sampling::{BrownianPath, GeneratorKind, PhiloxGenerator, TorchGenerator};
use serde_json::Value;

const SEEDS: [u64; 6] = [0, 1, 42, 1_234_567, 4_294_967_301, u64::MAX];

/// Calls `check` with seed, second word of the name, and values of every tensor `kind/seed/word`; counts them.
fn each(fixture: &Fixture, kind: &str, mut check: impl FnMut(u64, &str, &[f64])) -> usize {
    let mut count = 0;
    for name in fixture.names() {
        let parts: Vec<&str> = name.split('/').collect();
        if let [found, seed, word] = parts[..]
            && found == kind
        {
            check(seed.parse().unwrap(), word, fixture.values(name));
            count += 1;
        }
    }
    count
}

fn close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (f64::from(*found) - expected).abs() <= tolerance,
            "{what}: {found} is not {expected}"
        );
    }
}

#[test]
fn f32_normals_equal_torchs() {
    let fixture = Fixture::open("rng/torch_cpu.safetensors");
    let count = each(&fixture, "randn", |seed, size, expected| {
        let found = TorchGenerator::new(seed).randn(size.parse().unwrap());
        // Below 16 elements exact; above, torch's vectorised logarithm and sine differ in the last place.
        let tolerance = if found.len() < 16 { 0.0 } else { 5e-7 };
        close(
            &found,
            expected,
            tolerance,
            &format!("seed {seed}, {size} values"),
        );
    });
    assert!(count >= 6 * SEEDS.len(), "{count} tensors");
}

#[test]
fn f64_normals_equal_torchs() {
    let fixture = Fixture::open("rng/torch_cpu.safetensors");
    let count = each(&fixture, "randn_f64", |seed, size, expected| {
        let found = TorchGenerator::new(seed).randn_f64(size.parse().unwrap());
        for (found, expected) in found.iter().zip(expected) {
            // One unit in the last place of a value of a few units.
            assert!(
                (found - expected).abs() <= 1e-15,
                "seed {seed}, {size} values: {found} is not {expected}"
            );
        }
    });
    assert!(count >= 6 * SEEDS.len(), "{count} tensors");
}

#[test]
fn half_precision_normals_equal_torchs_exactly() {
    let fixture = Fixture::open("rng/torch_cpu.safetensors");
    let bf16 = each(&fixture, "randn_bf16", |seed, size, expected| {
        close(
            &TorchGenerator::new(seed).randn_bf16(size.parse().unwrap()),
            expected,
            0.0,
            &format!("bf16 {seed} {size}"),
        );
    });
    let f16 = each(&fixture, "randn_f16", |seed, size, expected| {
        close(
            &TorchGenerator::new(seed).randn_f16(size.parse().unwrap()),
            expected,
            0.0,
            &format!("f16 {seed} {size}"),
        );
    });
    assert!(
        bf16 >= 6 * SEEDS.len() && f16 == bf16,
        "{bf16} and {f16} tensors"
    );
}

#[test]
fn uniforms_equal_torchs_exactly() {
    let fixture = Fixture::open("rng/torch_cpu.safetensors");
    let single = each(&fixture, "rand", |seed, size, expected| {
        close(
            &TorchGenerator::new(seed).rand(size.parse().unwrap()),
            expected,
            0.0,
            &format!("rand {seed} {size}"),
        );
    });
    let double = each(&fixture, "rand_f64", |seed, size, expected| {
        assert_eq!(
            TorchGenerator::new(seed).rand_f64(size.parse().unwrap()),
            expected,
            "rand_f64 {seed} {size}"
        );
    });
    assert!(
        single >= 6 * SEEDS.len() && single == double,
        "{single} and {double} tensors"
    );
}

#[test]
fn integers_and_permutations_equal_torchs_exactly() {
    let fixture = Fixture::open("rng/torch_cpu.safetensors");
    let integers = each(&fixture, "randint", |seed, high, expected| {
        let found = TorchGenerator::new(seed).randint(high.parse().unwrap(), expected.len());
        let expected: Vec<u64> = expected.iter().map(|value| *value as u64).collect();
        assert_eq!(found, expected, "seed {seed}, below {high}");
    });
    let orders = each(&fixture, "randperm", |seed, size, expected| {
        let found = TorchGenerator::new(seed).randperm(size.parse().unwrap());
        let expected: Vec<usize> = expected.iter().map(|value| *value as usize).collect();
        assert_eq!(found, expected, "seed {seed}");
    });
    assert!(
        integers >= 2 * SEEDS.len() && orders == SEEDS.len(),
        "{integers} and {orders} tensors"
    );
}

#[test]
fn one_generator_continues_over_draws_of_every_size() {
    let fixture = Fixture::open("rng/torch_cpu_seq.safetensors");
    for seed in SEEDS {
        let mut names: Vec<&str> = fixture
            .names()
            .filter(|name| name.starts_with(&format!("randn_seq/{seed}/")))
            .collect();
        names.sort_unstable();
        assert!(names.len() > 4, "{names:?}");
        let mut generator = TorchGenerator::new(seed);
        for name in names {
            let expected = fixture.values(name);
            let uniform = name.contains("rand7");
            let found = if uniform {
                generator.rand(7)
            } else {
                generator.randn(expected.len())
            };
            close(
                &found,
                expected,
                if uniform || found.len() < 16 {
                    0.0
                } else {
                    5e-7
                },
                name,
            );
        }
    }
}

#[test]
fn raw_words_are_the_mersenne_twisters() {
    let fixture = Fixture::open("rng/torch_cpu_seq.safetensors");
    for seed in SEEDS {
        let mut generator = TorchGenerator::new(seed);
        for expected in fixture.values(&format!("u32/{seed}")) {
            assert_eq!(f64::from(generator.next_u32()), *expected, "seed {seed}");
        }
    }
}

#[test]
fn a_shape_counts_by_its_elements_only() {
    let fixture = Fixture::open("rng/torch_cpu_big.safetensors");
    let count = each(&fixture, "randn", |seed, _, expected| {
        let latents = TorchGenerator::new(seed).randn_latents([1, 4, 64, 64]);
        close(
            latents.as_slice().unwrap(),
            expected,
            5e-7,
            &format!("seed {seed}"),
        );
    });
    assert_eq!(count, 3);
}

#[test]
fn philox_meets_its_known_answers() {
    let json: Value =
        serde_json::from_str(&std::fs::read_to_string(path("rng/case.json")).unwrap()).unwrap();
    let words = |value: &Value| -> Vec<u32> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_u64().unwrap() as u32)
            .collect()
    };
    let cases = json["philox_kat"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let (counter, key) = (words(&case["counter"]), words(&case["key"]));
        let found = philox4x32(counter.try_into().unwrap(), key.try_into().unwrap());
        let text: String = found.iter().map(|word| format!("{word:08x}")).collect();
        assert_eq!(text, case["out_hex"].as_str().unwrap());
    }
}

#[test]
fn philox_normals_equal_those_published_for_a_gpu() {
    let json: Value =
        serde_json::from_str(&std::fs::read_to_string(path("rng/case.json")).unwrap()).unwrap();
    let known: Vec<f64> = json["philox_cuda_seed0_known"]
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_f64().unwrap())
        .collect();
    close(
        &PhiloxGenerator::new(0).randn(known.len()),
        &known,
        2e-6,
        "seed 0",
    );
}

#[test]
fn philox_continues_over_calls() {
    let fixture = Fixture::open("rng/philox.safetensors");
    for seed in SEEDS {
        let mut generator = PhiloxGenerator::new(seed);
        for (order, size) in [12, 256, 5, 1000].into_iter().enumerate() {
            let name = format!("philox_randn_seq/{seed}/{order:02}_{size}");
            close(&generator.randn(size), fixture.values(&name), 2e-6, &name);
        }
    }
}

#[test]
fn philox_words_equal_the_emulation_of_the_gpu() {
    let fixture = Fixture::open("rng/philox.safetensors");
    for seed in SEEDS {
        let key = [seed as u32, (seed >> 32) as u32];
        let found: Vec<f64> = (0..8)
            .flat_map(|i| philox4x32([0, 0, i, 0], key))
            .map(f64::from)
            .collect();
        assert_eq!(
            found,
            fixture.values(&format!("philox_raw/{seed}/8")),
            "seed {seed}"
        );
    }
}

#[test]
fn brownian_paths_equal_torchsdes() {
    let fixture = Fixture::open("rng/philox.safetensors");
    let times = [14.6, 9.0, 4.0, 1.0, 0.03];
    for seed in [0, 1, 42] {
        let path = BrownianPath::new(seed, 0.03, 14.6, 64);
        for (i, pair) in times.windows(2).enumerate() {
            let name = format!("brownian/{seed}/{i:02}_w");
            // Sums of some twenty halves in f32.
            close(
                &path.normals_between(pair[0], pair[1]),
                fixture.values(&name),
                4e-6,
                &name,
            );
        }
    }
}

#[test]
fn a_brownian_path_is_the_same_however_it_is_cut() {
    let path = BrownianPath::new(5, 0.1, 10.0, 8);
    let whole = path.normals_between(0.5, 8.0);
    let (first, second) = (
        path.normals_between(0.5, 3.25),
        path.normals_between(3.25, 8.0),
    );
    for i in 0..8 {
        let joined = (first[i] * 2.75f32.sqrt() + second[i] * 4.75f32.sqrt()) / 7.5f32.sqrt();
        assert!(
            (whole[i] - joined).abs() < 1e-5,
            "{} is not {joined}",
            whole[i]
        );
        assert_eq!(path.normals_between(8.0, 0.5)[i], -whole[i]);
    }
    assert_eq!(path.normals_between(2.0, 2.0), [0.0; 8]);
}

#[test]
fn a_generator_chosen_by_name_is_that_generator() {
    for (name, kind) in GeneratorKind::ALL {
        assert_eq!(kind.name(), *name);
        let expected = match kind {
            // The first noise of ComfyUI is drawn on the CPU.
            GeneratorKind::Torch | GeneratorKind::ComfyUi => TorchGenerator::new(9).randn(20),
            GeneratorKind::Philox => PhiloxGenerator::new(9).randn(20),
        };
        assert_eq!(kind.start(9).randn(20), expected);
    }
}
