"""The tiny policy's text tokenizer: a byte-level BPE trained here, shipped as ``tokenizer.json``.

Any text can be encoded (bytes are its alphabet), so an unseen paraphrase is readable. The constant
parts of the prompt are single tokens. Rebuild with ``python -m vlarl.policies.tiny.tokenizer``.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

PROMPT_START = "In: What action should the robot take to"
PROMPT_END = "?\nOut:"
BOS, PAD = "<s>", "<pad>"
VOCABULARY_SIZE = 768
_FILE = Path(__file__).with_name("tokenizer.json")

# The words of household manipulation, apart by bars.
_VERBS = (
    "pick up|grasp|lift|move|take|get|bring|push|slide|nudge|pull|open|close|turn on|turn off|press|touch|reach|"
    "stack|place|put|set|drop|insert|rotate|hold|carry|drag|point to|go to|move to|hover over"
)
_COLOURS = "red|green|blue|yellow|orange|purple|pink|black|white|grey|brown|small|large|left|right|front|back"
_THINGS = (
    "cube|block|box|bowl|plate|mug|cup|bottle|can|soup|sauce|cheese|butter|milk|juice|drawer|cabinet|door|handle|"
    "button|stove|basket|tray|rack|book|caddy|microwave|pan|pot|zone|target|square|area|table|ball|cylinder|lid|"
    "knob|switch|wine bottle|cream cheese|salad dressing|tomato sauce|chocolate pudding|moka pot|frying pan"
)
_PLACES = (
    "on|onto|on top of|in|into|inside|under|next to|near|to|to the left of|to the right of|between|behind|"
    "in front of|at|over|toward|towards|away from|from"
)
_TAILS = "and then|then|and|with|until|of|it|both|first|second|middle|bottom|top|the robot arm|one|other"


def prompt(instruction: str) -> str:
    """The exact prompt OpenVLA was trained with."""
    return f"{PROMPT_START} {instruction.lower()}{PROMPT_END}"


@cache
def load_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(_FILE))


def encode_prompt(instruction: str) -> list[int]:
    """Token ids of the prompt, BOS first."""
    tokenizer = load_tokenizer()
    begin = tokenizer.token_to_id(BOS)
    assert begin is not None, "the shipped vocabulary has it"
    return [begin, *tokenizer.encode(prompt(instruction), add_special_tokens=False).ids]


def _corpus() -> list[str]:
    """Household manipulation sentences, so that common words become single tokens."""
    verbs, colours, things, places, tails = (words.split("|") for words in (_VERBS, _COLOURS, _THINGS, _PLACES, _TAILS))
    sentences = [f"{verb} the {colour} {thing}" for verb, colour, thing in product(verbs, colours, things)]
    sentences += [
        f"{place} the {thing} {tail} {verb}" for place, thing, tail, verb in product(places, things, tails, verbs[:8])
    ]
    return sentences


def build_tokenizer() -> Tokenizer:
    """Train the tokenizer from the corpus; deterministic."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    fixed = [PROMPT_START, PROMPT_END]
    trainer = BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(fixed),
        special_tokens=[PAD, BOS],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in fixed])
    return tokenizer


if __name__ == "__main__":
    build_tokenizer().save(str(_FILE))
