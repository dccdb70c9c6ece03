//! Activations of a picture that are too large for memory, and layers over them a band of lines at a time.
//!
//! A canvas lies in a file without a name, in the folder for temporary files. Only a band of it is in memory: the
//! system keeps what it has room for, and writes the rest to the disk. A canvas sums its channels while it is written,
//! so the group norm that reads it knows the statistics of the whole picture: bands have no seams.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;

use burn::tensor::{Device, Tensor};
use latent_kernels::ChannelSums;

use crate::layers::GroupNorm;
use crate::ops::record::{OpKind, described, watch};
use crate::ops::{buffers::Buffer, flex, group_norm_band, rehearsing};

/// How much of a canvas is in memory at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bands {
    /// Values of a band, about, in each of the few tensors of a layer; 16 lines are the least.
    pub values: usize,
}

impl Default for Bands {
    /// 16 MiB.
    fn default() -> Self {
        Self { values: 4 << 20 }
    }
}

/// Fewest lines of a band: below, those at its edges, which are computed twice, cost too much.
const FEWEST_LINES: usize = 16;

/// Activations `[1, h, w, c]` outside of memory.
#[derive(Debug)]
pub struct Canvas {
    file: File,
    size: [usize; 3],
    /// Lines written so far.
    lines: usize,
    sums: ChannelSums,
    bands: Bands,
    device: Device,
}

/// How the lines of a layer's output lie over those of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// As many, and each reads this many beside it, above and below.
    Same(usize),
    /// Twice as many, by doubling and a kernel of 3.
    Doubled,
    /// Half as many, by a kernel of 3 and stride 2 that begins at the first line.
    Halved,
}

impl Scale {
    fn of(self, lines: usize) -> usize {
        match self {
            Self::Same(_) => lines,
            Self::Doubled => 2 * lines,
            Self::Halved => lines / 2,
        }
    }

    /// The lines of an input of `h` that give the output's lines `band`, and where among what they give these are.
    fn input(self, band: &Range<usize>, h: usize) -> (Range<usize>, usize) {
        match self {
            Self::Same(halo) => {
                let first = band.start.saturating_sub(halo);
                (first..h.min(band.end + halo), band.start - first)
            }
            Self::Doubled => {
                let first = (band.start / 2).saturating_sub(1);
                (
                    first..h.min(band.end.div_ceil(2) + 1),
                    band.start - 2 * first,
                )
            }
            Self::Halved => (2 * band.start..h.min(2 * band.end + 1), 0),
        }
    }
}

impl Canvas {
    fn new(size: [usize; 3], bands: Bands, device: &Device) -> io::Result<Self> {
        Ok(Self {
            file: tempfile::tempfile()?,
            size,
            lines: 0,
            sums: ChannelSums::new(size[0] * size[1], size[2]),
            bands,
            device: device.clone(),
        })
    }

    /// One that holds `x [1, h, w, c]`, on the CPU.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn of(x: Tensor<4>, bands: Bands) -> io::Result<Self> {
        let [_, h, w, c] = x.dims();
        let mut canvas = Self::new([h, w, c], bands, &x.device())?;
        canvas.push(x, 0..h)?;
        Ok(canvas)
    }

    /// How much of it is in memory at once.
    pub fn bands(&self) -> Bands {
        self.bands
    }

    /// All of it.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn whole(&self) -> io::Result<Tensor<4>> {
        self.lines(0..self.size[0])
    }

    /// Some lines, `[1, lines, w, c]`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn lines(&self, lines: Range<usize>) -> io::Result<Tensor<4>> {
        let [_, w, c] = self.size;
        let shape = [1, lines.len(), w, c];
        let like = Tensor::<4>::zeros([1, 1, 1, 1], &self.device);
        let mut failed = Ok(());
        let read = watch(|| described::plain(OpKind::Layout, &like, 2, shape)).around(|| {
            let mut values = Buffer::unset(lines.len() * w * c);
            failed = self.read(lines.start * w * c, bytemuck::cast_slice_mut(&mut values));
            Tensor::from_data(values.into_data(&shape), &self.device)
        });
        failed.map(|()| read)
    }

    fn read(&self, first: usize, bytes: &mut [u8]) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(4 * first as u64))?;
        file.read_exact(bytes)
    }

    /// Adds the lines `kept` of `x [1, lines, w, c]` below those that are there.
    ///
    /// # Panics
    /// If they do not fit.
    fn push(&mut self, x: Tensor<4>, kept: Range<usize>) -> io::Result<()> {
        let [h, w, c] = self.size;
        self.lines += kept.len();
        assert!(
            x.dims()[2..] == [w, c] && self.lines <= h && kept.end <= x.dims()[1],
            "canvas: {:?} does not fit {:?}",
            x.dims(),
            self.size
        );
        if rehearsing() {
            return Ok(());
        }
        let x = flex::host(x);
        let values = &flex::values(&x)[kept.start * w * c..kept.end * w * c];
        self.sums.add(values);
        // Bands come in order, and reading moves the place.
        self.file.seek(SeekFrom::End(0))?;
        self.file.write_all(bytemuck::cast_slice(values))
    }

    /// What `layer` makes of it, a band at a time: it is given lines of this canvas and which they are.
    ///
    /// `layer` may give more than the band's lines; those at its edges, which lack neighbours, are dropped.
    ///
    /// # Errors
    /// If the disk is full, and those of `layer`.
    pub fn through(
        &self,
        scale: Scale,
        mut layer: impl FnMut(Tensor<4>, Range<usize>) -> io::Result<Tensor<4>>,
    ) -> io::Result<Self> {
        let [h, w, c] = self.size;
        let lines = scale.of(h);
        let at_once = (self.bands.values / (scale.of(w) * c).max(1)).max(FEWEST_LINES) / 2 * 2;
        let mut made: Option<Self> = None;
        for first in (0..lines).step_by(at_once) {
            let band = first..lines.min(first + at_once);
            let (input, skipped) = scale.input(&band, h);
            let output = layer(self.lines(input.clone())?, input)?;
            let canvas = match &mut made {
                Some(canvas) => canvas,
                None => {
                    let [_, _, width, channels] = output.dims();
                    made.insert(Self::new(
                        [lines, width, channels],
                        self.bands,
                        &self.device,
                    )?)
                }
            };
            canvas.push(output, skipped..skipped + band.len())?;
        }
        made.ok_or_else(|| io::Error::other("an empty picture has no layers"))
    }

    /// Group norm of some of its lines, by the statistics of all.
    ///
    /// # Panics
    /// If `lines` has other channels, or the canvas is not complete.
    pub fn normed(&self, norm: &GroupNorm, lines: Tensor<4>, silu: bool) -> Tensor<4> {
        watch(|| described::plain(OpKind::Norm, &lines, 2, lines.dims())).around(|| {
            let stats = self.sums.statistics(norm.groups(), norm.eps() as f32);
            group_norm_band(lines, [norm.weight.val(), norm.bias.val()], &stats, silu)
        })
    }
}
