//! The pipelines of docs/reproduction.md, on a few rows: that everything runs, not who wins.

use std::fs;

use crate::harness::{Folder, repository};

#[test]
fn the_reproduction_runs_from_one_file() {
    let folder = Folder::new();
    let repository = repository();
    let suite = repository.join("pipelines/repro/quick.yaml");
    let text = fs::read_to_string(suite)
        .unwrap()
        .replace("pipelines/repro/", &format!("{}/pipelines/repro/", repository.display()));
    let suite = folder.write("quick.yaml", &text);
    std::os::unix::fs::symlink(repository.join("data"), folder.path("data")).unwrap();
    let suite = suite.to_str().unwrap();
    assert_eq!(folder.succeeds(&["check", suite]).matches("no problems").count(), 5);
    folder.succeeds(&["run", suite, "--var", "out=out"]);
    let there = |name: &str| fs::read_to_string(folder.path(&format!("out/tables/{name}"))).unwrap();
    for (name, rows) in [
        ("methods", ["| sepo |", "| sepo_random |", "| dpo |", "| tbpo_q |", "| chosen |", "## validation_answers"]),
        (
            "shares",
            ["| both_10 |", "| both_100 |", "| chosen_50 |", "| rejected_10 |", "## by_share", "## answers_by_share"],
        ),
        (
            "weak_to_strong",
            [
                "| smaller_2 |",
                "| smaller_17 |",
                "| part_10 |",
                "| all_tokens |",
                "## planted_part_10",
                "## weak_to_strong",
            ],
        ),
        (
            "off_distribution",
            ["| sepo |", "| sepo_all |", "| dpo |", "| oracle |", "## on_facts", "## on_what_they_trained_on"],
        ),
        ("noise", ["| sepo |", "| dpo_robust |", "| before |", "## answers", "## methods", "## costs by stage"]),
    ] {
        let tables = there(&format!("{name}/tables.md"));
        for row in rows {
            assert!(tables.contains(row), "{name}: no `{row}` in {tables}");
        }
        assert!(folder.path(&format!("out/tables/{name}/numbers.parquet")).is_file());
    }
    let plots = ["methods/accuracy_by_drift", "methods/reward_by_share", "shares/win_rate_by_share"];
    for plot in plots.into_iter().chain(["weak_to_strong/accuracy_by_oracle"]) {
        assert!(there(&format!("{plot}.svg")).contains("<circle"), "{plot}");
    }
}

/// The recorded run: what is kept beside its numbers is what `sepo tables` makes of them.
#[test]
fn the_recorded_tables_are_made_of_the_recorded_numbers() {
    let folder = Folder::new();
    for name in ["methods", "shares", "weak_to_strong", "off_distribution", "noise"] {
        let kept = repository().join("docs/reproduction").join(name);
        fs::create_dir(folder.path(name)).unwrap();
        fs::copy(kept.join("numbers.parquet"), folder.path(name).join("numbers.parquet")).unwrap();
        let file = repository().join(format!("pipelines/repro/{name}.yaml"));
        folder.succeeds(&["tables", file.to_str().unwrap(), name]);
        let files: Vec<_> = fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(files.len() >= 2, "{files:?}");
        for file in files.iter().filter(|file| *file != "numbers.parquet") {
            let [made, kept] = [folder.path(name), kept.clone()].map(|at| fs::read_to_string(at.join(file)).unwrap());
            assert!(made == kept, "{name}/{}: run sepo tables again", file.display());
        }
        assert_eq!(fs::read_dir(folder.path(name)).unwrap().count(), files.len());
    }
    // scipy 1.17: the differences of the seeds have a mean of -0.0642 ± 0.0206, and ttest_1samp a p of 0.00098.
    let tables = fs::read_to_string(folder.path("methods/tables.md")).unwrap();
    let (_, with_one_rate) =
        tables.split_once("### methods: accuracy less that of `sepo`, paired by `seed`, all with `lr` 0.0003").unwrap();
    let random = with_one_rate.lines().find(|line| line.starts_with("| sepo_random ")).unwrap();
    assert!(random.starts_with("| sepo_random | 0.0003 | 5 | -0.064 ± 0.021 | 0.0010 |"), "{random}");
}
