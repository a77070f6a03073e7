//! Rows of an embedding table on LibTorch: one operation each way.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;

use super::Embedding;
use crate::kernels::indices::Indices;
use crate::kernels::libtorch::{fresh, ints, owned};

impl Embedding for LibTorch {
    fn table_rows(table: TchTensor, ids: Indices) -> TchTensor {
        let ids = ints(&ids, table.tensor.device());
        fresh(table.tensor.index_select(0, &ids))
    }

    fn add_rows(sum: TchTensor, ids: Indices, rows: TchTensor) -> TchTensor {
        let ids = ints(&ids, sum.tensor.device());
        let mut sum = owned(sum);
        let rows = rows.tensor.to_kind(sum.kind());
        fresh(sum.index_add_(0, &ids, &rows))
    }
}
