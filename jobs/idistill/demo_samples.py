"""Small tasks of twelve families, generated: pools and targets for demonstrations."""

from collections.abc import Callable
from random import Random

POOL_PER_FAMILY = 100
TARGET_SIZE = 20

NAMES = "Ada Ben Chloe David Elena Farid Grace Hugo Ines Jonas Kira Liam Mona Nils Olga Pedro".split()
FRUITS = "apples pears plums figs lemons cherries peaches mangoes melons grapes".split()
WORDS = (
    "river candle forest marble window garden silver thunder basket pepper rocket velvet anchor butter copper dragon "
    "falcon hammer island jacket kettle ladder magnet needle orange pencil quartz ribbon saddle temple umbrella valley "
    "walnut yellow zipper blanket curtain diamond feather lantern"
).split()
CAPITALS = {
    "Austria": ("Vienna", "Europe"), "Belgium": ("Brussels", "Europe"), "Canada": ("Ottawa", "North America"),
    "Chile": ("Santiago", "South America"), "Cuba": ("Havana", "North America"), "Egypt": ("Cairo", "Africa"),
    "Finland": ("Helsinki", "Europe"), "France": ("Paris", "Europe"), "Ghana": ("Accra", "Africa"),
    "Greece": ("Athens", "Europe"), "Hungary": ("Budapest", "Europe"), "India": ("New Delhi", "Asia"),
    "Iraq": ("Baghdad", "Asia"), "Ireland": ("Dublin", "Europe"), "Italy": ("Rome", "Europe"),
    "Japan": ("Tokyo", "Asia"), "Jordan": ("Amman", "Asia"), "Kenya": ("Nairobi", "Africa"),
    "Lebanon": ("Beirut", "Asia"), "Mali": ("Bamako", "Africa"), "Mongolia": ("Ulaanbaatar", "Asia"),
    "Morocco": ("Rabat", "Africa"), "Nepal": ("Kathmandu", "Asia"), "Norway": ("Oslo", "Europe"),
    "Oman": ("Muscat", "Asia"), "Peru": ("Lima", "South America"), "Poland": ("Warsaw", "Europe"),
    "Portugal": ("Lisbon", "Europe"), "Qatar": ("Doha", "Asia"), "Romania": ("Bucharest", "Europe"),
    "Senegal": ("Dakar", "Africa"), "Spain": ("Madrid", "Europe"), "Sweden": ("Stockholm", "Europe"),
    "Thailand": ("Bangkok", "Asia"), "Tunisia": ("Tunis", "Africa"), "Uganda": ("Kampala", "Africa"),
    "Uruguay": ("Montevideo", "South America"), "Vietnam": ("Hanoi", "Asia"), "Yemen": ("Sanaa", "Asia"),
    "Zambia": ("Lusaka", "Africa"),
}  # fmt: skip
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
UNITS = [
    ("kilometres", "metres", 1000), ("metres", "centimetres", 100), ("hours", "minutes", 60),
    ("minutes", "seconds", 60), ("kilograms", "grams", 1000), ("days", "hours", 24), ("weeks", "days", 7),
    ("litres", "millilitres", 1000),
]  # fmt: skip
REVIEWS = {
    "positive": ["I would buy it again", "it works better than I hoped", "my family loves it", "worth every cent"],
    "negative": ["it broke after a week", "I want my money back", "the quality is terrible", "a real disappointment"],
}
FRENCH = {
    "cat": "chat", "dog": "chien", "horse": "cheval", "bird": "oiseau", "baker": "boulanger", "doctor": "médecin",
    "teacher": "professeur", "king": "roi", "child": "enfant", "neighbour": "voisin",
}  # fmt: skip
FRENCH_VERBS = {"sees": "voit", "follows": "suit", "hears": "entend", "looks for": "cherche"}


def arithmetic(rng: Random) -> tuple[str, str]:
    name, fruit = rng.choice(NAMES), rng.choice(FRUITS)
    boxes, each, eaten = rng.randint(3, 12), rng.randint(4, 15), rng.randint(2, 11)
    total = boxes * each
    return (
        f"{name} buys {boxes} boxes with {each} {fruit} each and gives {eaten} {fruit} away. How many are left?",
        f"{name} has {boxes} * {each} = {total} {fruit} at first. After giving {eaten} away, "
        f"{total} - {eaten} = {total - eaten} are left. The answer is {total - eaten}.",
    )


def code_tracing(rng: Random) -> tuple[str, str]:
    start, step, rounds = rng.randint(0, 9), rng.randint(2, 9), rng.randint(3, 5)
    values = [start + step * (i + 1) for i in range(rounds)]
    trace = "\n".join(f"i = {i}: x = {value}" for i, value in enumerate(values))
    return (
        f"What does this Python program print?\n\nx = {start}\nfor i in range({rounds}):\n    x = x + {step}\nprint(x)",
        f"x starts at {start}. The loop body runs {rounds} times:\n{trace}\nThe program prints {values[-1]}.",
    )


def sorting(rng: Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(5, 7))
    return (
        f"Sort these words alphabetically: {', '.join(words)}",
        ", ".join(sorted(words)),
    )


def string_editing(rng: Random) -> tuple[str, str]:
    words = rng.sample(WORDS, 4)
    edit, result = rng.choice(
        [
            ("Write in capital letters", " ".join(words).upper()),
            ("Join with hyphens", "-".join(words)),
            ("Reverse the order of the words of", " ".join(reversed(words))),
            ("Put quotation marks around every word of", " ".join(f'"{word}"' for word in words)),
        ]
    )
    return f"{edit}: {' '.join(words)}", result


def table_lookup(rng: Random) -> tuple[str, str]:
    names = rng.sample(NAMES, 4)
    cities = rng.sample([capital for capital, _ in CAPITALS.values()], 4)
    ages = [rng.randint(18, 79) for _ in names]
    asked = rng.randrange(4)
    rows = "\n".join(f"| {name} | {city} | {age} |" for name, city, age in zip(names, cities, ages))
    table = f"| name | city | age |\n|---|---|---|\n{rows}"
    return (
        f"{table}\n\nWhere does {names[asked]} live, and how old is {names[asked]}?",
        f"According to the table, {names[asked]} lives in {cities[asked]} and is {ages[asked]} years old.",
    )


def facts(rng: Random) -> tuple[str, str]:
    country = rng.choice(list(CAPITALS))
    capital, continent = CAPITALS[country]
    return rng.choice(
        [
            (f"What is the capital of {country}?", f"The capital city of {country} is {capital}."),
            (f"Which country has {capital} as its capital?", f"{capital} is the capital city of {country}."),
            (f"On which continent is {country}?", f"{country} is a country in {continent}."),
            (f"Name {country}'s capital and continent.", f"{country} lies in {continent}; its capital is {capital}."),
        ]
    )


def unit_conversion(rng: Random) -> tuple[str, str]:
    large, small, factor = rng.choice(UNITS)
    amount = rng.randint(2, 60)
    return (
        f"Convert {amount} {large} to {small}.",
        f"There are {factor} {small} to each of the {large}, so {amount} {large} are {amount * factor} {small}.",
    )


def weekdays(rng: Random) -> tuple[str, str]:
    today, ahead = rng.randrange(7), rng.randint(2, 40)
    weeks, rest = divmod(ahead, 7)
    return (
        f"Today is {DAYS[today]}. Which day of the week is it in {ahead} days?",
        f"{ahead} days are {weeks} full weeks and {rest} days. Counting {rest} days on from {DAYS[today]} gives "
        f"{DAYS[(today + ahead) % 7]}.",
    )


def letter_counting(rng: Random) -> tuple[str, str]:
    first, second = rng.sample(WORDS, 2)
    letter = rng.choice(first)
    count = (first + second).count(letter)
    spelled = " ".join(f"{first} {second}".replace(" ", "_"))
    return (
        f'How often does the letter "{letter}" occur in "{first} {second}"?',
        f'Spelled out: {spelled}. The letter "{letter}" occurs {count} time{"s" if count > 1 else ""}.',
    )


def sentiment(rng: Random) -> tuple[str, str]:
    feeling = rng.choice(list(REVIEWS))
    comment, thing = rng.choice(REVIEWS[feeling]), rng.choice(WORDS)
    return (
        f'Is this review positive or negative? "I ordered the {thing} for {rng.choice(NAMES)}, and {comment}."',
        f'The review is {feeling}, because the customer says "{comment}".',
    )


def translation(rng: Random) -> tuple[str, str]:
    subject, thing = rng.sample(list(FRENCH), 2)
    verb = rng.choice(list(FRENCH_VERBS))
    return (
        f"Translate into French: The {subject} {verb} the {thing}.",
        f"{_french(subject).capitalize()} {FRENCH_VERBS[verb]} {_french(thing)}.",
    )


def _french(noun: str) -> str:
    french = FRENCH[noun]
    return f"l'{french}" if french[0] in "aeiou" else f"le {french}"


def letter_writing(rng: Random) -> tuple[str, str]:
    sender, receiver = rng.sample(NAMES, 2)
    thing, day = rng.choice(WORDS), rng.choice(DAYS)
    return (
        f"Write a short letter from {sender} to {receiver}, thanking for the {thing} that came on {day}.",
        f"Dear {receiver},\n\nthank you very much for the beautiful {thing}, which arrived on {day}. It made me very "
        f"happy, and I hope to see you again soon.\n\nWith warm regards,\n{sender}",
    )


FAMILIES: dict[str, Callable[[Random], tuple[str, str]]] = {
    family.__name__: family
    for family in (
        arithmetic, code_tracing, sorting, string_editing, table_lookup, facts, unit_conversion, weekdays,
        letter_counting, sentiment, translation, letter_writing,
    )
}  # fmt: skip


def generate(seed: int, targets: list[str]) -> tuple[list[dict], dict[str, list[dict]]]:
    """The pool, and the samples of each target."""
    pool, target_samples = [], {}
    for family in FAMILIES:
        rng = Random(f"{seed} {family}")
        asked: dict[str, str] = {}  # no question twice, so no target sample is in the pool
        while len(asked) < POOL_PER_FAMILY + TARGET_SIZE:
            question, answer = FAMILIES[family](rng)
            asked.setdefault(question, answer)
        samples = [
            {
                "id": f"{family}-{number:04}",
                "source": family,
                "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            }
            for number, (question, answer) in enumerate(asked.items())
        ]
        pool += samples[:POOL_PER_FAMILY]
        if family in targets:
            target_samples[family] = samples[POOL_PER_FAMILY:]
    Random(seed).shuffle(pool)
    return pool, target_samples
