//! SwiGLU on flex.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use rayon::prelude::*;

use super::SwiGlu;
use crate::kernels::flex::memory::{tensor, values, whole};
use crate::kernels::flex::simd::{exp, vectorized};

/// Elements per task.
const CHUNK: usize = 16 * 1024;

impl SwiGlu for Flex {
    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (mut out, up) = (whole(gate), up.to_contiguous());
        let gates = out.storage_mut::<f32>().par_chunks_mut(CHUNK);
        gates.zip(values(&up).par_chunks(CHUNK)).for_each(|(gate, up)| {
            vectorized(
                #[inline(always)]
                || {
                    for (gate, up) in gate.iter_mut().zip(up) {
                        *gate = *gate / (1.0 + exp(-*gate)) * up;
                    }
                },
            );
        });
        out
    }

    fn swiglu_backward(gate: FlexTensor, up: FlexTensor, grad: FlexTensor) -> (FlexTensor, FlexTensor) {
        let (gate, up, grad) = (gate.to_contiguous(), up.to_contiguous(), grad.to_contiguous());
        let size = values(&gate).len();
        let (mut grad_gate, mut grad_up) = (vec![0f32; size], vec![0f32; size]);
        let outputs = grad_gate.par_chunks_mut(CHUNK).zip(grad_up.par_chunks_mut(CHUNK));
        let inputs = values(&gate).par_chunks(CHUNK).zip(values(&up).par_chunks(CHUNK));
        let inputs = inputs.zip(values(&grad).par_chunks(CHUNK));
        outputs.zip(inputs).for_each(|((grad_gate, grad_up), ((gate, up), grad))| {
            vectorized(
                #[inline(always)]
                || {
                    for i in 0..gate.len() {
                        let sigmoid = 1.0 / (1.0 + exp(-gate[i]));
                        let silu = gate[i] * sigmoid;
                        grad_gate[i] = grad[i] * up[i] * (sigmoid + silu * (1.0 - sigmoid));
                        grad_up[i] = grad[i] * silu;
                    }
                },
            );
        });
        (like(grad_gate, &gate), like(grad_up, &gate))
    }
}

fn like(values: Vec<f32>, shape: &FlexTensor) -> FlexTensor {
    tensor(values, [shape.shape().num_elements()]).reshape(shape.shape())
}
