//! Keys and values on a device: one tensor each for all sequences of a layer. New rows are written behind the last ones; when the
//! tensors are full, the rows of open sequences move to new ones. Where the rows of a sequence are is the same in all layers.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};

use super::{Place, Slot};
use crate::kernels::attention::Spans;
use crate::kernels::attention::recalled::{Recalled, recall};

/// The smallest number of rows of a cache.
const LEAST: usize = 64;

/// Where the rows of all sequences are.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// The rows of every sequence, by slot.
    slots: Vec<Vec<i32>>,
    used: usize,
    capacity: usize,
}

/// What a pass is for every layer.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    /// The first new row.
    start: usize,
    /// The rows that stay, in their new order, where the cache moves before the pass.
    moved: Option<Vec<i32>>,
    capacity: usize,
    recalled: Arc<Recalled>,
}

impl Arena {
    pub(super) fn empty(&mut self, slot: Slot) {
        self.slots.resize(self.slots.len().max(slot + 1), Vec::new());
        self.slots[slot].clear();
    }

    /// Finds room for a new row at each of `places`.
    pub(super) fn begin(&mut self, places: &[Place]) -> Pass {
        let moved = (self.used + places.len() > self.capacity).then(|| self.compact(places.len()));
        let start = self.used;
        for (row, place) in (start..).zip(places) {
            self.slots[place.slot].push(row as i32);
        }
        self.used += places.len();
        let mut recalled = Recalled::default();
        for run in places.chunk_by(|one, next| one.slot == next.slot) {
            let prompt = run[0].prompt.map_or(&[][..], |slot| &self.slots[slot]);
            recalled.push(run.len(), prompt.iter().chain(&self.slots[run[0].slot]).copied());
        }
        Pass { start, moved, capacity: self.capacity, recalled: Arc::new(recalled) }
    }

    /// Gives the rows of open sequences new places from the first on, with room for as many more and `new` ones; returns their old places.
    fn compact(&mut self, new: usize) -> Vec<i32> {
        let old = self.slots.concat();
        let mut next = 0..;
        for row in self.slots.iter_mut().flatten() {
            *row = next.next().unwrap_or_default();
        }
        self.used = old.len();
        self.capacity = (2 * (old.len() + new)).max(LEAST);
        old
    }
}

/// Keys and values of one layer, `[capacity, kv_heads * d]` each.
#[derive(Debug, Default)]
pub struct DeviceLayer {
    /// None before the first row.
    rows: Option<[Tensor<2>; 2]>,
    pass: Option<Pass>,
}

impl DeviceLayer {
    pub(super) fn begin(&mut self, pass: &Pass) {
        self.pass = Some(pass.clone());
    }

    pub(super) fn attend(&mut self, q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, spans: Spans) -> Tensor<2> {
        let Pass { start, moved, capacity, recalled } = self.pass.take().expect("a pass begins before its layers");
        let kept = self.rows.take();
        let [count, width] = k.dims();
        let write = |new: Tensor<2>, kept: Option<Tensor<2>>| {
            let rows = match (kept, &moved) {
                (Some(rows), None) => rows,
                (kept, moved) => moved_to(capacity, kept, moved.as_deref().unwrap_or_default(), &new),
            };
            rows.slice_assign([start..start + count, 0..width], new)
        };
        let [keys, values] = kept.map_or([None, None], |rows| rows.map(Some));
        let rows = [write(k, keys), write(v, values)];
        let [keys, values] = rows.clone();
        self.rows = Some(rows);
        recall(q, keys, values, recalled, spans)
    }
}

/// A tensor of `capacity` rows like `new`, which begins with the rows `moved` of `kept`.
fn moved_to(capacity: usize, kept: Option<Tensor<2>>, moved: &[i32], new: &Tensor<2>) -> Tensor<2> {
    let (width, device) = (new.dims()[1], new.device());
    let empty = Tensor::<2>::zeros([capacity - moved.len(), width], &device).cast(new.dtype());
    match kept {
        Some(kept) if !moved.is_empty() => {
            let indices = TensorData::new(moved.to_vec(), [moved.len()]);
            Tensor::cat(vec![kept.select(0, Tensor::<1, Int>::from_data(indices, &device)), empty], 0)
        }
        _ => empty,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_closed_sequences_make_room() {
        let mut arena = Arena::default();
        let place = |slot, prompt| Place { slot, prompt };
        (0..3).for_each(|slot| arena.empty(slot));
        let first = arena.begin(&[place(0, None), place(0, None), place(1, None)]);
        assert_eq!((first.start, first.moved, first.capacity), (0, Some(Vec::new()), LEAST));
        assert_eq!(arena.begin(&[place(2, Some(0))]).start, 3);
        arena.empty(1);
        arena.used = LEAST;
        let next = arena.begin(&[place(2, Some(0)), place(1, None)]);
        assert_eq!((next.start, next.moved), (3, Some(vec![0, 1, 3])));
        assert_eq!(arena.slots, [vec![0, 1], vec![4], vec![2, 3]]);
    }
}
