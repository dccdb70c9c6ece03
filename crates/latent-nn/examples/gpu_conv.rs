//! Scratch: Burn's convolution against shifted products on a GPU.
#![allow(clippy::print_stdout)]
use burn::tensor::{DType, Tensor, module, ops::ConvOptions as O};
use latent_nn::ops::{self, ConvArguments, ConvOptions, GroupNormOptions, WeightUse};
use latent_nn::{Precision, select_device, to_host};
use std::time::Instant;

fn sync(t: &Tensor<1>) -> f32 {
    to_host(t.clone().slice([0..1])).0[0]
}
fn flat<const D: usize>(t: Tensor<D>) -> Tensor<1> {
    let n = t.dims().iter().product::<usize>();
    t.reshape([n])
}

fn time(name: &str, gflop: f64, mut f: impl FnMut() -> Tensor<1>) {
    let t = Instant::now();
    let v = sync(&f());
    let first = t.elapsed().as_secs_f64();
    for _ in 0..2 {
        f();
    }
    let t = Instant::now();
    let mut last = f();
    for _ in 0..9 {
        last = f();
    }
    sync(&last);
    let each = t.elapsed().as_secs_f64() / 10.0;
    println!(
        "{name:40} first {first:6.2} s, each {:8.3} ms, {:8.1} GFLOP/s  ({v})",
        each * 1e3,
        gflop / each
    );
}

fn im2col(x: Tensor<4>) -> Tensor<2> {
    let [n, h, w, c] = x.dims();
    let dev = x.device();
    let zr = Tensor::<4>::zeros([n, 1, w, c], &dev).cast(x.dtype());
    let x = Tensor::cat(vec![zr.clone(), x, zr], 1);
    let zc = Tensor::<4>::zeros([n, h + 2, 1, c], &dev).cast(x.dtype());
    let x = Tensor::cat(vec![zc.clone(), x, zc], 2);
    let mut parts = Vec::new();
    for i in 0..3 {
        for j in 0..3 {
            parts.push(x.clone().slice([0..n, i..i + h, j..j + w, 0..c]));
        }
    }
    Tensor::cat(parts, 3).reshape([n * h * w, 9 * c])
}

fn main() {
    let device = select_device(&std::env::args().nth(1).unwrap_or("cuda".into()))
        .unwrap()
        .device;
    for (n, s, ci, co) in [
        (256usize, 16usize, 96usize, 96usize),
        (256, 8, 192, 192),
        (256, 4, 256, 256),
        (16, 128, 32, 32),
        (16, 32, 128, 128),
    ] {
        let g = 2.0 * (n * s * s * 9 * ci * co) as f64 / 1e9;
        let x = Tensor::<4>::random([n, s, s, ci], burn::tensor::Distribution::Default, &device);
        let w = Tensor::<4>::random([co, ci, 3, 3], burn::tensor::Distribution::Default, &device);
        println!("{n}x{s}x{s} {ci}->{co}");
        let opt = ConvOptions {
            padding: [1; 4],
            weight_use: WeightUse::Once,
            ..ConvOptions::new(Precision::Bf16)
        };
        time("ours forward", g, || {
            flat(ops::conv2d(
                x.clone(),
                w.clone(),
                ConvArguments::default(),
                opt,
            ))
        });
        {
            let ad = device.clone().autodiff();
            let xa = Tensor::<4>::from_data(x.clone().into_data(), &ad).require_grad();
            let wa = Tensor::<4>::from_data(w.clone().into_data(), &ad).require_grad();
            time("ours forward+backward", 3.0 * g, || {
                let y = ops::conv2d(xa.clone(), wa.clone(), ConvArguments::default(), opt);
                let mut grads = y.sum().backward();
                let dx = xa.grad_remove(&mut grads).unwrap();
                let dw = wa.grad_remove(&mut grads).unwrap();
                Tensor::cat(vec![flat(dx).slice([0..1]), flat(dw).slice([0..1])], 0)
            });
        }
        let xb = x.clone().cast(DType::BF16);
        let wb = w.clone().cast(DType::BF16);
        time("burn bf16 nchw view", g, || {
            flat(module::conv2d(
                xb.clone().permute([0, 3, 1, 2]),
                wb.clone(),
                None,
                O::new([1, 1], [1, 1], [1, 1], 1),
            ))
            .cast(DType::F32)
        });
        let wm = wb.clone().permute([2, 3, 1, 0]).reshape([9 * ci, co]);
        time("im2col product forward", g, || {
            flat(im2col(xb.clone()).matmul(wm.clone())).cast(DType::F32)
        });
        let cols = im2col(xb.clone());
        time("product alone", g, || {
            flat(cols.clone().matmul(wm.clone())).cast(DType::F32)
        });
        let dy = cols.clone().matmul(wm.clone());
        time("weight product x^T dy", g, || {
            flat(cols.clone().transpose().matmul(dy.clone())).cast(DType::F32)
        });
        let gn = GroupNormOptions {
            groups: 16,
            eps: 1e-5,
            silu: true,
        };
        let ones = Tensor::<1>::ones([ci], &device);
        time("group norm silu", 0.0, || {
            flat(ops::group_norm(x.clone(), ones.clone(), ones.clone(), gn))
        });
        time("add", 0.0, || flat(x.clone() + x.clone()));
    }
}
