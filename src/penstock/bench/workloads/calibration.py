"""What is known of a server's tokens before the run: which words are one token each, and what a message adds."""

from __future__ import annotations

from enum import StrEnum

import msgspec

# Common English words of two to five letters. With the space before it each is one token of most vocabularies, and
# one of the simulated engine's, which are five bytes long.
_COMMON = """
able about above after again ago air all along also among and any area arm art ask away baby back ball bank
bar base beat bed been began being best big bird bit black blood blue board boat body bone book both box boy
bring build built but buy call came can car care case catch cause cell chair check chief child city class
clean clear close club cold color come cost could court cover cross cup cut dark data date day deal deep did
do dog door down draw dress drive drop dry early earth east easy eat edge egg else end enemy even event ever
every eye face fact fall far farm fast fear feel feet few field fill film final find fine fire firm first
fish fit five floor fly focus food foot for force form four free fresh front full fund game gas get girl
give glass go goal gold gone good got grand grass gray great green group grow guess hair half hand hard has
hat have head hear heart heat heavy held help here high hill him hit hold home hope horse hot hotel hour
house how human idea if image in into iron issue it job join just keep key kid kind king knew know land
large last late laugh law lay lead learn least leave left leg less let level life light like line list live
local long look lose loss lot love low made main make man many map mark may mean meet men might mile milk
mind mine model money month moon more most move much music must name near need never new news next night no
none nor north not note now ocean of off offer oil old on once one only open or order other our out over own
page pain paper park part party pass past pay peace phone pick piece place plan plant play point poor power
press price pull push put quick quite race radio rain ran range rate read real red rest rich ride right ring
rise river road rock role room rule run safe said salt same sand save say scale score sea seat see seem sell
send sense serve set seven shall shape share she ship shop short shot show side sign since sing sit six size
skin sky sleep small smile snow so soft soil sold some son song soon sort sound south space speak speed
spend stage stand star start state stay step still stock stone stood stop store story study such sun sure
table take talk tall task teach team tell ten term test than that the their them then there these they thing
think this those three time to today told too took top total touch town trade train tree trial trip truck
true try turn two type under unit until up upon us use value very view visit voice vote wait walk wall want
war warm was watch water wave way we week well went were west what wheel when where which while white who
whole why wide wife will win wind wine wish with woman wood word work world would write wrong yard year yes
yet you young your
"""
CANDIDATES = tuple(_COMMON.split())
# The first word of each text: it has no space before it, so it need not be the one token that the others are.
ANCHOR = "Please"
# Fewer words can't make enough different beginnings: with 16, two beginnings of 16 words are never equal.
WORDS_MIN = 16


class Source(StrEnum):
    """Who counted the tokens."""

    SERVER = "server"  # its own /tokenize
    LOCAL = "local"  # a tokenizer.json
    USAGE = "usage"  # the usage of a few requests before the run
    GUESS = "guess"  # nobody


class Calibration(msgspec.Struct, frozen=True):
    """How texts of an exact number of tokens are made.

    Args:
        source: who counted.
        words: they are one token each with the space before them, where `exact`.
        base_tokens: a request with a text of `ANCHOR` alone, tokens, with all that a chat template adds.
        turn_tokens: what an answer and a further message add, of `ANCHOR` alone both, tokens.
        tokens_per_word: 1 where `exact`; else the mean.
        exact: whether trial texts had the tokens that they should have.
        off_by: the largest difference between a trial text and its plan, tokens.
        context_tokens: prompt and answer together may not be longer; None where nobody said.
        ignore_eos: whether the server took a request with `ignore_eos`; None where it was not asked.
        chat: counted with the chat template.
        requests: how many requests it took.
        notes: what the reader of a report must know, in sentences.
    """

    source: Source = Source.GUESS
    words: tuple[str, ...] = CANDIDATES
    base_tokens: int = 1
    turn_tokens: int = 2
    tokens_per_word: float = 1.0
    exact: bool = False
    off_by: int | None = None
    context_tokens: int | None = None
    ignore_eos: bool | None = None
    chat: bool = True
    requests: int = 0
    notes: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether somebody counted."""
        return self.source is not Source.GUESS

    def words_for(self, tokens: int, turns: int = 0) -> int:
        """How many words after the anchor make a prompt of `tokens` tokens, `turns` turns before it; at least 0."""
        room = tokens - self.base_tokens - turns * self.turn_tokens
        return max(0, room if self.tokens_per_word == 1.0 else round(room / self.tokens_per_word))

    def words_in(self, tokens: int) -> int:
        """How many words after its anchor a later text of `tokens` tokens has; at least 0."""
        return max(0, round((tokens - 1) / self.tokens_per_word))

    def tokens_of(self, words: int, turns: int = 0) -> int:
        """The tokens of a prompt that has so many words beside its anchors."""
        more = words if self.tokens_per_word == 1.0 else round(words * self.tokens_per_word)
        return self.base_tokens + turns * self.turn_tokens + more

    def describe(self) -> str:
        """How exact the lengths of prompts are, in a sentence."""
        by = {
            Source.SERVER: "the server's own /tokenize",
            Source.LOCAL: "a local tokenizer",
            Source.USAGE: f"the usage of {self.requests} requests before the run",
            Source.GUESS: "nobody",
        }[self.source]
        if not self.known:
            return "Prompts have about one token a word; nobody counted them beforehand, so their lengths are guesses."
        if self.exact:
            return f"Prompts have the exact number of tokens that was asked for, as counted by {by}."
        off = "" if self.off_by is None else f"; trial texts were up to {self.off_by} tokens off"
        return f"Prompts have about the number of tokens that was asked for, as counted by {by}{off}."
