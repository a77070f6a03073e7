//! Kernels and packing at the sizes of a 135M model. Throughput is in floating-point operations, so that `Gitem/s` reads
//! as GFLOP/s; packing counts tokens.
//!
//!     cargo bench --bench kernels

use std::fmt;
use std::sync::Arc;

use burn::tensor::{Device, Distribution, Tensor};
use divan::Bencher;
use divan::counter::ItemsCount;
use sepo::kernels::attention::{Segment, Spans};
use sepo::kernels::layout::Layout;
use sepo::kernels::packed::{Packed, packed_linear};
use sepo::kernels::token_kl::packed_token_kl;
use sepo::kernels::token_logps::packed_token_logps;
use sepo::model::{Needed, PackedBatch, Precision, Response};

const ROWS: usize = 2048;
const WIDTH: usize = 576;
const VOCABULARY: usize = 49152;
/// Rows that the head reads.
const NEEDED: usize = 256;

fn main() {
    divan::main();
}

/// How a weight is stored.
#[derive(Clone, Copy)]
enum Weight {
    Plain,
    Packed(Precision),
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.write_str("f32"),
            Self::Packed(Precision::F32) => f.write_str("f32 packed"),
            Self::Packed(Precision::Bf16x2) => f.write_str("bf16x2"),
            Self::Packed(Precision::Bf16) => f.write_str("bf16"),
        }
    }
}

/// Inputs, outputs and weight of a product.
struct Product(usize, usize, Weight);

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(inputs, outputs, weight) = self;
        write!(f, "{ROWS}x{inputs}x{outputs} {weight}")
    }
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

fn packed(shape: [usize; 2], precision: Precision) -> Arc<Packed> {
    let value = |output: usize, input: usize| (output * 31 + input * 7) as f32 % 16.0 / 16.0 - 0.5;
    Arc::new(Packed::new(shape, precision, value))
}

fn targets() -> Arc<[i32]> {
    (0..NEEDED as i32).map(|row| row * 191).collect()
}

fn products() -> Vec<Product> {
    let packings = [Precision::F32, Precision::Bf16x2, Precision::Bf16].map(Weight::Packed);
    let weights = [[Weight::Plain].as_slice(), &packings].concat();
    let shapes = [(WIDTH, WIDTH), (WIDTH, 1536), (1536, WIDTH)];
    shapes
        .iter()
        .flat_map(|(inputs, outputs)| weights.iter().map(|weight| Product(*inputs, *outputs, *weight)))
        .collect()
}

#[divan::bench(args = products())]
fn linear(bencher: Bencher, &Product(inputs, outputs, weight): &Product) {
    let x = random([ROWS, inputs]);
    let bencher = bencher.counter(ItemsCount::new(2 * ROWS * inputs * outputs));
    match weight {
        Weight::Plain => {
            let weight = random([outputs, inputs]);
            bencher.bench(|| sepo::kernels::linear::linear(x.clone(), weight.clone(), Layout::OutIn));
        }
        Weight::Packed(precision) => {
            let weight = packed([outputs, inputs], precision);
            bencher.bench(|| packed_linear(x.clone(), weight.clone()));
        }
    }
}

#[divan::bench(args = [Weight::Plain, Weight::Packed(Precision::F32), Weight::Packed(Precision::Bf16)], sample_count = 20)]
fn token_logps(bencher: Bencher, weight: Weight) {
    let (hidden, targets) = (random([NEEDED, WIDTH]), targets());
    let bencher = bencher.counter(ItemsCount::new(2 * NEEDED * WIDTH * VOCABULARY));
    match weight {
        Weight::Plain => {
            let weight = random([VOCABULARY, WIDTH]);
            bencher.bench(|| sepo::kernels::token_logps::token_logps(hidden.clone(), weight.clone(), targets.clone()));
        }
        Weight::Packed(precision) => {
            let weight = packed([VOCABULARY, WIDTH], precision);
            bencher.bench(|| packed_token_logps(hidden.clone(), weight.clone(), targets.clone()));
        }
    }
}

/// Two models' heads against each other, the reference's weight plain or packed; both products count.
#[divan::bench(args = [Weight::Plain, Weight::Packed(Precision::F32)], sample_count = 20)]
fn token_kl(bencher: Bencher, reference: Weight) {
    let [policy, other] = [(); 2].map(|()| [random([NEEDED, WIDTH]), random([VOCABULARY, WIDTH])]);
    let targets = targets();
    let bencher = bencher.counter(ItemsCount::new(4 * NEEDED * WIDTH * VOCABULARY));
    match reference {
        Weight::Plain => {
            bencher.bench(|| sepo::kernels::token_kl::token_kl(policy.clone(), other.clone(), targets.clone()));
        }
        Weight::Packed(precision) => {
            let (rows, head) = (&other[0], packed([VOCABULARY, WIDTH], precision));
            bencher.bench(|| packed_token_kl(policy.clone(), (rows.clone(), head.clone()), targets.clone()));
        }
    }
}

#[divan::bench(args = [128, 512, 2048])]
fn attention(bencher: Bencher, length: usize) {
    let (heads, kv_heads, head_dim) = (9, 3, 64);
    let count = ROWS / length;
    let segments = (0..count).map(|index| Segment { start: index * length, rows: length, prefix: None });
    let spans = Spans::new(segments.collect(), heads, kv_heads, head_dim);
    let q = random([ROWS, heads * head_dim]);
    let [k, v] = [(); 2].map(|()| random([ROWS, kv_heads * head_dim]));
    // Scores and values, half of a square each.
    let bencher = bencher.counter(ItemsCount::new(2 * count * heads * head_dim * length * length));
    bencher.bench(|| sepo::kernels::attention::attention(q.clone(), k.clone(), v.clone(), spans.clone()));
}

#[divan::bench]
fn packing_of_16_pairs(bencher: Bencher) {
    let (prompt, response) = (vec![1; 130], vec![2; 45]);
    let responses = [&response, &response].map(|ids| Response { ids, needed: Needed::All });
    bencher.counter(ItemsCount::new(16 * 220_usize)).bench(|| {
        let mut batch = PackedBatch::default();
        (0..16).for_each(|_| batch.push(divan::black_box(&prompt), &responses));
        batch
    });
}
