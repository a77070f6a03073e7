//! Kernels and packing at the sizes of a 135M model. Throughput is in floating-point operations, so that `Gelem/s` reads
//! as GFLOP/s; packing counts tokens.
//!
//!     cargo bench --bench kernels

use std::hint::black_box;
use std::sync::Arc;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sepo::kernels::attention::{Segment, Spans, attention};
use sepo::kernels::indices::Indices;
use sepo::kernels::layout::Layout;
use sepo::kernels::linear::linear;
use sepo::kernels::packed::{Packed, packed_linear};
use sepo::kernels::token_kl::{packed_token_kl, token_kl};
use sepo::kernels::token_logps::{packed_token_logps, token_logps};
use sepo::model::{Needed, PackedBatch, Precision, Response};

const ROWS: usize = 2048;
const WIDTH: usize = 576;

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

fn packed(shape: [usize; 2], precision: Precision) -> Arc<Packed> {
    let value = |output: usize, input: usize| (output * 31 + input * 7) as f32 % 16.0 / 16.0 - 0.5;
    Arc::new(Packed::new(shape, precision, value))
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    for (inputs, outputs) in [(WIDTH, WIDTH), (WIDTH, 1536), (1536, WIDTH)] {
        group.throughput(Throughput::Elements((2 * ROWS * inputs * outputs) as u64));
        let x = random([ROWS, inputs]);
        let weight = random([outputs, inputs]);
        let id = |name: &str| BenchmarkId::new(name, format!("{ROWS}x{inputs}x{outputs}"));
        group.bench_function(id("f32"), |b| b.iter(|| linear(x.clone(), weight.clone(), Layout::OutIn)));
        let packings = [("f32 packed", Precision::F32), ("bf16x2", Precision::Bf16x2), ("bf16", Precision::Bf16)];
        for (name, precision) in packings {
            let weight = packed([outputs, inputs], precision);
            group.bench_function(id(name), |b| b.iter(|| packed_linear(x.clone(), weight.clone())));
        }
    }
    group.finish();
}

fn head(c: &mut Criterion) {
    let (rows, vocabulary) = (256, 49152);
    let mut group = c.benchmark_group("token_logps");
    group.throughput(Throughput::Elements((2 * rows * WIDTH * vocabulary) as u64));
    group.sample_size(20);
    let hidden = random([rows, WIDTH]);
    let targets: Indices = (0..rows as i32).map(|row| row * 191).collect();
    let weight = random([vocabulary, WIDTH]);
    group.bench_function("f32", |b| b.iter(|| token_logps(hidden.clone(), weight.clone(), targets.clone())));
    for (name, precision) in [("f32 packed", Precision::F32), ("bf16", Precision::Bf16)] {
        let weight = packed([vocabulary, WIDTH], precision);
        group.bench_function(name, |b| b.iter(|| packed_token_logps(hidden.clone(), weight.clone(), targets.clone())));
    }
    group.finish();
}

/// Two models' heads against each other; both products count.
fn compared_heads(c: &mut Criterion) {
    let (rows, vocabulary) = (256, 49152);
    let mut group = c.benchmark_group("token_kl");
    group.throughput(Throughput::Elements((4 * rows * WIDTH * vocabulary) as u64));
    group.sample_size(20);
    let targets: Indices = (0..rows as i32).map(|row| row * 191).collect();
    let [policy, reference] = [(); 2].map(|()| [random([rows, WIDTH]), random([vocabulary, WIDTH])]);
    group.bench_function("f32", |b| b.iter(|| token_kl(policy.clone(), reference.clone(), targets.clone())));
    let (rows, head) = (&reference[0], packed([vocabulary, WIDTH], Precision::F32));
    group.bench_function("f32, packed reference", |b| {
        b.iter(|| packed_token_kl(policy.clone(), (rows.clone(), head.clone()), targets.clone()));
    });
    group.finish();
}

fn spans(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    let (heads, kv_heads, head_dim) = (9, 3, 64);
    for length in [128, 512, 2048] {
        let count = ROWS / length;
        let segments = (0..count).map(|index| Segment { start: index * length, rows: length, prefix: None });
        let spans = Spans::new(Arc::new(segments.collect::<Vec<_>>().into()), heads, kv_heads, head_dim);
        // Scores and values, half of a square each.
        let flops = 2 * count * heads * head_dim * length * length;
        group.throughput(Throughput::Elements(flops as u64));
        let q = random([ROWS, heads * head_dim]);
        let [k, v] = [(); 2].map(|()| random([ROWS, kv_heads * head_dim]));
        group.bench_function(BenchmarkId::from_parameter(length), |b| {
            b.iter(|| attention(q.clone(), k.clone(), v.clone(), spans.clone()))
        });
    }
    group.finish();
}

fn packing(c: &mut Criterion) {
    let mut group = c.benchmark_group("packing");
    let (prompt, response) = (vec![1; 130], vec![2; 45]);
    let responses = [&response, &response].map(|ids| Response { ids, needed: Needed::All });
    group.throughput(Throughput::Elements(16 * 220));
    group.bench_function("16 pairs", |b| {
        b.iter(|| {
            let mut batch = PackedBatch::default();
            (0..16).for_each(|_| batch.push(black_box(&prompt), &responses));
            batch
        })
    });
    group.finish();
}

criterion_group!(benches, products, head, compared_heads, spans, packing);
criterion_main!(benches);
