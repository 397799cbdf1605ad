"""Generate the example preference data.

    python examples/generate.py

The same input always gives the same bytes. Each pair asks about one topic of
`source/*_topics.txt`. The chosen reply answers the question, the rejected reply has one of the
defects in `DEFECTS`. Both consist of the same kinds of sentences. The chosen reply is the longer
one in half of the pairs of each defect, so that the length does not indicate the label.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

HERE = Path(__file__).parent
FILES = {"training": "preferences.jsonl", "heldout": "heldout.jsonl"}
PAIRS_PER_TOPIC = 5
DEFECTS = (
    "hedge", "rude", "off_topic", "refer", "reversal", "anecdote", "sales", "parrot", "reckless",
)  # fmt: skip
MAX_LENGTH_GAP = 0.2  # as a share of the longer reply, in characters
#: Characters. Replies of similar length need little padding and train fast on a CPU.
REPLY_LENGTHS = range(100, 231)

Message = dict[str, str]
Pair = dict[str, list[Message]]


@dataclass(frozen=True)
class Topic:
    """One task: the question and its situation, correct steps, their reason, and bad advice."""

    area: str
    ask: str
    situation: str
    steps: tuple[str, ...]
    reason: str
    bad_advice: str


def main() -> None:
    for half, name in FILES.items():
        (HERE / name).write_text(render(half), encoding="utf-8", newline="\n")


def render(half: str) -> str:
    """Return the JSON lines of one file; `half` is "training" or "heldout"."""
    return "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in make_pairs(half))


def make_pairs(half: str) -> list[Pair]:
    """Return the shuffled pairs of one half; each value is a list of {role, content}."""
    topics = list(read_topics(HERE / "source" / f"{half}_topics.txt"))
    phrases = tomllib.loads((HERE / "source" / "phrases.toml").read_text(encoding="utf-8"))[half]
    writer = Writer(Random(f"plaudit {half}"), topics, phrases)
    pairs = [
        # The chosen reply is the longer one in every other block of len(DEFECTS) pairs.
        writer.pair(topic, DEFECTS[i % len(DEFECTS)], chosen_longer=i // len(DEFECTS) % 2 == 0)
        for i, topic in enumerate(topics * PAIRS_PER_TOPIC)
    ]
    writer.rng.shuffle(pairs)
    return pairs


def read_topics(path: Path) -> Iterator[Topic]:
    """Read lines marked `#` area, `?` task, `~` situation, `-` step, `=` reason, `!` bad advice.

    The bad advice is the last line of a topic. An area applies until the next area.
    """
    area, lines = "", dict[str, list[str]]()
    for line in filter(None, path.read_text(encoding="utf-8").splitlines()):
        mark, text = line.split(" ", 1)
        if mark == "#":
            area = text
            continue
        lines.setdefault(mark, []).append(text)
        if mark == "!":
            yield Topic(area, lines["?"][0], lines["~"][0], tuple(lines["-"]), lines["="][0], text)
            lines = {}


class Writer:
    """Writes pairs from the topics and phrases of one half, with distinct prompts."""

    def __init__(self, rng: Random, topics: list[Topic], phrases: dict[str, list[str]]) -> None:
        self.rng = rng
        self._topics = topics
        self._phrases = phrases
        self._prompts = set[str]()

    def pair(self, topic: Topic, defect: str, *, chosen_longer: bool) -> Pair:
        """Write one pair: replies are drawn again until their lengths fit."""
        prompt = self._prompt(topic)
        while True:
            chosen, rejected = self._good(topic), self._bad(topic, defect)
            letters = len(chosen) - len(rejected)
            words = len(chosen.split()) - len(rejected.split())
            # The order must be the same in characters and in words.
            if (letters > 0, words > 0, letters < 0, words < 0) != (
                (True, True, False, False) if chosen_longer else (False, False, True, True)
            ):
                continue
            if len(chosen) not in REPLY_LENGTHS or len(rejected) not in REPLY_LENGTHS:
                continue
            if abs(letters) <= MAX_LENGTH_GAP * max(len(chosen), len(rejected)):
                break
        return {
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }

    def _prompt(self, topic: Topic) -> list[Message]:
        while True:
            question = self.rng.choice(self._phrases["questions"]).format(ask=topic.ask)
            text = self.rng.choice(
                [question, f"{topic.situation} {question}", f"{question} {topic.situation}"]
            )
            if text not in self._prompts:
                break
        self._prompts.add(text)
        if self.rng.random() > 0.15:
            return [{"role": "user", "content": text}]
        return [
            {"role": "user", "content": f"Hi, I have a question about {topic.area}."},
            {"role": "assistant", "content": "Hello! What would you like to know?"},
            {"role": "user", "content": text},
        ]

    def _good(self, topic: Topic) -> str:
        count = self.rng.choice([2, 3, 3, 4])
        body = [self._steps(topic, count)]
        if self.rng.random() < 0.5:
            body.append(topic.reason)
        if self.rng.random() < 0.6:
            body.insert(self.rng.choice([0, len(body)]), self._say("useful", topic))
        return self._frame(topic, body)

    def _bad(self, topic: Topic, defect: str) -> str:
        match defect:
            case "off_topic":
                other = self.rng.choice([t for t in self._topics if t.area != topic.area])
                return self._good(other)
            case "reversal":
                body = [self._steps(topic, self.rng.choice([1, 2, 3]))]
                body.append(self._say("reversal", topic))
                if self.rng.random() < 0.5:
                    body.append(topic.bad_advice)
            case "reckless":
                body = [topic.bad_advice, *self._some("reckless", topic, 1, 2)]
                self.rng.shuffle(body)
                if self.rng.random() < 0.5:
                    body.insert(0, self._steps(topic, self.rng.choice([1, 2])))
            case _:
                body = self._some(defect, topic, 2, 4)
                # Rejected replies contain good sentences too, so that these do not give the label.
                if self.rng.random() < 0.4:
                    body.insert(self.rng.randint(0, len(body)), self._steps(topic, 1))
                if self.rng.random() < 0.25:
                    body.append(self._say("useful", topic))
        return self._frame(topic, body)

    def _frame(self, topic: Topic, body: list[str]) -> str:
        if self.rng.random() < 0.4:
            body = [self._say("openers", topic), *body]
        if self.rng.random() < 0.3:
            body = [*body, self._say("closers", topic)]
        return re.sub(r" ?\n ?", "\n", " ".join(body)).strip()

    def _steps(self, topic: Topic, count: int) -> str:
        """Return `count` steps in order, as prose, as linked sentences or as a numbered list."""
        steps = [topic.steps[i] for i in sorted(self.rng.sample(range(len(topic.steps)), count))]
        style = self.rng.choice(["prose", "prose", "linked", "list"])
        if count == 1 or style == "prose":
            return " ".join(steps)
        if style == "list":
            return "\n" + "\n".join(f"{i}. {step}" for i, step in enumerate(steps, 1)) + "\n"
        links = ["First,", *(self.rng.choice(["Then", "Next,", "After that,"]) for _ in steps[2:])]
        links.append("Finally,")
        return " ".join(
            f"{link} {step[0].lower()}{step[1:]}" for link, step in zip(links, steps, strict=True)
        )

    def _some(self, kind: str, topic: Topic, low: int, high: int) -> list[str]:
        sentences = self.rng.sample(self._phrases[kind], self.rng.randint(low, high))
        return [self._fill(sentence, topic) for sentence in sentences]

    def _say(self, kind: str, topic: Topic) -> str:
        return self._fill(self.rng.choice(self._phrases[kind]), topic)

    def _fill(self, sentence: str, topic: Topic) -> str:
        ask = re.sub(r"\b(my|me|I)\b", lambda m: "your" if m[0] == "my" else "you", topic.ask)
        return sentence.format(ask=ask, area=topic.area)


if __name__ == "__main__":
    main()
