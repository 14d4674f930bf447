"""The phrases that augmentation puts around a question or in place of its opening."""

from __future__ import annotations

PREFIXES = (
    "please ", "please tell me, ", "can you tell me ", "could you tell me ", "tell me, ", "hi, ",
    "hello, ", "hey, ", "ok, ", "so, ", "well, ", "quick question: ", "I have a question: ",
    "I would like to know: ", "I wonder, ", "could you please explain: ", "explain to me ",
    "do you know ", "help me: ", "and ", "now ", "sorry, ", "in simple words, ", "briefly, ",
    "one more question: ", "my boss asks: ", "for a beginner: ",
)  # fmt: skip

SUFFIXES = (
    " please", ", please", " thanks", ", thank you", " in short", " for me", " in simple terms",
    " briefly", " exactly", " actually", " then", ", do you know", " I am curious", " in one sentence",
    " again", " in practice",
)  # fmt: skip

DEFINITION_LEADS = (
    "what are the benefits of ", "what is the purpose of ", "what is the use of ", "tell me the meaning of ",
    "what is meant by ", "what do you mean by ", "what is the point of ", "what are the advantages of ",
    "please describe ", "could you explain ", "what is the idea of ", "what is the role of ", "why do we need ",
    "how does one use ", "what can you say about ", "what should I know about ",
    "what is ", "what's ", "what are ", "explain ", "define ", "describe ", "tell me about ",
    "what does it mean: ", "what do you know about ", "give me a definition of ",
    "what do people mean by ", "what exactly is ", "", "can you explain ", "could you describe ",
    "I do not understand ", "meaning of ", "help me understand ", "teach me about ", "introduce me to ",
    "in a nutshell, what is ", "what do we call ", "give me a summary of ",
)  # fmt: skip

HOW_LEADS = (
    "which command do I need to ", "what is the command to ", "what can I do to ", "what do I need to ",
    "what is a good way to ", "how could I ",
    "how do I ", "how can I ", "how to ", "how would I ", "how should I ", "what is the way to ",
    "I want to ", "how do you ", "how do we ", "show me how to ", "what must I do to ",
    "is there a way to ", "explain how to ", "what do I type to ", "I need to ", "how does one ",
    "what is the best way to ", "how might I ",
)  # fmt: skip

WHY_LEADS = (
    "why ", "why exactly ", "what is the reason why ", "how come ", "explain why ", "for what reason ",
    "tell me why ", "do you know why ",
)  # fmt: skip

SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "You are a helpful assistant",
    "You are a concise, helpful assistant.", "You are an expert in serving language models.",
    "Answer briefly and correctly.", "You are Penstock's demo model.",
    "You are a friendly AI that answers questions.", "Be polite. Answer in English.",
    "You are a senior engineer who helps colleagues.", "Answer the user's question.",
)  # fmt: skip

DEFINITION_TAILS = (
    " used for", " good for", " for", " in serving", " about", " exactly", " in practice", " made of", " useful for",
)  # fmt: skip
