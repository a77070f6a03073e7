"""An exact judge of answers to the quickstart's prompts: whether facts are right, nobody is rude, and the format is kept.

    python3 judge.py rules.json

For `judge: { command: { run: [python3, judge.py, rules.json], measures: [right, polite, well_formed, perfect] } }` of an `evaluate`
stage: reads a JSON object per line with `prompt` (messages) and `answer`, and writes one with its verdict. `rules.json` holds the tables
from which the data is made; the generator writes it.
"""
import functools
import json
import re
import sys


def capitalised(text):
    return text[:1].upper() + text[1:]


class Rules:
    """Patterns for the parts of answers."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            self.of = json.load(file)
        phrases = {name: self.any_of(self.of[name]) for name in ["openings", "links", "warm", "cold", "steps"]}
        closing = self.any_of(self.of["kind"] + self.of["rude"] + self.of["neutral"])
        self.rude = self.of["cold"] + self.of["rude"]
        self.closed, self.closed_list = rf"(?: {closing}\.)?", rf"(?:\. {closing}\.)?"
        self.opening, self.link = rf"(?:{phrases['openings']})?", phrases["links"]
        self.statement = [self.any_statement(table) for table in self.of["tables"]]
        opened = rf"(?:(?:{phrases['warm']}|{phrases['cold']})\. )?"
        advice = self.any_of(self.of["tasks"].values())
        self.advice = re.compile(rf"{opened}{advice}, {phrases['steps']}\.{self.closed}")
        heads = [head for sort in self.of["sorts"] for head in [f"Here are three {sort}:", f"Three {sort}:", f"The {sort} are these:"]]
        self.head = self.any_of(heads)
        self.thing = self.any_of([thing for things in self.of["sorts"].values() for thing in things])

    def phrase(self, text):
        """The pattern of a phrase, whose blanks `{day}`, `{book}`, `{n}` and `{name}` hold any of their words."""
        parts = re.split(r"\{(\w+)\}", text)
        words = ["|".join(map(re.escape, self.of["fillers"][part])) if index % 2 else "" for index, part in enumerate(parts)]
        return "".join(f"(?:{words})" if words else re.escape(part) for part, words in zip(parts, words))

    def any_of(self, phrases):
        return "(?:" + "|".join(map(self.phrase, phrases)) + ")"

    def any_statement(self, table):
        """A statement of the table, true or not."""
        answers = "|".join(sorted({re.escape(answer) for _, answer in table["facts"]}))
        forms = [capitalised(form.replace("{q}", about)) for form in table["statements"] for about, _ in table["facts"]]
        return "(?:" + "|".join(re.escape(form).replace(r"\{a\}", f"(?:{answers})") for form in forms) + ")"

    @functools.cached_property
    def questions(self):
        """The table, what is asked about, and the right answer, by the question."""
        return {
            capitalised(form.replace("{q}", about)): (index, about, answer)
            for index, table in enumerate(self.of["tables"])
            for form in table["questions"]
            for about, answer in table["facts"]
        }

    def facts_hold(self, answer, facts):
        """Whether each fact is stated, and nothing else about the same thing."""
        for index, about, right in facts:
            table = self.of["tables"][index]
            forms = [capitalised(form.replace("{q}", about)) for form in table["statements"]]
            said = {other for _, other in table["facts"] if any(form.replace("{a}", other) in answer for form in forms)}
            if said != {right}:
                return False
        return True

    def are_facts(self, answer, facts):
        statements = self.link.join(self.statement[index] for index, _, _ in facts)
        return re.fullmatch(self.opening + statements + self.closed, answer) is not None

    def lists(self, answer, sort):
        """Whether three different things of the sort are listed."""
        lines = [line.partition(" ") for line in answer.split("\n")[1:4]]
        things = {thing.partition(". ")[0] for _, space, thing in lines if space}
        return len(things) == 3 and things <= set(self.of["sorts"][sort])

    def is_list(self, answer, marks):
        lines = "".join(rf"\n{re.escape(mark)} {self.thing}" for mark in marks)
        return re.fullmatch(self.head + lines + self.closed_list, answer) is not None

    def judge(self, prompt, answer):
        """(right, well_formed) of an answer; an answer to another prompt than the data's is neither."""
        if prompt[-1:] not in ("?", "."):
            return False, False
        body = prompt[:-1]
        _, how, task = body.partition(" how to ")
        if how:
            advice = self.of["tasks"].get(task)
            return (advice in answer, self.advice.fullmatch(answer) is not None) if advice else (False, False)
        forms = {" as a numbered list": "123", " as a list with stars": "***", " as a list with dashes": "---"}
        for form, marks in forms.items():
            if body.endswith(form):
                sort = next((sort for sort in self.of["sorts"] if body.removesuffix(form).endswith(f" {sort}")), None)
                return (self.lists(answer, sort), self.is_list(answer, marks)) if sort else (False, False)
        lead = re.match(self.any_of([lead for lead in self.of["leads"] if lead]), body)
        asked = body[lead.end():] if lead else body
        facts = [self.questions.get(capitalised(question)) for question in asked.split(", and ")]
        return (self.facts_hold(answer, facts), self.are_facts(answer, facts)) if all(facts) else (False, False)

    def verdict(self, prompt, answer):
        right, well_formed = self.judge(prompt, answer)
        polite = not any(phrase in answer for phrase in self.rude)
        held = {"right": right, "polite": polite, "well_formed": well_formed}
        return {"score": sum(held.values()) / 3, **held, "perfect": all(held.values())}


def text(content):
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def main():
    rules = Rules(sys.argv[1])
    for line in sys.stdin:
        row = json.loads(line)
        prompt = next((text(turn["content"]) for turn in reversed(row["prompt"]) if turn["role"] == "user"), "")
        print(json.dumps(rules.verdict(prompt, row["answer"])))


if __name__ == "__main__":
    main()
