//! Words at the door: `check` answers what people bring from elsewhere, each mistake once and at its own line; the schema for
//! editors accepts what is shipped.

use std::fs;
use std::process::Command;

use crate::harness::{Folder, repository, small_model};

fn fixture(name: &str) -> String {
    repository().join("tests/fixtures").join(name).display().to_string()
}

/// A pipeline from text to a policy, whose `models:` are those of the quickstart's small model.
fn pipeline(folder: &Folder) -> String {
    folder.write("rows.jsonl", "{\"prompt\": \"q\", \"chosen\": \"a\", \"rejected\": \"b\"}\n");
    let models = small_model();
    format!(
        "\
vars: {{ n: 8 }}
workdir: run
{models}stages:
  pairs: {{ read: {{ from: rows.jsonl }} }}
  tokens: {{ tokenize: {{ input: pairs, tokenizer: base }} }}
  ref: {{ train: {{ input: tokens, model: base, objective: {{ sft: {{}} }}, learning_rate: 0.01 }} }}
  oracle: {{ train: {{ input: tokens, model: ref, objective: {{ dpo: {{}} }}, learning_rate: 0.01 }} }}
  scored: {{ score: {{ input: tokens, oracle: oracle, reference: ref }} }}
  keyed: {{ select: {{ input: scored, also: {{ random: {{ rule: random }}, all: {{ rule: all }} }} }} }}
  policy: {{ train: {{ input: keyed, model: ref, objective: {{ sepo: {{}} }}, mask: random, batch_size: '${{n}}' }} }}
"
    )
}

/// What `check` says of `text`: a list of `LINE:COLUMN: message\n  help: …`, without the file's name.
fn check(folder: &Folder, text: &str) -> Vec<String> {
    folder.write("p.yaml", text);
    let said = folder.fails(&["check", "p.yaml"], 78);
    let said = said.trim_start_matches("error: ").trim_end();
    said.split("\n\n").map(|problem| problem.trim_start_matches("p.yaml:").to_owned()).collect()
}

#[test]
fn a_model_folder_that_is_missing_is_one_mistake_at_its_own_line() {
    let folder = Folder::new();
    let text = pipeline(&folder);
    let (start, end) = (text.find("models:").unwrap(), text.find("stages:").unwrap());
    let with = |models: &str| format!("{}{models}{}", &text[..start], &text[end..]);
    let said = check(&folder, &with("models:\n  base: { path: nowhere/at/all }\n"));
    assert_eq!(said, ["4:11: the folder `nowhere/at/all` does not exist"]);
    let said = check(&folder, &with("models:\n  base: { path: meta-llama/Llama-3.2-1B }\n"));
    let expected = "4:11: the folder `meta-llama/Llama-3.2-1B` does not exist\n  help: on the hub it is `hf://meta-llama/Llama-3.2-1B`";
    assert_eq!(said, [expected]);
    let said = check(&folder, &with("models:\n  base: { path: rows.jsonl }\n"));
    assert_eq!(said, ["4:11: `rows.jsonl` is a file, not a folder"]);
    fs::create_dir(folder.path("empty")).unwrap();
    let said = check(&folder, &with("models:\n  base: { path: empty }\n"));
    assert!(said.len() == 1 && said[0].starts_with("4:11: ") && said[0].contains("empty/config.json"), "{said:?}");
    fs::copy(fixture("llama-tied") + "/config.json", folder.path("empty/config.json")).unwrap();
    let said = check(&folder, &with("models:\n  base: { path: empty }\n"));
    assert!(said.len() == 1 && said[0].starts_with("4:11: ") && said[0].contains("model.safetensors"), "{said:?}");
    // A model that is whole and has no tokenizer is a mistake of the stage that needs one.
    let said = check(&folder, &with(&format!("models:\n  base: {{ path: \"{}\" }}\n", fixture("gpt2-bare"))));
    assert!(said.len() == 1 && said[0].starts_with("7:"), "{said:?}");
    assert!(
        said[0].contains("model `base` has no tokenizer") && said[0].contains("`models: base`, as `tokenizer`"),
        "{said:?}"
    );
}

#[test]
fn tokenizers_and_data_of_the_hub_are_told_from_folders() {
    let folder = Folder::new();
    let text = pipeline(&folder);
    let said = check(&folder, &text.replace("tokenizer: base }", "tokenizer: openai-community/gpt2 }"));
    let expected = "`openai-community/gpt2` is neither a model under `models:` nor a folder\n  help: on the hub it is `hf://openai-community/gpt2`";
    assert!(said.len() == 1 && said[0].ends_with(expected), "{said:?}");
    let said = check(&folder, &text.replace("tokenizer: base }", "tokenizer: bse }"));
    assert!(said.len() == 1 && said[0].ends_with("help: did you mean `base`?"), "{said:?}");
    let said = check(&folder, &text.replace("from: rows.jsonl", "from: Anthropic/hh-rlhf"));
    assert!(
        said.len() == 1 && said[0].ends_with("help: on the hub it is `hf://datasets/Anthropic/hh-rlhf`"),
        "{said:?}"
    );
}

#[test]
fn words_of_trl_and_llama_factory_are_answered_by_ours() {
    let folder = Folder::new();
    let text = pipeline(&folder);
    for (wrong, message, help) in [
        ("lr: 1.0e-4", "unknown key `lr`", "did you mean `learning_rate`?"),
        ("num_train_epochs: 1", "unknown key `num_train_epochs`", "did you mean `epochs`?"),
        ("warmup_ratio: 0.1", "unknown key `warmup_ratio`", "did you mean `warmup`?"),
        ("lr_scheduler_type: cosine", "unknown key `lr_scheduler_type`", "did you mean `decay`?"),
        ("logging_steps: 5", "unknown key `logging_steps`", "did you mean `log_every`?"),
        (
            "per_device_train_batch_size: 2",
            "unknown key `per_device_train_batch_size`",
            "`batch_size` of a `train` stage is",
        ),
        (
            "gradient_accumulation_steps: 8",
            "unknown key `gradient_accumulation_steps`",
            "`batch_tokens` tokens as it needs",
        ),
        ("bf16: true", "unknown key `bf16`", "`precision: bf16` at the top of the file"),
        ("gradient_checkpointing: true", "unknown key `gradient_checkpointing`", "`memory: low`"),
        ("beta: 0.1", "unknown key `beta`", "`objective: { dpo: { beta: 0.1 } }`"),
        (
            "max_prompt_length: 512",
            "unknown key `max_prompt_length`",
            "the setting here is `max_length` of a `tokenize` stage",
        ),
        ("save_steps: 100", "unknown key `save_steps`", "`checkpoint: { every: 200 }`"),
        ("lora_r: 8", "unknown key `lora_r`", "the setting here is `r` of `lora` in a `train` stage"),
        ("lora: { lora_alpha: 8 }", "unknown key `lora_alpha`", "did you mean `alpha`?"),
        ("decay: constant_with_warmup", "unknown choice `constant_with_warmup`", "did you mean `constant`?"),
    ] {
        let said = check(&folder, &text.replace("mask: random", wrong));
        assert!(said.len() == 1 && said[0].contains(message) && said[0].contains(help), "{wrong}: {said:?}");
    }
    let objective =
        |word: &str| check(&folder, &text.replace("objective: { sepo: {} }", &format!("objective: {word}")));
    let said = objective("sepo");
    assert!(
        said.len() == 1 && said[0].ends_with("`sepo` takes a map of settings\n  help: write `{ sepo: {} }`"),
        "{said:?}"
    );
    let said = objective("sigmoid");
    assert!(
        said.len() == 1 && said[0].ends_with("unknown name `sigmoid`\n  help: did you mean `dpo: {}`?"),
        "{said:?}"
    );
    let said = check(&folder, &text.replace("{ read: { from: rows.jsonl } }", "read"));
    assert!(said.len() == 1 && said[0].ends_with("help: write `{ read: { from: … } }`"), "{said:?}");
    // A whole file of another program: every line has its answer.
    let said = check(&folder, "model_name_or_path: x\nstage: dpo\ncutoff_len: 512\noutput_dir: out\n");
    for (line, help) in [
        (1, "`models: { NAME: { path: FOLDER } }`, and the name in the stage"),
        (3, "the setting here is `max_length` of a `tokenize` stage"),
        (4, "did you mean `workdir`?"),
    ] {
        let answered = said.iter().any(|said| said.starts_with(&format!("{line}:")) && said.ends_with(help));
        assert!(answered, "{help}: {said:?}");
    }
}

#[test]
fn a_second_mistake_does_not_follow_from_the_first() {
    let folder = Folder::new();
    let text = pipeline(&folder);
    // A required key that is misspelt is not missing as well.
    let said = check(&folder, &text.replace("read: { from:", "read: { form:"));
    assert!(said.len() == 1 && said[0].ends_with("unknown key `form`\n  help: did you mean `from`?"), "{said:?}");
    // A variable that is not there has no wrong type as well; one without a value is reported where it stands.
    let said = check(&folder, &text.replace("'${n}'", "'${m}'"));
    assert!(said.len() == 1 && said[0].contains("unknown variable `m`; the variables are n"), "{said:?}");
    let said = check(&folder, &text.replace("n: 8", "n: '${k}'"));
    assert!(said.len() == 1 && said[0].starts_with("1:9: unknown variable `k`"), "{said:?}");
}

#[test]
fn a_key_that_stands_twice_is_named_with_both_lines() {
    let folder = Folder::new();
    let text = pipeline(&folder).replace("tokenizer: base }", "tokenizer: base, input: pairs }") + "workdir: other\n";
    let said = check(&folder, &text);
    let last = text.lines().count();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("duplicate key `input`; the first one is in line"), "{said:?}");
    let expected = format!("{last}:1: duplicate key `workdir`; the first one is in line 2\n  help: remove one of them");
    assert_eq!(said[1], expected);
    folder.write("all.yaml", "pipelines: [a.yaml]\npipelines: [b.yaml]\n");
    assert!(folder.fails(&["check", "all.yaml"], 78).contains("all.yaml:2:1: duplicate key `pipelines`"));
}

#[test]
fn devices_are_answered_by_what_can_be_built() {
    let folder = Folder::new();
    let text = pipeline(&folder);
    for (device, parts) in [
        (
            "cuda:0",
            [
                "this build cannot use the device `cuda:0`",
                "an NVIDIA GPU is `libtorch:cuda:0`, in a build with `--features tch`",
            ],
        ),
        ("cuda", ["unknown device `cuda`; devices are cpu", "an NVIDIA GPU is `libtorch:cuda:0`"]),
        ("libtorch:cuda:1", ["this build cannot use the device `libtorch:cuda:1`", "build with `--features tch`"]),
    ] {
        if cfg!(feature = "tch") && device.starts_with("libtorch") {
            continue;
        }
        let said = check(&folder, &format!("device: {device}\n{text}"));
        assert!(said.len() == 1 && said[0].starts_with("1:"), "{said:?}");
        assert!(parts.iter().all(|part| said[0].contains(part)), "{said:?}");
    }
}

#[test]
fn a_mask_that_is_misspelt_is_answered_by_the_masks_there_are() {
    let folder = Folder::new();
    let text = pipeline(&folder);
    let said = check(&folder, &text.replace("mask: random", "mask: randon"));
    assert!(said.len() == 1 && said[0].ends_with("no mask `randon`\n  help: did you mean `random`?"), "{said:?}");
    let said = check(&folder, &text.replace("mask: random", "mask: thirty_percent"));
    assert!(said.len() == 1 && said[0].ends_with("no mask `thirty_percent`\n  help: one of all, random"), "{said:?}");
    let said = check(&folder, &text.replace("input: keyed", "input: scored"));
    assert!(said.len() == 1 && said[0].contains("put a `select` stage before it"), "{said:?}");
}

const VALIDATE: &str = "
import glob, json, sys, jsonschema, yaml
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
for draft in (jsonschema.Draft202012Validator, jsonschema.Draft7Validator):
    for file in sorted(glob.glob(sys.argv[2] + '/*.yaml') + glob.glob(sys.argv[2] + '/repro/*.yaml')):
        for error in draft(schema).iter_errors(yaml.safe_load(open(file))):
            sys.exit(f'{file}: {list(error.absolute_path)}: {error.message}')
        print(file)
wrong = yaml.safe_load(open(sys.argv[2] + '/quickstart.yaml'))
wrong['stages']['tokens']['tokenize']['max_lenght'] = 3
[error] = jsonschema.Draft202012Validator(schema).iter_errors(wrong)
leaf = error
assert list(leaf.absolute_path) == ['stages', 'tokens', 'tokenize'] and 'max_lenght' in leaf.message, leaf
";

/// Needs Python with jsonschema and yaml; skipped with a word where they are missing (`SEPO_TEST_PYTHON` names the
/// interpreter). The unit tests of the schema have a small checker of their own.
#[test]
fn a_validator_of_json_schema_accepts_every_shipped_pipeline() {
    let python = std::env::var("SEPO_TEST_PYTHON").unwrap_or("python3".into());
    let found = Command::new(&python).args(["-c", "import jsonschema, yaml"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        println!("skipped: {python} has no jsonschema and yaml");
        return;
    }
    let folder = Folder::new();
    let schema = folder.succeeds(&["schema"]);
    let schema = folder.write("schema.json", &schema);
    let output =
        Command::new(&python).args(["-c", VALIDATE]).arg(schema).arg(repository().join("pipelines")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).lines().count() >= 22);
}
