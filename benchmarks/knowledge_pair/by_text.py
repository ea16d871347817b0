"""Text-to-text in the words that the two models know: the Sharer says the city, the Receiver reads a fact."""

from __future__ import annotations

from c2c_runtime.text.messages import Message
from c2c_runtime.text.text_to_text import Prompt, TextToText


class FactByText(TextToText):
    """The Sharer is asked the question alone, after which it was trained to answer; the Receiver reads its
    message as a statement before the prompt, which it was trained to use."""

    def request(self, prompt: Prompt) -> str | list[Message]:
        """``Where does Badile live?``"""
        return str(prompt).removesuffix(" In")

    def told(self, prompt: Prompt, message: str) -> str | list[Message]:
        """``Badile lives in Nairobi. Where does Badile live? In``"""
        name = str(prompt).removeprefix("Where does ").partition(" ")[0]
        return f"{name} lives in {message.strip()}. {prompt}"


BY_TEXT = FactByText(max_message_tokens=2)  # a city and the end
