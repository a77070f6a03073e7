//! A step of a pass: a stage at work, in the thread of the pass, or on several devices at once.
//!
//! Each of several devices has a thread, with models of its own, that takes the next batch whenever it is free. All passes of a process
//! give their batches to the same threads; each gets its results back in the order of its batches.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use arrow::array::RecordBatch;

use crate::error::{Error, Result};
use crate::model::DeviceSpec;
use crate::stages::{Metrics, Outcome, Transform};

/// A stage at work.
pub(super) struct Step {
    pub(super) id: String,
    work: Work,
}

enum Work {
    Here(Box<dyn Transform>),
    Devices(Arc<Crew>),
}

/// What a stage made of a batch.
pub(super) struct Applied {
    pub(super) outcome: Outcome,
    /// What it counted.
    pub(super) counted: Metrics,
    pub(super) seconds: f64,
}

/// A batch that was given to a stage. Dropped, it is not computed any more.
pub(super) struct Submitted {
    result: Receiver<Result<Applied>>,
    _waits: Arc<()>,
}

impl Applied {
    fn by(work: &mut dyn Transform, batch: RecordBatch) -> Result<Self> {
        let start = Instant::now();
        let outcome = work.apply(batch)?;
        Ok(Self { outcome, counted: work.counted(), seconds: start.elapsed().as_secs_f64() })
    }
}

impl Step {
    /// The stage `id` in the thread of the pass.
    pub(super) fn new(id: &str, work: Box<dyn Transform>) -> Self {
        Self { id: id.to_owned(), work: Work::Here(work) }
    }

    /// The stage `id` on several devices.
    pub(super) fn on(id: &str, crew: Arc<Crew>) -> Self {
        Self { id: id.to_owned(), work: Work::Devices(crew) }
    }

    /// Gives `batch` to the stage.
    pub(super) fn submit(&mut self, batch: RecordBatch) -> Submitted {
        let ((reply, result), waits) = (channel(), Arc::new(()));
        match &mut self.work {
            Work::Here(work) => drop(reply.send(Applied::by(&mut **work, batch))),
            Work::Devices(crew) => crew.submit(Job { batch, reply, waits: Arc::downgrade(&waits) }),
        }
        Submitted { result, _waits: waits }
    }

    /// What the stage made of a batch that was submitted. Waits for it.
    ///
    /// # Errors
    /// What the stage says.
    pub(super) fn result(&self, submitted: &Submitted) -> Result<Applied> {
        let gone =
            |_| Error::stage(&self.id, "the thread of a device ended before its batch; its last words are above");
        submitted.result.recv().map_err(gone)?.map_err(|error| error.in_stage(&self.id))
    }

    /// What the stage makes of `batch`.
    ///
    /// # Errors
    /// What the stage says.
    pub(super) fn apply(&mut self, batch: RecordBatch) -> Result<Applied> {
        let submitted = self.submit(batch);
        self.result(&submitted)
    }

    /// What the stage counted, where no batch said so.
    pub(super) fn counted(&mut self) -> Metrics {
        match &mut self.work {
            Work::Here(work) => work.counted(),
            Work::Devices(_) => Metrics::new(),
        }
    }

    /// The number of batches that a pass should have submitted and not yet got back, so that no device waits for one.
    pub(super) fn ahead(&self) -> usize {
        match &self.work {
            Work::Here(_) => 0,
            Work::Devices(crew) => 2 * crew.threads.len(),
        }
    }
}

/// A batch, and who waits for what becomes of it.
struct Job {
    batch: RecordBatch,
    reply: Sender<Result<Applied>>,
    /// Alive as long as somebody waits.
    waits: Weak<()>,
}

/// The threads of several devices.
pub(super) struct Crew {
    /// None when the crew ends.
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// A thread for each of `devices`, with what `open` loads on it; all load at the same time.
    ///
    /// # Errors
    /// The first error of `open`.
    pub(super) fn open(
        devices: &[DeviceSpec],
        open: impl Fn(DeviceSpec) -> Result<Box<dyn Transform>> + Sync,
    ) -> Result<Self> {
        let open = &open;
        let loaded: Vec<Result<Box<dyn Transform>>> = thread::scope(|scope| {
            let threads: Vec<_> = devices.iter().map(|device| scope.spawn(move || open(*device))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        let loaded: Vec<Box<dyn Transform>> = loaded.into_iter().collect::<Result<_>>()?;
        let (jobs, waiting) = channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        let threads = loaded.into_iter().map(|mut work| {
            let waiting = waiting.clone();
            thread::spawn(move || {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(Job { batch, reply, waits }) = next else { return };
                    if waits.strong_count() > 0 {
                        // Whoever waited may have given up meanwhile.
                        let _ = reply.send(Applied::by(&mut *work, batch));
                    }
                }
            })
        });
        Ok(Self { threads: threads.collect(), jobs: Some(jobs) })
    }

    fn submit(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // Without a thread that would take it, the reply is dropped, and whoever waits sees that.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // What a thread had to say it said when it panicked.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, AsArray, Int32Array};
    use arrow::datatypes::Int32Type;
    use serde_json::json;
    use std::time::Duration;

    /// Takes longer for small numbers, refuses 13, and waits for the gate.
    #[derive(Clone, Default)]
    struct Slow {
        gate: Arc<Mutex<()>>,
        computed: Arc<Mutex<Vec<i32>>>,
        counted: u64,
    }

    impl Transform for Slow {
        fn apply(&mut self, batch: RecordBatch) -> Result<Outcome> {
            let value = batch.column(0).as_primitive::<Int32Type>().value(0);
            thread::sleep(Duration::from_millis(20 / (value as u64 + 1)));
            drop(self.gate.lock().unwrap());
            self.computed.lock().unwrap().push(value);
            self.counted += 1;
            if value == 13 { Err(Error::model("cpu", "no thirteen")) } else { Ok(Outcome::all(batch)) }
        }

        fn counted(&mut self) -> Metrics {
            [("batches".to_owned(), json!(std::mem::take(&mut self.counted)))].into_iter().collect()
        }
    }

    fn batch(value: i32) -> RecordBatch {
        RecordBatch::try_from_iter([("x", Arc::new(Int32Array::from(vec![value])) as ArrayRef)]).unwrap()
    }

    fn step(devices: usize, slow: &Slow) -> Step {
        let open = |_| Ok(Box::new(slow.clone()) as Box<dyn Transform>);
        Step::on("slow", Arc::new(Crew::open(&vec![DeviceSpec::Cpu; devices], open).unwrap()))
    }

    #[test]
    fn results_come_back_in_order_with_their_own_counts() {
        let mut step = step(3, &Slow::default());
        assert_eq!(step.ahead(), 6);
        let submitted: Vec<_> = (0..12).map(|value| (value, step.submit(batch(value)))).collect();
        for (value, submitted) in submitted {
            let Applied { outcome, counted, .. } = step.result(&submitted).unwrap();
            assert_eq!((outcome.kept, &counted["batches"]), (batch(value), &json!(1)));
        }
    }

    #[test]
    fn an_error_names_its_stage_and_leaves_the_other_batches_alone() {
        let mut step = step(2, &Slow::default());
        let [bad, good] = [13, 1].map(|value| step.submit(batch(value)));
        let said = step.result(&bad).err().unwrap().to_string();
        assert_eq!(said, "stage `slow`: cpu: no thirteen");
        assert_eq!(step.result(&good).unwrap().outcome.kept, batch(1));
    }

    #[test]
    fn a_batch_that_nobody_waits_for_is_not_computed() {
        let slow = Slow::default();
        let gate = slow.gate.lock().unwrap();
        let mut step = step(1, &slow);
        let [first, second, third] = [1, 2, 3].map(|value| step.submit(batch(value)));
        drop(second);
        drop(gate);
        for submitted in [first, third] {
            step.result(&submitted).unwrap();
        }
        assert_eq!(*slow.computed.lock().unwrap(), [1, 3]);
    }

    #[test]
    fn a_device_that_cannot_load_ends_it_all() {
        let open = |device| match device {
            DeviceSpec::Cpu => Ok(Box::new(Slow::default()) as Box<dyn Transform>),
            other => Err(Error::model(other, "is not there")),
        };
        let said = Crew::open(&[DeviceSpec::Cpu, DeviceSpec::LibTorch], open).err().unwrap().to_string();
        assert_eq!(said, "libtorch: is not there");
    }
}
