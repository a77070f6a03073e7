"""Opens reports in headless Chromium and looks at what a person would see.

    python tests/peers/report_in_chromium.py SEPO WORK --quickstart SCORED [--large SCORED] [--screenshots FOLDER]
        [--chromium PROGRAM]

SEPO is the program, WORK a folder for pages, SCORED a folder of scored rows: the quickstart's, and a large one. Needs
playwright (its Python package alone; the browser is the system's `chromium`), duckdb and pyarrow.
"""

import argparse
import json
import pathlib
import re
import subprocess
import time

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from playwright.sync_api import sync_playwright

HOSTILE = [
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "</style><style>*{display:none}</style>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\u202egnp.exe\u2066",
    "\u2028\u2029&lt;b&gt;",
    "<b>x" * (1 << 18),
]


def check(is_so, what):
    if not is_so:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}")


def report(arguments, scored, name, *more):
    out = pathlib.Path(arguments.work) / name
    start = time.time()
    subprocess.run([arguments.sepo, "report", str(scored), "--out", str(out), "--overwrite", *more], check=True)
    print(f"{name}: {out.stat().st_size} bytes in {time.time() - start:.1f} s")
    return out


def opened(browser, path, **options):
    """The page, what it complained about, and seconds until it was drawn."""
    page = browser.new_page(**options)
    complaints = []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: None if request.url.startswith("file:") else complaints.append(request.url))
    start = time.time()
    page.goto(path.resolve().as_uri())
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page, complaints, time.time() - start


def data_of(page):
    return json.loads(page.locator("#data").text_content())


def number(text):
    return float(text.replace(",", "").replace("−", "-"))


def heat(page):
    return page.eval_on_selector_all(
        ".token", "spans => spans.map(s => [s.textContent, getComputedStyle(s).backgroundColor, s.classList.contains('key'), s.title])"
    )


def expected_heat(row, about):
    """Blocks of tokens as the page should show them: key or not, colour."""
    strongest = max(abs(reward) for side in ("chosen", "rejected") for reward in row[side]["rewards"])
    blocks = []
    for side in ("chosen", "rejected"):
        first = True
        for text, reward, key in zip(row[side]["tokens"], row[side]["rewards"], row[side]["masks"][0]):
            if text == "" and not first:
                blocks[-1] = [blocks[-1][0] + reward, blocks[-1][1] or key == "1"]
            else:
                blocks.append([reward, key == "1"])
            first = False
    colours = []
    for reward, key in blocks:
        red, green, blue = about["colours"][reward < 0]
        colours.append((red, green, blue, min(abs(reward) / strongest, 1) * about["strongest"], key))
    return colours


def parse(colour):
    parts = [float(part) for part in re.findall(r"[\d.]+", colour)]
    return parts if len(parts) == 4 else [*parts, 1.0]


def look_at_rows(page, sql, data):
    about = json.loads(page.locator("#about").text_content())
    for row in data["sample"]["rows"][:5]:
        shown, expected = heat(page), expected_heat(row, about)
        check(len(shown) == len(expected), f"row {row['row']}: {len(shown)} tokens")
        for (text, colour, key, _), (red, green, blue, strength, is_key) in zip(shown, expected):
            found = parse(colour)
            right = found[:3] == [red, green, blue] or found[3] < 0.002
            assert right and abs(found[3] - strength) < 0.003 and key == is_key, (text, colour, key, strength, is_key)
        keys = sum(key for *_, key in expected)
        rows = f"(SELECT *, row_number() OVER () AS place FROM {sql})"
        counted = duckdb.sql(f"""SELECT len(list_filter(chosen_key_mask || rejected_key_mask, lambda key: key))
                                 FROM {rows} WHERE place = {row['row']}""").fetchall()[0][0]
        check(keys == counted, f"row {row['row']}: colours, and {keys} key tokens as in the file")
        page.keyboard.press("j")


def keyboard(page, data):
    count = len(data["sample"]["rows"])
    place = lambda: page.locator("output").text_content()
    page.reload()
    check(place() == f"1 of {count}", "the first row is shown")
    for key, expected in [("j", 2), ("ArrowRight", 3), ("k", 2), ("ArrowLeft", 1), ("k", count), ("j", 1)]:
        page.keyboard.press(key)
        check(place() == f"{expected} of {count}", f"{key} goes to row {expected}")
    page.keyboard.press("/")
    word = next(token.strip().lower() for token in data["sample"]["rows"][0]["chosen"]["tokens"] if len(token.strip()) > 3)
    page.keyboard.type(word)
    texts = ["\n".join([row.get("id", ""), row["prompt"]] + ["".join(row[side]["tokens"]) for side in ("chosen", "rejected")])
             for row in data["sample"]["rows"]]
    matches = sum(word in text.lower() for text in texts)
    check(place() == f"1 of {matches}", f"/ and a word find {matches} rows")
    page.keyboard.press("Escape")
    page.locator("#query").fill("")
    page.locator("#least").fill("0")
    positive = sum(row["margin"] >= 0 for row in data["sample"]["rows"])
    check(place() == f"1 of {positive}", f"{positive} rows have a margin from 0")
    page.locator("#least").fill("")
    if len(data["statistics"]["masks"]) > 1:
        one = page.locator(".tokens").count()
        page.locator("#other").select_option("1")
        check(page.locator(".tokens").count() == 2 * one, "two masks stand side by side")


def numbers_of(data, sql):
    """The page's numbers are DuckDB's."""
    numbers = data["statistics"]
    close = lambda a, b: abs(a - b) <= 1e-6 * max(1.0, abs(b))
    rows, right, mean, deviation = duckdb.sql(
        f"SELECT count(*), count(*) FILTER (reward_margin > 0), avg(reward_margin::DOUBLE), stddev_pop(reward_margin::DOUBLE) FROM {sql}"
    ).fetchall()[0]
    check((numbers["rows"], numbers["ranked_right"]) == (rows, right), f"{rows} rows, {right} ranked right, as in DuckDB")
    check(close(numbers["margin"]["mean"], mean) and close(numbers["margin"]["deviation"], deviation), "margins as in DuckDB")
    for side in ("chosen", "rejected"):
        found = numbers[side]
        # Tokens of turns that are not the assistant's count nowhere.
        tokens = f"""(SELECT * FROM (
            SELECT unnest({side}_ids) AS id, unnest({side}_token_rewards)::DOUBLE AS reward, unnest({side}_key_mask) AS key,
                   unnest({side}_assistant_mask) AS own FROM {sql}) WHERE own)"""
        count, key, reward, size = duckdb.sql(
            f"SELECT count(*), count(*) FILTER (key), sum(reward), sum(abs(reward)) FROM {tokens}"
        ).fetchall()[0]
        whole = found["whole"]
        check((whole["tokens"], whole["key_tokens"]) == (count, key), f"{side}: {count} tokens, {key} key tokens")
        check(close(whole["reward"], reward) and close(whole["magnitude"], size), f"{side}: sums of rewards")
        values = {"rewards": f"(SELECT {side}_reward AS reward FROM {sql})", "token_rewards": tokens}
        for histogram, source in values.items():
            width = found[histogram]["width"]
            counted = duckdb.sql(
                f"SELECT floor(reward::DOUBLE / {width}) * {width} AS start, count(*) FROM {source} GROUP BY start ORDER BY start"
            ).fetchall()
            columns = [(column["from"], column["count"]) for column in found[histogram]["columns"]]
            check(counted == columns, f"{side}: histogram of {histogram}")
        listed = duckdb.sql(
            f"SELECT id, count(*), sum(reward) AS total FROM {tokens} GROUP BY id ORDER BY total DESC LIMIT 20"
        ).fetchall()
        highest = [(token["id"], token["tokens"], token["reward"]) for token in found["highest"]]
        check(all(a[:2] == b[:2] and close(a[2], b[2]) for a, b in zip(highest, listed)), f"{side}: most rewarded tokens")
        length = f"len(list_filter({side}_assistant_mask, lambda own: own))"
        correlation = duckdb.sql(f"SELECT corr({length}, {side}_reward::DOUBLE) FROM {sql}").fetchall()[0][0]
        check(close(found["length_and_reward"], correlation), f"{side}: correlation of length and reward")


def hostile(arguments, browser):
    count = len(HOSTILE)
    lists = lambda value: [[value] * 2] * count
    columns = {"row_id": HOSTILE, "reward_margin": pa.array([0.5] * count, pa.float32())}
    for side in ("chosen", "rejected"):
        columns[f"{side}_ids"] = pa.array(lists(7), pa.list_(pa.int32()))
        columns[f"{side}_token_rewards"] = pa.array(lists(0.5), pa.list_(pa.float32()))
        columns[f"{side}_key_mask"] = pa.array(lists(True), pa.list_(pa.bool_()))
        columns[f"{side}_key_mask_<script>alert(1)</script>"] = pa.array(lists(True), pa.list_(pa.bool_()))
        columns[f"{side}_tokens"] = pa.array([[text, text] for text in HOSTILE], pa.list_(pa.string()))
    file = pathlib.Path(arguments.work) / "hostile.parquet"
    pq.write_table(pa.table(columns), file)
    path = report(arguments, file, "hostile.html")
    page, complaints, seconds = opened(browser, path)
    elements = "document.querySelectorAll('script, style, img, iframe, object, link').length"
    before = page.evaluate(elements)
    for _ in HOSTILE:
        page.keyboard.press("j")
    check(page.title() == "sepo report: Scored rows" and page.evaluate(elements) == before == 4, "hostile text adds no element")
    check(not complaints, f"hostile text: no complaint, no request, no dialog {complaints}")
    shown = [token for token, *_ in heat(page)]
    check(shown[0] == HOSTILE[0], "markup is shown as text")
    for _ in range(4):
        page.keyboard.press("j")
    shown = [token for token, *_ in heat(page)]
    check("\\u{202e}" in shown[0] and "\u202e" not in page.locator("body").inner_text(), "turned text is written out")
    check(page.evaluate("document.body.scrollWidth <= innerWidth"), "a token of a megabyte does not widen the page")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("sepo")
    parser.add_argument("work")
    parser.add_argument("--quickstart", required=True)
    parser.add_argument("--large")
    parser.add_argument("--screenshots")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        path = report(arguments, arguments.quickstart, "quickstart.html")
        page, complaints, seconds = opened(browser, path)
        data, sql = data_of(page), f"'{arguments.quickstart}/*.parquet'"
        numbers_of(data, sql)
        look_at_rows(page, sql, data)
        keyboard(page, data)
        check(not complaints, f"the quickstart's page: no complaint {complaints}")
        hostile(arguments, browser)
        if arguments.large:
            path = report(arguments, arguments.large, "large.html")
            check(path.stat().st_size < 5_000_000, "the large page has less than 5 MB")
            # Whatever else the machine does makes it slower: the fastest of five.
            openings = [opened(browser, path) for _ in range(5)]
            page, complaints, _ = openings[-1]
            seconds = min(seconds for *_, seconds in openings)
            check(seconds < 2 and not complaints, f"the large page is drawn in {seconds:.2f} s {complaints}")
            numbers_of(data_of(page), f"'{arguments.large}/*.parquet'")
        if arguments.screenshots:
            path = report(arguments, arguments.quickstart, "quickstart.html")
            for scheme in ("light", "dark"):
                page, *_ = opened(browser, path, color_scheme=scheme, viewport={"width": 1280, "height": 900})
                folder = pathlib.Path(arguments.screenshots)
                page.screenshot(path=folder / f"report-{scheme}.png")
                page.locator("form").scroll_into_view_if_needed()
                page.evaluate("document.querySelector('form').parentElement.scrollIntoView()")
                page.screenshot(path=folder / f"report-rows-{scheme}.png")
        browser.close()


main()
