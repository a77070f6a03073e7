//! A plan as text for people: what every stage uses, adds, and will meet.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration};

use crate::io::store::shown;
use crate::model::DeviceSpec;
use crate::pipeline::Plan;
use crate::pipeline::estimate::{Computing, Estimate, Memory, ModelMemory, Room, Rows, Training};

/// The stages in the order in which they run.
pub(super) fn text(plan: &Plan, estimates: &BTreeMap<String, Estimate>) -> String {
    let devices: Vec<String> = plan.devices.iter().map(ToString::to_string).collect();
    let named = if devices.len() == 1 { "device" } else { "devices" };
    let mut out = format!("workdir {}, {named} {}, seed {}\n", shown(&plan.workdir), devices.join(", "), plan.seed);
    for node in &plan.nodes {
        let operation = node.operation();
        let uses: Vec<String> = operation.uses().iter().map(|(field, name)| format!("{field} {name}")).collect();
        let _ = writeln!(out, "{:<20} {:<9} {}", node.id, operation.name(), uses.join(", "));
        let mut more = |text: String| {
            let _ = writeln!(out, "{:<20} {text}", "");
        };
        if let Some(dataset) = &node.dataset {
            let (files, units) = (dataset.files().count(), dataset.units().len());
            more(format!("{} rows in {}, {}", dataset.rows(), count(files, "file"), count(units, "unit")));
        }
        let input = operation.inputs().first().and_then(|(_, input)| plan.node(input));
        let known = |name: &str| input.is_some_and(|input| input.columns.field_with_name(name).is_ok());
        let added = node.columns.fields().iter().map(|field| field.name().as_str()).filter(|name| !known(name));
        let added: Vec<&str> = added.collect();
        if !added.is_empty() {
            more(format!("columns {}", added.join(", ")));
        }
        if let Some((_, tokens)) = operation.longest_row() {
            more(format!("prompt and answer of {tokens} tokens or fewer"));
        }
        let Some(estimate) = estimates.get(&node.id) else { continue };
        if let Some(rows) = &estimate.rows {
            more(meets(rows));
        }
        if let Some(training) = estimate.training {
            more(takes_steps(training));
        }
        if let Some(memory) = &estimate.memory {
            more(keeps(memory));
            if let Some(room) = &memory.room {
                more(has_room(memory, room, plan.device));
            }
        }
        if let Some(computing) = estimate.computing {
            more(takes(computing));
        }
    }
    out
}

fn keeps(memory: &Memory) -> String {
    let models = memory.models.iter().map(|model| {
        let ModelMemory { name, parameters, bytes_a_parameter } = model;
        let count = match *parameters {
            few @ ..100_000 => few.to_string(),
            many => format!("{:.1} M", many as f64 / 1e6),
        };
        format!("{name} {count} parameters of {bytes_a_parameter} bytes")
    });
    let parts: Vec<String> = models.chain([format!("a batch {}", HumanBytes(memory.batch))]).collect();
    format!("about {} of memory for models and a batch: {}", HumanBytes(memory.bytes()), parts.join(", "))
}

fn has_room(memory: &Memory, room: &Room, device: DeviceSpec) -> String {
    let free = format!("{} free on {device}", HumanBytes(room.free));
    match (memory.fits(), room.settings.is_empty()) {
        (true, _) => format!("fits: {free}"),
        (false, true) => format!("does not fit: {free}"),
        (false, false) => format!("does not fit: {free}; it would with {}", room.settings.join(", ")),
    }
}

fn takes(Computing { operations, seconds }: Computing) -> String {
    let (tflop, speed) = (operations / 1e12, operations / seconds / 1e9);
    let time = HumanDuration(Duration::from_secs_f64(seconds.min(1e15)));
    format!("about {tflop:.1} TFLOP: {time} or more, with products at {speed:.0} GFLOP/s")
}

fn takes_steps(Training { steps, warmup_steps, rates: [first, peak, last], exact }: Training) -> String {
    let about = if exact { "" } else { "about " };
    format!(
        "{about}{}, {warmup_steps} of warm-up; learning rate {first:.2e} at first, {peak:.2e} at most, {last:.2e} at last",
        count(steps as usize, "step")
    )
}

fn meets(rows: &Rows) -> String {
    let mut text = format!("about {:.0} rows", rows.rows_out);
    if let Some([prompt, chosen, rejected]) = rows.tokens {
        let mean = |sum: f64| sum / rows.rows_out.max(1.0);
        let _ = write!(
            text,
            ", {:.3} M tokens; a row has {:.0} of prompt, {:.0} chosen, {:.0} rejected",
            (prompt + chosen + rejected) / 1e6,
            mean(prompt),
            mean(chosen),
            mean(rejected)
        );
    }
    for (reason, count) in &rows.set_aside {
        let _ = write!(text, "; set aside {:.1} % ({reason})", 100.0 * count / rows.rows_in.max(1.0));
    }
    let _ = write!(text, " (from {} rows)", rows.sampled);
    text
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
