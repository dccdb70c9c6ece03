//! Stands in for the published `cubecl-llvm` 0.11.3 when Latent is built for CUDA.
//!
//! The published crate's build script downloads an LLVM bundle; ours has no build script. `cubecl-cuda`
//! holds two compilers, LLVM's and CUDA C++ through NVRTC, and needs the first one's *types* even where
//! its `cpp` feature makes the second the default. So this crate has those types and a compiler that
//! refuses every kernel with a sentence. Nothing in Latent calls it.

use cubecl_core::ir::{DeviceProperties, nvidia::SmArch};
use cubecl_core::prelude::KernelDefinition;
use cubecl_environment::backtrace::BackTrace;
use cubecl_runtime::compiler::{CompilationError, Compiler};
use cubecl_runtime::kernel::BufferIOAttr;
use std::fmt;

const REFUSAL: &str = "this build carries no LLVM: enable cubecl's `cuda-cpp` feature, which compiles with NVRTC";

/// NVIDIA's side of the compiler.
pub mod nvptx {
    /// Which PTX a driver reads.
    pub mod ptx_version {
        /// A PTX version; never made here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct PtxVersion(u32);

        impl PtxVersion {
            /// No version is known without LLVM, whatever the driver.
            pub fn for_driver(_driver: i32) -> Option<Self> {
                None
            }
        }

        impl std::fmt::Display for PtxVersion {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "ptx{}", self.0)
            }
        }
    }
}

/// What both GPU targets share.
pub mod shared {
    /// Features the LLVM back end cannot lower.
    pub mod lowered_features {
        /// The GPU a kernel is lowered for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GpuTarget {
            /// NVIDIA.
            Nvptx,
        }

        /// Takes nothing away: no kernel is lowered here.
        pub fn restrict_features(_: &mut super::super::DeviceProperties, _: GpuTarget) {}
    }
}

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LlvmTarget {
    /// The host.
    #[default]
    Cpu,
    /// NVIDIA.
    Nvptx,
}

/// A compiler that refuses.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    /// What it would compile for.
    pub target: LlvmTarget,
}

/// Options of a compiler that refuses.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// Unused without LLVM.
    pub arch: Option<()>,
    /// The card's architecture.
    pub sm_arch: Option<SmArch>,
    /// The PTX version to write.
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    /// Whether kernel arguments are grid constants.
    pub grid_constants: bool,
}

/// A compiled NVIDIA module; never made here.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// Zero-ended PTX.
    pub ptx: Vec<std::ffi::c_char>,
    /// The kernel's name.
    pub entrypoint: String,
    /// The LLVM text it came from.
    pub ir: String,
    /// Bytes of shared memory.
    pub shared_memory_size: usize,
    /// Which buffers are read and written.
    pub io: Vec<BufferIOAttr>,
}

/// What the compiler would return.
#[derive(Clone, Debug)]
pub enum PlironArtifact {
    /// A module for NVIDIA.
    NvptxCode(NvptxModule),
    /// Nothing.
    None,
}

impl fmt::Display for PlironArtifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REFUSAL)
    }
}

impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;

    fn compile(&mut self, _: KernelDefinition, _: &PlironOptions) -> Result<PlironArtifact, CompilationError> {
        Err(CompilationError::Generic { reason: REFUSAL.into(), backtrace: BackTrace::capture() })
    }

    fn extension(&self) -> &'static str {
        "ll"
    }

    fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}
