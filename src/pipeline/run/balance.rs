//! Counts that must add up before anything is committed: nothing lost, nothing invented.

use crate::error::{Error, Result};
use crate::pipeline::report::Reports;

/// Checks that in every stage of `way`, which rows passed in this order, rows in = rows out + rows set aside, that each
/// stage took what the one before gave, and that what the last one gave is the `kept` rows that are there now. `came` is
/// the number of rows that the first stage had to take, where it is known.
///
/// # Errors
/// Counts that do not add up: a mistake of this program, or somebody changed the workdir.
pub(super) fn balanced(reports: &Reports, way: &[String], came: Option<u64>, kept: Option<u64>) -> Result<()> {
    let mut before = came;
    for id in way {
        let Some(report) = reports.get(id) else { continue };
        let aside: u64 = report.set_aside.values().sum();
        let wrong = |what: String| {
            let way_out = "nothing was committed; run again with --fresh, and report it if it happens again";
            Error::stage(id, format!("the rows do not add up: {what}; {way_out}"))
        };
        let (rows_in, rows_out) = (report.rows_in, report.rows_out);
        if let Some(before) = before.filter(|before| *before != rows_in) {
            return Err(wrong(format!("{before} were available, {rows_in} came in")));
        }
        if rows_in != rows_out + aside {
            return Err(wrong(format!("{rows_in} came in, {rows_out} went on and {aside} were set aside")));
        }
        before = Some(rows_out);
    }
    match (way.last().filter(|id| reports.contains_key(*id)), before, kept) {
        (Some(last), Some(gave), Some(kept)) if gave != kept => {
            let message = format!("the rows do not add up: {gave} passed on, {kept} stored; run again with --fresh");
            Err(Error::stage(last, message))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::report::StageReport;

    #[test]
    fn what_does_not_add_up_is_said() {
        let stage = |rows_in, rows_out, aside| StageReport {
            rows_in,
            rows_out,
            set_aside: [("empty answer".to_owned(), aside)].into(),
            ..StageReport::default()
        };
        let way = ["read".to_owned(), "score".to_owned()];
        let check = |read, score, came, kept| {
            let reports = [(way[0].clone(), read), (way[1].clone(), score)].into();
            balanced(&reports, &way, Some(came), Some(kept)).map_err(|error| error.to_string())
        };
        assert_eq!(check(stage(10, 8, 2), stage(8, 8, 0), 10, 8), Ok(()));
        for (wrong, expected) in [
            (
                check(stage(10, 8, 1), stage(8, 8, 0), 10, 8),
                "`read`: the rows do not add up: 10 came in, 8 went on and 1",
            ),
            (check(stage(10, 8, 2), stage(7, 7, 0), 10, 7), "`score`: the rows do not add up: 8 were available, 7"),
            (check(stage(10, 8, 2), stage(8, 8, 0), 11, 8), "`read`: the rows do not add up: 11 were available, 10"),
            (check(stage(10, 8, 2), stage(8, 8, 0), 10, 9), "`score`: the rows do not add up: 8 passed on, 9 stored"),
        ] {
            assert!(wrong.as_ref().is_err_and(|error| error.contains(expected)), "{wrong:?}");
        }
    }
}
