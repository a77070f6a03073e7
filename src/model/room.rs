//! How many tokens a pass takes: as many as the pipeline file says or as the device has memory for, and fewer once it had none.
//!
//! A device out of memory is noticed by what it says. LibTorch's errors arrive as panics of burn's tensors, which are caught here and
//! nowhere else; what fails for another reason is an error with the device's name.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::device::DeviceSpec;
use crate::error::{Error, Result, caught};

/// The largest number of tokens of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum BatchTokens {
    /// This number.
    AtMost(usize),
    /// What fits.
    Fitting(Fitting),
}

/// A number that is found by estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fitting {
    /// As many as the estimate of `sepo plan` has room for in the memory that was free on the device at first; 4096 where that is not
    /// known, and on processors.
    Auto,
}

impl Default for BatchTokens {
    fn default() -> Self {
        Self::AtMost(Self::USUAL)
    }
}

impl BatchTokens {
    /// Tokens of a pass without a word about it: fits two thousand positions of a small model in every cache.
    pub const USUAL: usize = 4096;

    /// More tokens make no pass faster.
    const MOST: usize = 1 << 16;

    /// The number where nothing is known of the device.
    pub fn at_least(self) -> usize {
        match self {
            Self::AtMost(tokens) => tokens,
            Self::Fitting(_) => Self::USUAL,
        }
    }

    /// How many tokens fit into `free` bytes, where models and a pass of [`Self::USUAL`] tokens take `some` bytes, and with twice as
    /// many tokens `more`. A fifth of the memory is left to what is not counted.
    pub fn fitting(free: u64, some: u64, more: u64) -> usize {
        let batch = more.saturating_sub(some);
        let room = (free / 5 * 4).saturating_sub(some.saturating_sub(batch)) * Self::USUAL as u64 / batch.max(1);
        usize::try_from(room).map_or(Self::MOST, |room| room.clamp(1, Self::MOST))
    }
}

/// The room of passes on a device.
#[derive(Debug)]
pub struct Room {
    device: DeviceSpec,
    /// Most tokens of a pass; a longer row has a pass of its own.
    most: AtomicUsize,
    has_warned: AtomicBool,
}

impl Room {
    /// Room for `tokens` tokens.
    pub fn new(device: DeviceSpec, tokens: usize) -> Self {
        Self { device, most: tokens.into(), has_warned: AtomicBool::new(false) }
    }

    /// The most tokens of a pass.
    pub fn tokens(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Calls `pass` with consecutive ranges of rows that have `costs` tokens each, until every row was in one that succeeded. A
    /// range that the device had no memory for is split: `pass` keeps nothing of what it did not finish.
    ///
    /// # Errors
    /// Those of `pass`; a device that fails, or has no memory for one row.
    pub fn batches(&self, costs: &[usize], mut pass: impl FnMut(Range<usize>) -> Result<()>) -> Result<()> {
        let mut done = 0;
        while done < costs.len() {
            let first = done;
            for range in budget(costs[first..].iter().copied(), self.tokens()) {
                let range = first + range.start..first + range.end;
                if self.attempt(&costs[range.clone()], || pass(range.clone()))?.is_none() {
                    break;
                }
                done = range.end;
            }
        }
        Ok(())
    }

    /// What `pass`, over rows of `costs` tokens each, makes; none where the device had no memory for it: the room is then half of it.
    ///
    /// # Errors
    /// As for [`Self::batches`].
    pub fn attempt<T>(&self, costs: &[usize], pass: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let tokens: usize = costs.iter().sum();
        let failure = match guarded(self.device, tokens, pass) {
            Ok(made) => return made.map(Some),
            Err(failure) => failure,
        };
        if !failure.is_out_of_memory() || costs.len() < 2 {
            return Err(failure.error(self.device));
        }
        let half = tokens / 2;
        self.most.fetch_min(half, Ordering::Relaxed);
        let device = self.device;
        let message =
            format!("{device}: no memory for a pass of {tokens} tokens ({failure}); passes now have {half} at most");
        match self.has_warned.swap(true, Ordering::Relaxed) {
            false => tracing::warn!("{message}"),
            true => tracing::info!("{message}"),
        }
        Ok(None)
    }
}

/// What `work`, which computes on `device`, makes.
///
/// # Errors
/// Those of `work`; a device that fails, by its name.
pub fn on_device<T>(device: DeviceSpec, work: impl FnOnce() -> Result<T>) -> Result<T> {
    guarded(device, 0, work).map_err(|failure| failure.error(device))?
}

/// Consecutive ranges whose total cost is at most `limit`; a single cost above it has a range of its own.
pub fn budget(costs: impl Iterator<Item = usize>, limit: usize) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut sum = 0;
    for (index, cost) in costs.enumerate() {
        match ranges.last_mut() {
            Some(range) if sum + cost <= limit => range.end = index + 1,
            _ => {
                ranges.push(index..index + 1);
                sum = 0;
            }
        }
        sum += cost;
    }
    ranges
}

/// Why a device did not do what it should.
#[derive(Debug)]
struct Failure {
    /// Its words, on one line.
    words: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

impl Failure {
    /// The failure that the panic `panic` tells of. LibTorch's message is quoted in it, with a trace of the stack behind it.
    fn of(panic: &str) -> Self {
        let words = panic.split_once("Torch(\"").map_or(panic, |(_, quoted)| quoted);
        let words = words.split("\\n").next().unwrap_or(words);
        Self { words: words.lines().next().unwrap_or_default().trim_end_matches("\")").to_owned() }
    }

    /// FlashAttention's interface has no words for it: what fails there may be memory.
    fn is_out_of_memory(&self) -> bool {
        let words = self.words.to_lowercase();
        ["out of memory", "t allocate memory", "alloc_failed", "flashattention failed"]
            .iter()
            .any(|it| words.contains(it))
    }

    fn error(&self, device: DeviceSpec) -> Error {
        let way_out = match self.is_out_of_memory() {
            true => {
                "; a lower `batch_tokens` or `max_length`, `precision: bf16` and in training `memory: low` need less"
            }
            false => "",
        };
        Error::model(device, format!("{self}{way_out}"))
    }
}

/// What `work`, a pass over `tokens` tokens, returns. The kernels of `cpu` are this crate's own: a panic there is a fault of the
/// program, and stays one.
fn guarded<T>(device: DeviceSpec, tokens: usize, work: impl FnOnce() -> T) -> Result<T, Failure> {
    if tokens > MEMORY.get() {
        return Err(Failure::of(&format!("out of memory on demand, above {} tokens", MEMORY.get())));
    }
    match device {
        DeviceSpec::Cpu => Ok(work()),
        _ => caught(work).map_err(|panic| Failure::of(&panic)),
    }
}

thread_local! {
    /// The most tokens that a pass of this thread has memory for.
    static MEMORY: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Failures on demand: what `work` makes where passes of more than `tokens` tokens in this thread fail as on a device without memory
/// for them.
pub fn with_memory_for<T>(tokens: usize, work: impl FnOnce() -> T) -> T {
    let before = MEMORY.replace(tokens);
    let made = work();
    MEMORY.set(before);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_within_the_budget() {
        assert_eq!(budget([3, 4, 5, 20, 1].into_iter(), 9), [0..2, 2..3, 3..4, 4..5]);
        assert!(budget(std::iter::empty(), 9).is_empty());
    }

    #[test]
    fn what_has_no_memory_is_split_and_the_room_stays_small() {
        let (room, mut seen) = (Room::new(DeviceSpec::Cpu, 100), Vec::new());
        let costs = [10; 12];
        let mut pass = |range: Range<usize>| {
            seen.push(range);
            Ok(())
        };
        with_memory_for(30, || room.batches(&costs, &mut pass)).unwrap();
        // 100, then 50, then 25 tokens.
        assert_eq!(room.tokens(), 25);
        room.batches(&costs[..4], &mut pass).unwrap();
        assert_eq!(seen, [0..2, 2..4, 4..6, 6..8, 8..10, 10..12, 0..2, 2..4]);
        let said = with_memory_for(5, || room.batches(&costs, |_| Ok(()))).unwrap_err().to_string();
        assert!(said.starts_with("cpu: out of memory on demand, above 5 tokens; a lower `batch_tokens`"), "{said}");
    }

    #[test]
    fn a_batch_fills_four_fifths_of_the_memory_beside_the_models() {
        // Models of 50 GB, and 1 MB a token.
        let bytes = |tokens: usize| 50_000_000_000 + 1_000_000 * tokens as u64;
        let fitting = |free| BatchTokens::fitting(free, bytes(BatchTokens::USUAL), bytes(2 * BatchTokens::USUAL));
        assert_eq!(fitting(80_000_000_000), 14_000);
        assert_eq!(fitting(60_000_000_000), 1);
        assert_eq!(fitting(900_000_000_000), BatchTokens::MOST);
    }

    #[test]
    fn a_failure_has_the_words_of_libtorch() {
        let panic = r#"called `Result::unwrap()` on an `Err` value: Torch("CUDA out of memory. Tried to allocate 2.00 GiB.\nException raised from malloc")"#;
        let failure = Failure::of(panic);
        assert_eq!(failure.to_string(), "CUDA out of memory. Tried to allocate 2.00 GiB.");
        assert!(failure.is_out_of_memory());
        let failure = Failure::of(
            "called `Result::unwrap()` on an `Err` value: Torch(\"CUDA error: unspecified launch failure\")",
        );
        assert_eq!(failure.to_string(), "CUDA error: unspecified launch failure");
        let said = failure.error(DeviceSpec::LibTorchCuda(1)).to_string();
        assert_eq!(said, "libtorch:cuda:1: CUDA error: unspecified launch failure");
    }

    /// As much memory as no machine has: LibTorch's own words.
    #[cfg(feature = "tch")]
    #[test]
    fn libtorch_out_of_memory_is_known_by_what_it_says() {
        use burn::tensor::Tensor;
        let device = DeviceSpec::LibTorch.open().unwrap();
        let huge = || Tensor::<1>::empty([1_usize << 48], &device).dims();
        let failure = guarded(DeviceSpec::LibTorch, 1, huge).unwrap_err();
        assert!(failure.is_out_of_memory(), "{failure}");
        assert!(!failure.to_string().contains("Exception raised"), "{failure}");
    }
}
