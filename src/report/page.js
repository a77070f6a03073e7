"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const about = read("about");
  const data = read("data");

  /** An element with a text or with children. Text is never markup. */
  const make = (tag, content, classes) => {
    const element = document.createElement(tag);
    if (classes) element.className = classes;
    if (Array.isArray(content)) element.append(...content);
    else if (content !== undefined && content !== null) element.textContent = content;
    return element;
  };

  /** Text in which characters that cannot be seen, or that turn the direction of others, are written out. */
  const plain = (text) =>
    text
      .replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) =>
        `\\u{${c.codePointAt(0).toString(16)}}`)
      .replace(/\t/g, "⇥")
      .replace(/\n/g, "⏎\n");

  const number = (value, digits = 4) => {
    if (value === null || value === undefined) return "–";
    if (Number.isInteger(value)) return value.toLocaleString("en");
    return Math.abs(value) >= 1e-3 || value === 0 ? String(Number(value.toPrecision(digits))) : value.toExponential(digits - 2);
  };
  const signed = (value) => (value > 0 ? "+" : "") + number(value).replace("-", "−");
  const percent = (part, whole) => (whole && part !== undefined ? `${number((100 * part) / whole, 3)} %` : "–");

  const table = (caption, head, rows) => {
    const cells = (tag, row) => make("tr", row.map((cell) => (cell instanceof Node ? cell : make(tag, cell))));
    const element = make("table", [make("thead", [cells("th", head)]), make("tbody", rows.map((row) => cells("td", row)))]);
    element.prepend(make("caption", caption));
    return element;
  };
  const section = (title, children) => {
    const element = make("section", [make("h2", title), ...children]);
    element.setAttribute("aria-label", title);
    return element;
  };
  const words = (name) => name.replaceAll("_", " ");
  const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  const before = document.getElementById("before");
  const after = document.getElementById("after");
  document.getElementById("source").textContent = `${plain(data.source)}, by sepo ${about.version}`;

  const SIDES = ["chosen", "rejected"];

  const numbers = ({ statistics, warnings, set_aside }) => {
    const sides = SIDES.map((side) => statistics[side]);
    const row = (name, value) => [name, ...sides.map(value)];
    before.append(...warnings.map((warning) => make("p", plain(warning), "warning")));
    before.append(
      section("Rows", [
        make("div", [
          table("Pairs", ["", "count"], [
            ["rows", number(statistics.rows)],
            ["chosen answer has the higher reward", `${number(statistics.ranked_right)} (${percent(statistics.ranked_right, statistics.rows)})`],
            ["mean margin (nats)", number(statistics.margin.mean)],
            ["standard deviation of margins", number(statistics.margin.deviation)],
            ["smallest and largest margin", `${number(statistics.margin.min)}, ${number(statistics.margin.max)}`],
          ]),
          table("Answers", ["", ...SIDES], [
            row("tokens of the assistant", (side) => number(side.whole.tokens)),
            row("other tokens in answers", (side) => number(side.not_assistant)),
            row("mean reward of an answer (nats)", (side) => number(side.reward.mean)),
            row("mean reward of a token (nats)", (side) => number(side.token_reward.mean)),
            row("tokens with a reward of exactly 0", (side) => percent(side.zero_rewards, side.whole.tokens)),
            row("correlation of length and reward", (side) => number(side.length_and_reward, 3)),
            ...(statistics.has_texts ? [row("reward on end and newline tokens, by size", (side) => percent(side.end_share, 1))] : []),
          ]),
          setAside(set_aside),
        ], "tables"),
      ]),
    );
  };

  const made = ({ provenance }) => {
    const rows = Object.entries(provenance).map(([name, value]) => [words(name), make("td", plain(shown(value)), "text")]);
    after.append(section("What made the rows", [table("Digests of models, tokenizer and template; rules of masks", ["", "value"], rows)]));
  };

  const setAside = (reasons) => {
    if (!reasons) return make("p", "Nothing is known here of rows that were set aside.", "faint");
    if (!reasons.length) return make("p", "No row was set aside.", "faint");
    return table("Rows set aside", ["stage", "reason", "rows"],
      reasons.map(({ stage, reason, rows }) => [plain(stage), make("td", plain(reason), "text"), number(rows)]));
  };

  const tokens = ({ statistics }) => {
    const first = statistics.masks[0];
    const head = ["", "tokens", ...(first ? ["key tokens"] : []), "reward", "reward of a token"];
    const cells = (sum) => [
      number(sum.tokens),
      ...(first ? [percent(sum.key_tokens, sum.tokens)] : []),
      number(sum.reward),
      sum.tokens ? number(sum.reward / sum.tokens) : "–",
    ];
    const classes = (side) => Object.entries(statistics[side].classes).map(([name, sum]) => [words(name), ...cells(sum)]);
    const list = (side, which) => statistics[side][which].map((token) =>
      [make("td", token.text === null ? `id ${token.id}` : `“${plain(token.text)}”`, "text"), ...cells(token)]);
    const parts = [];
    if (statistics.has_texts) {
      parts.push(make("div", SIDES.map((side) => table(`${side}: by class`, head, classes(side))), "tables"));
      parts.push(make("p", "A word starts where letters follow white space. Special tokens are those of the tokenizer, or look like <|end|> where it is not at hand.", "faint"));
    }
    for (const side of SIDES) {
      parts.push(make("div", [
        table(`${side}: token strings with the highest sum of rewards`, head, list(side, "highest")),
        table(`${side}: with the lowest`, head, list(side, "lowest")),
      ], "tables"));
    }
    after.append(section("Tokens", parts));
  };

  const masks = ({ statistics }) => {
    if (!statistics.masks.length) return;
    const marked = statistics.masks.map((mask) => [mask, ...SIDES.flatMap((side) => {
      const { marked, whole } = statistics[side];
      return [number(marked[mask] ?? 0), percent(marked[mask] ?? 0, whole.tokens)];
    })]);
    const parts = [table("Tokens that each mask marks", ["mask", "chosen", "share", "rejected", "share"], marked)];
    const pairs = statistics.overlaps.flatMap(({ first, second, ...sides }) => SIDES.map((side) => {
      const { both, only_first, only_second } = sides[side];
      return [`${first} and ${second}`, side, number(both), number(only_first), number(only_second), percent(both, both + only_first + only_second)];
    }));
    if (pairs.length) {
      parts.push(table("Two masks side by side", ["masks", "side", "both", "only the first", "only the second", "both of any"], pairs));
    }
    after.append(section("Masks", [make("div", parts, "tables")]));
  };

  /** Rows token by token, one at a time. */
  const viewer = ({ statistics, sample }) => {
    const rows = sample.rows;
    const field = (name, input) => make("label", [name, input]);
    const input = (type, id, hint) => Object.assign(make("input"), { type, id, placeholder: hint, step: "any" });
    const choice = (id, none) => {
      const select = Object.assign(make("select"), { id });
      const options = [...(none ? [["", "none"]] : []), ...statistics.masks.map((mask, index) => [index, mask])];
      select.append(...options.map(([value, name]) => Object.assign(make("option", name), { value })));
      return select;
    };
    const [least, most, query] = [input("number", "least", "from"), input("number", "most", "to"), input("search", "query", "text, / to begin")];
    const [mask, other] = [choice("mask", false), choice("other", true)];
    const [back, next] = [make("button", "← k"), make("button", "j →")];
    const place = make("output");
    const form = make("form", [back, next, place, field("margin from", least), field("margin to", most), field("search", query)]);
    if (statistics.masks.length) form.append(field("underline", mask), field("beside it", other));
    form.addEventListener("submit", (event) => event.preventDefault());
    const detail = Object.assign(make("p"), { id: "detail" });
    const panel = Object.assign(make("div"), { id: "row" });
    after.append(section("Row by row", [
      make("p", `${sample.rule} Blue: the oracle finds the token likelier than the reference, orange: less likely; underlined: key tokens. Keys: j or → next, k or ← previous, / search.`, "faint"),
      form, detail, panel,
    ]));

    const texts = rows.map((row) => [row.id ?? "", row.prompt, ...SIDES.map((side) => row[side].tokens.join(""))].join("\n").toLowerCase());
    let [found, at] = [[], 0];
    const bound = (input, otherwise) => (input.value === "" ? otherwise : Number(input.value));
    const filter = () => {
      const [low, high, text] = [bound(least, -Infinity), bound(most, Infinity), query.value.toLowerCase()];
      found = rows.map((_, index) => index)
        .filter((index) => rows[index].margin >= low && rows[index].margin <= high && texts[index].includes(text));
      at = 0;
      show();
    };
    const move = (step) => {
      if (!found.length) return;
      at = (at + step + found.length) % found.length;
      show();
    };
    const show = () => {
      const row = rows[found[at]];
      place.textContent = row ? `${at + 1} of ${found.length}` : "no row";
      detail.textContent = "";
      panel.replaceChildren(...(row ? describe(row) : []));
    };
    const describe = (row) => {
      const prompt = make("div", plain(row.prompt), "prompt");
      prompt.dir = "auto";
      const id = row.id === undefined ? "" : `, ${plain(row.id)}`;
      const strongest = Math.max(...SIDES.flatMap((side) => row[side].rewards.map(Math.abs)), Number.MIN_VALUE);
      const picked = [mask.value, other.value].filter((value) => value !== "").map(Number);
      const columns = picked.length ? picked : [null];
      return [
        make("h3", `Row ${row.row}${id}: margin ${signed(row.margin)} (${words(row.why)})`),
        prompt,
        ...SIDES.map((side) => make("div", columns.map((index) => answer(side, row[side], index, strongest)), "answers")),
      ];
    };
    const answer = (side, answer, index, strongest) => {
      const name = index === null ? "" : `, ${statistics.masks[index]}`;
      const block = make("div", heat(answer, index, strongest), "tokens");
      block.dir = "auto";
      const more = answer.left_out ? [make("p", `${number(answer.left_out)} more tokens are not shown.`, "faint")] : [];
      return make("section", [make("h3", `${side}: reward ${signed(answer.reward)}${name}`), block, ...more]);
    };
    const heat = (answer, index, strongest) => {
      const marks = index === null ? "" : answer.masks[index];
      const blocks = [];
      answer.rewards.forEach((reward, token) => {
        const text = answer.tokens[token];
        const key = marks[token] === "1";
        const line = [
          `id ${answer.ids[token]}`,
          `reward ${signed(reward)}`,
          ...(answer.reference ? [`reference ${number(answer.reference[token])}`] : []),
          ...(answer.oracle ? [`oracle ${number(answer.oracle[token])}`] : []),
          ...(key ? ["key token"] : []),
        ].join(", ");
        const foreign = answer.assistant?.[token] === "0";
        const last = blocks[blocks.length - 1];
        // The rest of a character that the token before begins.
        if (text === "" && last) {
          Object.assign(last, { reward: last.reward + reward, key: last.key || key, lines: [...last.lines, line] });
        } else {
          blocks.push({ text: text === undefined ? `${answer.ids[token]} ` : plain(text), reward, key, foreign, token, lines: [line] });
        }
      });
      return blocks.map(({ text, reward, key, foreign, token, lines }) => {
        const span = make("span", text, `token${key ? " key" : ""}${foreign ? " foreign" : ""}`);
        const [red, green, blue] = about.colours[reward < 0 ? 1 : 0];
        const strength = Math.min(Math.abs(reward) / strongest, 1) * about.strongest;
        span.style.backgroundColor = `rgba(${red}, ${green}, ${blue}, ${strength.toFixed(3)})`;
        span.title = lines.join("\n");
        span.dataset.token = token;
        return span;
      });
    };

    panel.addEventListener("pointerover", (event) => {
      if (event.target.classList.contains("token")) detail.textContent = event.target.title.replaceAll("\n", "; ");
    });
    back.addEventListener("click", () => move(-1));
    next.addEventListener("click", () => move(1));
    [least, most, query].forEach((element) => element.addEventListener("input", filter));
    [mask, other].forEach((element) => element.addEventListener("change", show));
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const typing = ["INPUT", "SELECT"].includes(document.activeElement?.tagName);
      if (event.key === "Escape") document.activeElement?.blur();
      else if (typing) return;
      else if (event.key === "j" || event.key === "ArrowRight") move(1);
      else if (event.key === "k" || event.key === "ArrowLeft") move(-1);
      else if (event.key === "/") query.focus();
      else return;
      event.preventDefault();
    });
    filter();
  };

  const training = ({ steps, every, broken_lines, last }) => {
    if (broken_lines) before.append(make("p", `${number(broken_lines)} lines of the log are no metrics and were left out.`, "warning"));
    const parts = [make("p", `${number(steps)} steps.${every > 1 ? ` Every ${every}th point is drawn.` : ""}`)];
    parts.push(table("Last values", ["metric", "value"], Object.entries(last).map(([name, value]) => [plain(name), number(value)])));
    before.append(section("Numbers", parts));
  };

  if (data.kind === "training") training(data);
  else [numbers, tokens, masks, viewer, made].forEach((part) => part(data));
})();
