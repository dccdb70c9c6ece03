//! Which instructions the kernels use, chosen once when the first kernel runs.

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::sync::OnceLock;

/// How products (linear layers, convolutions, attention) are computed.
///
/// Values in memory are f32 either way, and so is everything that is not a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Operands as they are.
    F32,
    /// Operands rounded to bf16, sums in f32.
    Bf16,
    /// Operands of 8 bits: weights with a scale for each output channel, activations with one for each row of a
    /// linear layer and each picture of a convolution. Sums are exact. For drawing: gradients and attention are
    /// [`floating`](Self::floating).
    Int8,
}

impl Precision {
    /// bf16 where the hardware multiplies it, else f32.
    pub fn best() -> Self {
        if level().multiplies_bf16() {
            Self::Bf16
        } else {
            Self::F32
        }
    }

    /// What flags and files call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// The precision of products that are not made of bytes.
    #[must_use]
    pub fn floating(self) -> Self {
        match self {
            Self::Int8 => Self::best(),
            Self::F32 | Self::Bf16 => self,
        }
    }
}

/// Sets of instructions that kernels are written for on this kind of processor; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Matrix products of bf16 and of bytes, which came together with Armv8.6.
    #[cfg(target_arch = "aarch64")]
    NeonBf16,
}

impl Level {
    /// Whether there are instructions that multiply bf16.
    fn multiplies_bf16(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 | Self::Amx => true,
            #[cfg(target_arch = "aarch64")]
            Self::NeonBf16 => true,
            _ => false,
        }
    }
}

/// Every level with the name that `LATENT_ISA` and [`instruction_set`] use.
pub(crate) const LEVELS: &[(&str, Level)] = &[
    ("portable", Level::Portable),
    #[cfg(target_arch = "x86_64")]
    ("avx2", Level::Avx2),
    #[cfg(target_arch = "x86_64")]
    ("avx512", Level::Avx512),
    #[cfg(target_arch = "x86_64")]
    ("avx512bf16", Level::Avx512Bf16),
    #[cfg(target_arch = "x86_64")]
    ("amx", Level::Amx),
    #[cfg(target_arch = "aarch64")]
    ("neon", Level::Neon),
    #[cfg(target_arch = "aarch64")]
    ("neonbf16", Level::NeonBf16),
];

/// The best level that this machine has.
#[cfg(target_arch = "x86_64")]
pub(crate) fn detected() -> Level {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq");
    match (avx2, avx2 && avx512) {
        (_, true) if !is_x86_feature_detected!("avx512bf16") => Level::Avx512,
        (_, true) if crate::product::amx::works() => Level::Amx,
        (_, true) => Level::Avx512Bf16,
        (true, _) => Level::Avx2,
        _ => Level::Portable,
    }
}

/// The best level that this machine has; NEON is part of the architecture.
#[cfg(target_arch = "aarch64")]
pub(crate) fn detected() -> Level {
    if is_aarch64_feature_detected!("bf16") && is_aarch64_feature_detected!("i8mm") {
        Level::NeonBf16
    } else {
        Level::Neon
    }
}

/// The best level that this machine has.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn detected() -> Level {
    Level::Portable
}

/// `LATENT_ISA` names none of the instruction sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownInstructionSet(
    /// What it says.
    pub String,
);

impl std::fmt::Display for UnknownInstructionSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = LEVELS.iter().map(|(name, _)| format!("`{name}`")).collect();
        write!(
            f,
            "`LATENT_ISA` is `{}`, none of {}; unset it for the best one",
            self.0,
            names.join(", ")
        )
    }
}

impl std::error::Error for UnknownInstructionSet {}

/// The cap that `LATENT_ISA` asks for, if it is set.
fn requested() -> Result<Option<Level>, UnknownInstructionSet> {
    let Some(value) = std::env::var_os("LATENT_ISA").filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let known = LEVELS.iter().find(|(name, _)| value == **name);
    match known {
        Some((_, level)) => Ok(Some(*level)),
        None => Err(UnknownInstructionSet(value.to_string_lossy().into_owned())),
    }
}

/// Whether `LATENT_ISA`, if set, names an instruction set; a shell asks this before it computes.
///
/// # Errors
/// [`UnknownInstructionSet`]; kernels then run as if it were not set.
pub fn check_instruction_set() -> Result<(), UnknownInstructionSet> {
    requested().map(|_| ())
}

/// The level in use: the machine's best, capped by `LATENT_ISA`; read once.
pub(crate) fn level() -> Level {
    static CHOSEN: OnceLock<Level> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let cap = requested().ok().flatten();
        cap.map_or(detected(), |cap| cap.min(detected()))
    })
}

/// Name of the instruction set in use: `portable`; on x86-64 `avx2`, `avx512`, `avx512bf16` or `amx`; on aarch64
/// `neon` or `neonbf16`.
///
/// The environment variable `LATENT_ISA` caps it; it is read once.
pub fn instruction_set() -> &'static str {
    LEVELS[level() as usize].0
}

/// Compiles one body for the portable, the AVX2, the AVX-512 and the NEON level and picks by [`level`].
///
/// The body is plain Rust that the compiler turns into vectors. It may name the constant `FUSED`: whether the level
/// multiplies and adds at once (see [`math`](crate::math)).
macro_rules! for_every_level {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::extra_unused_type_parameters, reason = "not every body multiplies")]
            fn body<const FUSED: bool>($($argument: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    body::<true>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    body::<true>($($argument),*)
                }
                let level = $crate::isa::level();
                if level >= $crate::isa::Level::Avx512 {
                    // SAFETY: `level` says that the CPU has these features.
                    return unsafe { avx512($($argument),*) };
                }
                if level >= $crate::isa::Level::Avx2 {
                    // SAFETY: `level` says that the CPU has these features.
                    return unsafe { avx2($($argument),*) };
                }
            }
            #[cfg(target_arch = "aarch64")]
            if $crate::isa::level() >= $crate::isa::Level::Neon {
                // The compiler's vectors of this architecture are those of NEON.
                return body::<true>($($argument),*);
            }
            body::<false>($($argument),*)
        }
    };
}
pub(crate) use for_every_level;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_of_this_processor_has_its_own_name_at_its_own_place() {
        for (i, (name, level)) in LEVELS.iter().enumerate() {
            assert_eq!(*level as usize, i, "`{name}`");
            let same = LEVELS
                .iter()
                .filter(|row| row.0 == *name || row.1 == *level);
            assert_eq!(same.count(), 1, "`{name}`");
        }
        assert!(LEVELS.iter().any(|row| row.1 == detected()));
    }
}
